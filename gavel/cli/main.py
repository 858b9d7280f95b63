"""The `gavel` command."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from benchmarks.cli.main import bench_app
from gavel.cli.aws import aws_app
from gavel.cli.buyers import buyers_app
from gavel.cli.catalog import catalog_app
from gavel.cli.config import config_app
from gavel.cli.cost import cost
from gavel.cli.distill import distill_app
from gavel.cli.embed import embed
from gavel.cli.evaluate import compare, evaluate
from gavel.cli.events import events_app
from gavel.cli.export import export_app
from gavel.cli.index import index_app
from gavel.cli.items import items_app
from gavel.cli.node import down, up
from gavel.cli.release import release_app
from gavel.cli.sanity import sanity
from gavel.cli.serve import serve
from gavel.cli.status import status
from gavel.cli.towers import encode, towers_app
from gavel.cli.train import train
from gavel.cli.train_towers import adapt, mine
from gavel.cli.train_users_items import recommend
from gavel.cli.try_lots import try_lots
from gavel.cli.tune import tune_app
from gavel.workspace.config_file import use_config
from gavel.workspace.console import show_answer
from gavel.workspace.entry import EXIT_CUT, run_command, say
from gavel.workspace.options import Json, QueryTower, Seed, print_json
from retrieval.config.settings import QueryExpansion, Settings
from retrieval.contracts.items import parse_time
from retrieval.errors import GavelError
from retrieval.index.filters import BlockList, Filter, parse_attribute_filters
from retrieval.index.fusion import Fusion
from retrieval.search.diversification import Diversity
from retrieval.search.service import Mode, SearchRequest, SearchService

JOURNEY = {  # panel of `gavel --help` -> its commands, in the order in which a user meets them
    "Start": ("try", "demo", "status", "search", "serve"),
    "Data": ("catalog", "events", "buyers", "embed", "index", "release", "items", "export"),
    "Models": ("train", "adapt", "mine", "distill", "tune", "towers", "encode", "recommend"),
    "Measure": ("evaluate", "compare", "sanity", "bench"),
    "Operate": ("config", "up", "down", "aws", "cost"),
}


class _InOrder(TyperGroup):
    """A command group that lists its commands as JOURNEY does."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in JOURNEY.values() for name in names]


app = typer.Typer(cls=_InOrder, no_args_is_help=True, pretty_exceptions_enable=False, help="Find the auction lots to look at.")
GROUPS = {
    "aws": aws_app,
    "bench": bench_app,
    "buyers": buyers_app,
    "catalog": catalog_app,
    "config": config_app,
    "distill": distill_app,
    "events": events_app,
    "export": export_app,
    "index": index_app,
    "items": items_app,
    "release": release_app,
    "towers": towers_app,
    "tune": tune_app,
}
COMMANDS = (embed, serve, up, down, train, adapt, evaluate, compare, sanity, encode, mine, recommend, cost, status)


def _panel(name: str) -> str:
    return next(panel for panel, names in JOURNEY.items() if name in names)


for group_name, group in GROUPS.items():
    app.add_typer(group, name=group_name, rich_help_panel=_panel(group_name))
for command in COMMANDS:
    app.command(rich_help_panel=_panel(command.__name__))(command)
app.command("try", rich_help_panel=_panel("try"))(try_lots)

PROMPT = "search> "


@app.callback()
def settings(
    config: Annotated[Path | None, typer.Option("--config", help="Settings file; GAVEL_CONFIG or ./gavel.toml by default.")] = None,
) -> None:
    """Find the auction lots to look at."""
    use_config(config)


