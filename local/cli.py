"""The `gavel` command."""

import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from local.catalog_commands import catalog_app
from local.command_options import Json, Seed, print_json, report
from local.console import console, notes, progress, show_answer
from local.evaluation_commands import compare, evaluate
from local.home import Home
from local.training_commands import mine, train
from retrieval.errors import GavelError, InvalidInput
from retrieval.index.base import Filter
from retrieval.search import Mode, SearchRequest, SearchService
from retrieval.settings import Settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Find the auction lots to look at.")
app.add_typer(catalog_app, name="catalog")
app.command()(train)
app.command()(evaluate)
app.command()(compare)
app.command()(mine)

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@app.command()
def demo(
    catalog: Annotated[str, typer.Option(help="synthetic, or grocery (real shop photos).")] = "synthetic",
    data: Annotated[Path | None, typer.Option(help="Folder of the Grocery Store Dataset, for --catalog grocery.")] = None,
    lots: Annotated[int, typer.Option(min=50, help="Size of the synthetic catalogue.")] = 2_000,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Make a catalogue, train towers and re-ranker, embed, index, search and measure."""
    from local.demo import Demo, Plan, show_report

    run = Demo(Settings.from_env(), Plan(catalog, data, lots, seed))
    made = run.run()
    print_json(made.to_dict()) if as_json else show_report(run)


@app.command()
def embed(
    source: Annotated[
        Path | None, typer.Argument(help="Catalogue file or folder of them; the newest catalogue by default.")
    ] = None,
    tower: Annotated[str | None, typer.Option(help="tower_id; the newest tower by default.")] = None,
    release: Annotated[str | None, typer.Option(help="release_id; made from tower and input by default.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode photos; 0 decodes in this one.")] = 0,
    as_json: Json = False,
) -> None:
    """Embed lots into a release: bulk files with vectors, and the rows that were set aside."""
    from catalog.folder import CatalogFolder
    from local import pipeline
    from retrieval.item_files import find_item_files
    from retrieval.release import REJECTS_FILE, load_release

    home = Home(Settings.from_env())
    inputs = find_item_files(source) if source else CatalogFolder.load(home.catalog(None)).item_files()
    with progress("embed lots") as step:
        folder = pipeline.embed(home, inputs, home.tower(tower), release_id=release, workers=workers, progress=step)
    manifest = load_release(folder)
    rejected = (
        f"{manifest.items_rejected} ({folder / REJECTS_FILE})"
        if manifest.items_rejected and not as_json
        else manifest.items_rejected
    )
    counts = {"items_in": manifest.items_in, "embedded": manifest.items_embedded, "rejected": rejected}
    report(
        {"release": str(folder), "tower_id": manifest.tower_id, **counts, "without_image": manifest.items_without_image}, as_json
    )


@app.command()
def index(
    release: Annotated[Path | None, typer.Argument(help="Release folder or release_id; the newest one by default.")] = None,
    as_json: Json = False,
) -> None:
    """Index a release and make it live."""
    from local import pipeline

    settings = Settings.from_env()
    folder = Home(settings).release(release)
    with progress("index lots") as step:
        made = pipeline.index(settings, folder, progress=step)
    counts = {
        "indexed": made.upserts.indexed,
        "stale": made.upserts.stale,
        "refused": len(made.upserts.rejected),
        "lots": made.lots,
    }
    report(
        {"index": made.index, "kind": settings.index, "tower_id": made.tower_id, **counts, "recall@10": made.recall_at_10}, as_json
    )


@app.command()
def search(
    query: Annotated[str | None, typer.Argument(help="What to look for; without it a prompt opens, `quit` leaves.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many lots, 1 to 100.")] = 10,
    mode: Annotated[Mode, typer.Option(help="Which retrievers look: both, vectors alone, words alone.")] = "hybrid",
    category: Annotated[str | None, typer.Option(help="Only this category.")] = None,
    brand: Annotated[str | None, typer.Option(help="Only this brand.")] = None,
    min_price: Annotated[float | None, typer.Option(help="Only lots at this price or above.")] = None,
    max_price: Annotated[float | None, typer.Option(help="Only lots at this price or below.")] = None,
    min_seller_rating: Annotated[float | None, typer.Option(help="Only sellers rated at least this, 0 to 5.")] = None,
    rerank: Annotated[bool, typer.Option(help="Let the re-ranker order the answer.")] = True,
    tower: Annotated[str, typer.Option(help="Insist on this tower_id.")] = "",
    as_json: Json = False,
) -> None:
    """Find lots; auctions that have ended never come back."""
    from local.wiring import search_service

    settings = Settings.from_env()
    service = search_service(replace(settings, tower_id=tower or settings.tower_id))

    def ask(text: str) -> None:
        where = Filter(category, brand, min_price, max_price, min_seller_rating)
        _answer(service, SearchRequest(text, k, mode, where, rerank), as_json)

    if query is not None:
        ask(query)
        return
    service.live()  # a missing index is told before the prompt, not after the first query
    while (text := _prompt()) is not None:
        try:
            ask(text)
        except GavelError as error:
            _say(error)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
) -> None:
    """Answer searches over HTTP; /docs shows the API."""
    import uvicorn

    from lambdas.query_api.app import create_app
    from local.wiring import search_service

    service = search_service(Settings.from_env())
    live = service.live()
    console.print(f"index {live.index.name}, {live.index.count()} lots: http://{host}:{port}/docs", highlight=False)
    uvicorn.run(create_app(lambda: service), host=host, port=port, log_level="warning")


@app.command()
def up(port: Annotated[int, typer.Option(help="Port to listen on.")] = 9200, as_json: Json = False) -> None:
    """Give this machine an OpenSearch: the one at OPENSEARCH_URL, a container, or a node from Maven Central."""
    from local.opensearch_service import up

    running = up(Home(Settings.from_env()).opensearch, port)
    report({"opensearch_url": running.url, "kind": running.kind}, as_json)
    if not as_json:
        console.print(f"GAVEL_INDEX=opensearch GAVEL_OPENSEARCH_URL={running.url} gavel index", style="dim", highlight=False)


@app.command()
def down(as_json: Json = False) -> None:
    """Stop the OpenSearch that `gavel up` started; its data stays."""
    from local.opensearch_service import down

    report({"stopped": down(Home(Settings.from_env()).opensearch)}, as_json)


def _answer(service: SearchService, request: SearchRequest, as_json: bool) -> None:
    answer = service.search(request)
    print_json(asdict(answer)) if as_json else show_answer(request.query, answer)


def _prompt() -> str | None:
    """The next line that holds something; None at `quit` or the end of the input."""
    while True:
        try:
            text = input("search> ").strip()
        except EOFError:
            return None
        if text.lower() in ("quit", "exit"):
            return None
        if text:
            return text


def _say(error: Exception) -> None:
    notes.print(f"gavel: {error}", style="red", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; errors of Gavel become one line and an exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        app()
    except (GavelError, OSError) as error:
        _say(error)
        sys.exit(EXIT_USAGE if isinstance(error, InvalidInput) else EXIT_ERROR)
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:
            notes.print("gavel: interrupted; run the same command again to go on", style="yellow")
        raise


if __name__ == "__main__":
    main()
