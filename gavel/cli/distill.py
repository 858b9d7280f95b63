"""`gavel distill`: train small models that imitate large ones."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gavel.cli.train_towers import cut_note
from gavel.workspace.config_file import configured
from gavel.workspace.console import Stages, console, show_metrics, show_values
from gavel.workspace.entry import EXIT_CUT
from gavel.workspace.folders import Workspace
from gavel.workspace.options import CatalogOption, Json, MaxSeconds, Seed, print_json
from models.artefacts.run_record import cut_of
from retrieval.config.settings import Settings
from retrieval.contracts.tower_card import split_tower_id

distill_app = typer.Typer(no_args_is_help=True, help="Train small models that imitate large ones.")

# repeats a default of processing.training.query_distillation, because importing that module slows down every command
Least = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Smallest share of the full query tower's Recall@50 on val; below it, no file is written."),
]


@distill_app.callback()
def _group() -> None:
    """Train small models that imitate large ones."""


@distill_app.command("query")
def distill_query(
    catalog: CatalogOption = None,
    tower: Annotated[str | None, typer.Option(help="tower_id; the release's tower by default.")] = None,
    release: Annotated[
        Path | None, typer.Option(help="Release folder or release_id; the tower's newest release by default.")
    ] = None,
    texts: Annotated[
        int | None, typer.Option(min=2, help="Number of queries and pieces of lots' texts to learn from; 30,000.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the texts; 20.")] = None,
    least: Least = 0.98,
    max_seconds: MaxSeconds = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Train a tower's small query tower, which adds up token vectors instead of running a network.

    GAVEL_QUERY_TOWER=small serves it.
    """
    from catalog.folder import CatalogFolder
    from models.config.distillation import StaticQueryConfig
    from processing.training.query_distillation import FULL, SMALL, distil_query
    from retrieval.contracts.release import load_release

    workspace = Workspace(Settings.from_env())
    source = CatalogFolder.load(workspace.catalog(catalog))
    release_folder = workspace.release_of_tower(tower) if tower and release is None else workspace.release(release)
    folder = workspace.tower(tower or split_tower_id(load_release(release_folder).tower_id)[0])
    config = replace(configured(StaticQueryConfig(), "small_query"), seed=seed)
    config = replace(
        config,
        texts=texts or config.texts,
        epochs=epochs or config.epochs,
        max_seconds=config.max_seconds if max_seconds is None else max_seconds,
    )
    with Stages() as stages:
        result = distil_query(source, folder, release_folder, config, least=least, phases=stages)
    if as_json:
        print_json(result.to_dict())
    else:
        show_metrics(f"{source.name}: val queries by vectors alone, tower {result.tower_id}", result.quality)
        share = f"the small query tower finds {result.share:.1%} of the full one's Recall@50 ({SMALL} / {FULL})"
        console.print(
            f"{share}; {result.texts} texts, {result.pairs} pairs, {result.seconds:.0f} s", highlight=False, soft_wrap=True
        )
        if result.file:
            note = f"written {result.file} ({result.file_bytes / 1e6:.1f} MB); GAVEL_QUERY_TOWER=small serves it"
        else:
            note = f"less than {least:.0%}: nothing was written; try more --texts or --epochs, or a lower --least"
        console.print(note, style="dim", highlight=False, soft_wrap=True)
        show_values(cut_note(cut_of(result.steps)))
    if cut_of(result.steps):
        raise typer.Exit(EXIT_CUT)
    if result.file is None:
        raise typer.Exit(1)