@app.command(rich_help_panel=_panel("demo"))
def demo(
    catalog: Annotated[str, typer.Option(help="synthetic, or grocery (real shop photos).")] = "synthetic",
    data: Annotated[Path | None, typer.Option(help="Folder of the Grocery Store Dataset, for --catalog grocery.")] = None,
    lots: Annotated[int, typer.Option(min=50, help="Size of the synthetic catalogue.")] = 2_000,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Make a catalogue, train towers and re-ranker, embed, index, search and measure."""
    from gavel.cli.demo import Demo, Plan, show_report

    run = Demo(Settings.from_env(), Plan(catalog, data, lots, seed))
    result = run.run()
    print_json(result.to_dict()) if as_json else show_report(run)
    if result.cut:
        raise typer.Exit(EXIT_CUT)


@app.command(rich_help_panel=_panel("search"))
def search(
    query: Annotated[str | None, typer.Argument(help="Query; without one a prompt opens, `quit` leaves it.")] = None,
    photo: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Find lots that look like this JPEG, PNG or WebP; the query adds words to it."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of lots, 1 to 100.")] = 10,
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="Retrieval mode: hybrid (vectors and words), semantic (vectors) or keyword (words); hybrid by default, or keyword "
            "if the tower's training recommends it."
        ),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Only this category, and those below it; may be repeated, for any of them.")
    ] = None,
    not_category: Annotated[list[str] | None, typer.Option(help="Not this category; may be repeated.")] = None,
    brand: Annotated[list[str] | None, typer.Option(help="Only this brand; may be repeated, for any of them.")] = None,
    not_brand: Annotated[list[str] | None, typer.Option(help="Not this brand; may be repeated.")] = None,
    seller: Annotated[list[str] | None, typer.Option(help="Only this seller; may be repeated, for any of them.")] = None,
    not_seller: Annotated[list[str] | None, typer.Option(help="Not this seller; may be repeated.")] = None,
    min_price: Annotated[float | None, typer.Option(help="Only lots at this price or above.")] = None,
    max_price: Annotated[float | None, typer.Option(help="Only lots at this price or below.")] = None,
    min_seller_rating: Annotated[float | None, typer.Option(help="Only sellers rated at least this, 0 to 5.")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="Only lots with this attribute, as colour:red, or size:40..44 for numbers; may be repeated."),
    ] = None,
    not_attribute: Annotated[list[str] | None, typer.Option(help="No lots with this attribute; may be repeated.")] = None,
    min_bids: Annotated[int | None, typer.Option(help="Only lots with so many bids or more.")] = None,
    max_bids: Annotated[int | None, typer.Option(help="Only lots with so many bids or fewer.")] = None,
    has_photo: Annotated[bool | None, typer.Option("--has-photo/--no-photo", help="Only lots with a photo, or without.")] = None,
    listed_after: Annotated[str | None, typer.Option(help="Only lots listed then or later, as 2026-11-21T20:00:00Z.")] = None,
    ends_after: Annotated[str | None, typer.Option(help="Only lots whose auction ends then, later or never.")] = None,
    ends_before: Annotated[str | None, typer.Option(help="Only lots whose auction ends then or earlier.")] = None,
    rerank: Annotated[bool, typer.Option(help="Let the re-ranker order the answer.")] = True,
    fusion: Annotated[
        str, typer.Option(help="rrf, min_max or l2, with optional weights, such as min_max:0.7,0.3; as tuned by default.")
    ] = "",
    diversity: Annotated[float, typer.Option(help="Strength of diversification among the best lots, 0 to 1.")] = 0.0,
    most_per_brand: Annotated[int | None, typer.Option(help="Most lots of one brand; further ones come last.")] = None,
    most_per_seller: Annotated[int | None, typer.Option(help="Most lots of one seller; further ones come last.")] = None,
    most_per_category: Annotated[int | None, typer.Option(help="Most lots of one category; further ones come last.")] = None,
    tower: Annotated[str, typer.Option(help="Refuse to search an index of another tower_id.")] = "",
    query_tower: QueryTower = None,
    cross_encoder: Annotated[
        str, typer.Option(help="Cross-encoder that orders the best lots, hub name or folder; GAVEL_CROSS_ENCODER by default.")
    ] = "",
    expansion: Annotated[
        QueryExpansion | None,
        typer.Option(help="Words of the best keyword matches widen the search; GAVEL_QUERY_EXPANSION by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find lots; auctions that have ended never come back."""
    from gavel.workspace.wiring import recommended_mode, search_service

    settings, fused = Settings.from_env(), Fusion.parse(fusion) if fusion else None
    filters = Filter(
        categories=tuple(category or ()),
        brands=tuple(brand or ()),
        sellers=tuple(seller or ()),
        min_price=min_price,
        max_price=max_price,
        min_seller_rating=min_seller_rating,
        min_bids=min_bids,
        max_bids=max_bids,
        has_photo=has_photo,
        listed_after=parse_time("listed_after", listed_after),
        ends_after=parse_time("ends_after", ends_after),
        ends_before=parse_time("ends_before", ends_before),
        attributes=parse_attribute_filters(attribute or ()),
        not_attributes=parse_attribute_filters(not_attribute or ()),
        blocked=BlockList(
            sellers=frozenset(not_seller or ()), categories=frozenset(not_category or ()), brands=frozenset(not_brand or ())
        ),
    )
    diversify = Diversity(diversity, most_per_brand, most_per_seller, most_per_category)
    tower_kind = query_tower or settings.query_tower
    settings = replace(
        settings,
        tower_id=tower or settings.tower_id,
        query_tower=tower_kind,
        cross_encoder=cross_encoder or settings.cross_encoder,
        query_expansion=expansion or settings.query_expansion,
    )
    service = search_service(settings)
    mode = mode or ("hybrid" if photo or fused else recommended_mode(settings))

    def run_query(text: str) -> None:
        request = SearchRequest(text, k, mode, filters, rerank, fusion=fused, diversity=diversify)
        _answer(service, request, as_json, photo)

    if query is not None or photo is not None:
        run_query(query or "")
        return
    service.live()  # reports a missing index before the prompt, not after the first query
    while (text := _prompt(as_json)) is not None:
        try:
            run_query(text)
        except GavelError as error:
            say(str(error))


def _read(photo: Path) -> bytes:
    from retrieval.encoders.photos import read_photo_file  # brings Pillow

    return read_photo_file(photo.resolve())


def _answer(service: SearchService, request: SearchRequest, as_json: bool, photo: Path | None = None) -> None:
    answer = service.search(request) if photo is None else service.search_image(_read(photo), request)
    title = " + ".join(part for part in (photo.name if photo else "", request.query) if part)
    print_json(answer.to_dict()) if as_json else show_answer(title, answer)


def _prompt(as_json: bool) -> str | None:
    """Return the next non-empty line, or None at `quit` or the end of the input. With JSON, the prompt goes to stderr."""
    while True:
        try:
            if as_json:
                print(PROMPT, end="", file=sys.stderr, flush=True)
            text = input("" if as_json else PROMPT).strip()
        except EOFError:
            return None
        if text.lower() in ("quit", "exit"):
            return None
        if text:
            return text


def main() -> None:
    """Run the command line."""
    run_command(app)


if __name__ == "__main__":
    main()
