"""`gavel catalog …`: catalogues to try Gavel on."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from gavel.workspace.console import notes, progress, show_table
from gavel.workspace.entry import commands_for, show_next
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, Seed, print_json, report
from processing.command_line import ColumnsOption, DatesOption, DecimalOption, EncodingOption, read_options
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

catalog_app = typer.Typer(no_args_is_help=True, help="Make catalogues to try Gavel on.")


@catalog_app.command()
def generate(
    what: Annotated[
        Literal["lots", "users-items"], typer.Argument(help="lots, or users-items: tables for `gavel train users-items`.")
    ] = "lots",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; <home>/catalogs/synthetic, or <home>/users-items/synthetic, by default.")
    ] = None,
    lots: Annotated[int, typer.Option(min=1, help="Number of lots.")] = 2_000,
    users: Annotated[int | None, typer.Option(min=1, help="users-items: number of users; 10,000.")] = None,
    items: Annotated[int | None, typer.Option(min=100, help="users-items: number of items; 100,000.")] = None,
    interactions: Annotated[int | None, typer.Option(min=3, help="users-items: interactions of every user; 20.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="users-items: parquet (default) or csv.")] = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Write a synthetic catalogue (lots with rendered photos, judged queries, clicks), or tables of users, items, interactions."""
    workspace = Workspace(Settings.from_env())
    if what == "users-items":
        from catalog import interactions as users_items

        sizes = {"users": users or 10_000, "items": items or 100_000, "per_user": interactions or 20}
        with progress("users") as step:
            tables = users_items.generate(
                out or workspace.tables / "synthetic", **sizes, form=form or "parquet", seed=seed, progress=step
            )
        counts = {"users": len(tables.users), "items": len(tables.items), "interactions": len(tables.tables.pairs)}
        report({"tables": str(tables.path), **counts, "next": f"gavel train users-items --catalog {tables.path}"}, as_json)
        return
    options = {"users": users, "items": items, "interactions": interactions, "format": form}
    if given := [name for name, value in options.items() if value is not None]:
        raise InvalidInput(f"--{given[0]} belongs to `gavel catalog generate users-items`; leave it out")
    from catalog import synthetic

    folder = out or workspace.catalogs / "synthetic"
    with progress("lots") as step:
        catalog = synthetic.generate(folder, lots=lots, seed=seed, progress=step)
    report({"catalog": str(catalog.path), "lots": lots, "examples": catalog.example_queries}, as_json)


@catalog_app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="items (your own lots), clicks; or esci, chorus, grocery, emoji, demo-store.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data set as it was published, or the click log.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; <home>/catalogs/<source> by default.")] = None,
    locale: Annotated[str | None, typer.Option(help="esci: us (default), es or jp.")] = None,
    version: Annotated[str | None, typer.Option(help="esci: small (default) or large.")] = None,
    corpus: Annotated[
        str | None, typer.Option(help="esci: products that test queries search: judged (default), or all of the locale.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="chorus: number of parts that the judged queries are divided into; 5.")
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(min=0, help="chorus: number of the test part, from 0; without it all parts test and no judgment trains."),
    ] = None,
    items: Annotated[Path | None, typer.Option(help="items, clicks: catalogue file with the lots, or a folder of them.")] = None,
    judgments: Annotated[Path | None, typer.Option(help="items: table of query, item id and grade 0 to 3.")] = None,
    clicks: Annotated[Path | None, typer.Option(help="items: click log.")] = None,
    test_only: Annotated[
        bool | None, typer.Option("--test-only", help="items: every judged query tests, and no judgment trains or chooses.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="emoji: language of the lots: en (default), ar, or either (each lot in one of the two).")
    ] = None,
    columns: ColumnsOption = None,
    decimal: DecimalOption = None,
    dates: DatesOption = None,
    encoding: EncodingOption = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Turn your lots, a click log or a published data set into a catalogue: lots, pairs and judged queries, split by query."""
    from catalog.summary import summarise
    from gavel.workspace.catalog_sources import UNITS, Preparation

    reading = read_options(columns, decimal, dates, encoding)
    preparation = Preparation(
        source, data, seed, locale, version, folds, fold, items, language, reading, corpus, judgments, clicks, test_only
    )
    with progress(UNITS.get(source, "reading")) as step:
        catalog = preparation.run(out or Workspace(Settings.from_env()).catalogs / preparation.name, step)
    values = {"catalog": str(catalog.path), **summarise(catalog), "examples": catalog.example_queries}
    for line in preparation.log.lines():
        notes.print(line, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({**values, "notices": preparation.log.notices})
        return
    splits = values.pop("splits")
    report(values, as_json=False)
    rows = [(split, *(f"{count:,}" for count in counts.values())) for split, counts in splits.items()]
    show_table("", ("split", "judged queries", "judgments", "training pairs", "impressions"), rows)
    if catalog.sources:
        show_next(f"adapt --catalog {shlex.quote(str(catalog.path))}", *commands_for(catalog))
