"""`gavel catalog …`: catalogues to try Gavel on."""

from pathlib import Path
from typing import Annotated

import typer

from local.command_options import Json, Seed, report
from local.console import progress
from local.home import Home
from retrieval.settings import Settings

catalog_app = typer.Typer(no_args_is_help=True, help="Make catalogues to try Gavel on.")


@catalog_app.command()
def generate(
    out: Annotated[Path | None, typer.Option(help="Folder to write; <home>/catalogs/synthetic by default.")] = None,
    lots: Annotated[int, typer.Option(min=1, help="How many lots.")] = 2_000,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Write a synthetic catalogue: lots with rendered photos, judged queries, buyers' clicks."""
    from catalog import synthetic

    folder = out or Home(Settings.from_env()).catalogs / "synthetic"
    with progress("lots") as step:
        made = synthetic.generate(folder, lots=lots, seed=seed, progress=step)
    report({"catalog": str(made.path), "lots": lots, "examples": made.example_queries}, as_json)
