"""`gavel catalog …`: catalogues to try Gavel on."""

from pathlib import Path
from typing import Annotated

import typer

from gavel.workspace.console import progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, Seed, print_json, report
from retrieval.config.settings import Settings

catalog_app = typer.Typer(no_args_is_help=True, help="Make catalogues to try Gavel on.")


@catalog_app.command()
def generate(
    out: Annotated[Path | None, typer.Option(help="Folder to write; <home>/catalogs/synthetic by default.")] = None,
    lots: Annotated[int, typer.Option(min=1, help="Number of lots.")] = 2_000,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Write a synthetic catalogue: lots with rendered photos, judged queries, buyers' clicks."""
    from catalog import synthetic

    folder = out or Workspace(Settings.from_env()).catalogs / "synthetic"
    with progress("lots") as step:
        catalog = synthetic.generate(folder, lots=lots, seed=seed, progress=step)
    report({"catalog": str(catalog.path), "lots": lots, "examples": catalog.example_queries}, as_json)


@catalog_app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="esci, chorus, grocery, emoji, demo-store or clicks.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set as it was published, or the click log.")],
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
    items: Annotated[Path | None, typer.Option(help="clicks: catalogue file with the lots that the log names.")] = None,
    language: Annotated[
        str | None, typer.Option(help="emoji: language of the lots: en (default), ar, or either (each lot in one of the two).")
    ] = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Turn a published data set or a click log into a catalogue: lots, training pairs, judged queries, split by query."""
    from catalog.summary import summarise
    from gavel.workspace.catalog_sources import UNITS, Preparation

    preparation = Preparation(source, data, seed, locale, version, folds, fold, items, language, corpus)
    with progress(UNITS.get(source, "reading")) as step:
        catalog = preparation.run(out or Workspace(Settings.from_env()).catalogs / preparation.name, step)
    values = {"catalog": str(catalog.path), **summarise(catalog), "examples": catalog.example_queries}
    if as_json:
        print_json(values)
        return
    splits = values.pop("splits")
    report(values, as_json=False)
    rows = [(split, *(f"{count:,}" for count in counts.values())) for split, counts in splits.items()]
    show_table("", ("split", "judged queries", "judgments", "training pairs", "impressions"), rows)
