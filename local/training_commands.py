"""`gavel train`."""

from typing import Annotated

import typer

from local.command_options import CatalogOption, Json, Seed, report
from local.console import progress
from local.home import Home
from retrieval.settings import Settings


def train(
    catalog: CatalogOption = None,
    preset: Annotated[str, typer.Option(help="Architecture: compact, or distilbert-resnet50.")] = "compact",
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave the photos out.")] = False,
    reranker: Annotated[
        bool, typer.Option("--reranker", help="Train the re-ranker of the live index instead of the towers.")
    ] = False,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Train item and query tower on a catalogue, or the re-ranker on its clicks."""
    from catalog.folder import CatalogFolder
    from local import pipeline

    home = Home(Settings.from_env())
    source = CatalogFolder.load(home.catalog(catalog))
    if reranker:
        with progress("train re-ranker") as step:
            made = pipeline.train_reranker(home, source, seed=seed, progress=step)
        report({"reranker": str(made)}, as_json)
        return
    with progress("train towers") as step:
        tower = pipeline.train_towers(home, source, preset=preset, text_only=text_only, seed=seed, progress=step)
    report({"tower_id": tower.name, "tower": str(tower)}, as_json)
