"""`gavel tune`: choose settings on judged queries."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gavel.workspace.console import Stages, console, show_metrics
from gavel.workspace.folders import Workspace
from gavel.workspace.options import CatalogOption, Json, print_json
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from processing.ranking.tune_hybrid import Choice

tune_app = typer.Typer(no_args_is_help=True, help="Choose settings on judged queries.")


@tune_app.callback()
def _group() -> None:
    """Choose settings on judged queries."""


@tune_app.command("hybrid")
def tune_hybrid(
    catalog: CatalogOption = None,
    split: Annotated[str, typer.Option(help="Split of the queries to tune on; never the split of the report.")] = "val",
    release: Annotated[Path | None, typer.Option(help="Release folder or release_id; the newest one by default.")] = None,
    boosts: Annotated[bool, typer.Option(help="Also try boosts of title, brand, category and attributes.")] = True,
    write: Annotated[bool, typer.Option(help="Save the choice beside the tower, where searches read it.")] = True,
    as_json: Json = False,
) -> None:
    """Choose fusion, weights and field boosts of hybrid searches, and save them for this tower's searches."""
    from catalog.folder import CatalogFolder
    from gavel.workspace.wiring import find_tower, load_encoder
    from processing.evaluation.plots import plot_fusion_weights
    from processing.ranking.tune_hybrid import choose, ndcg_by_share, search_lists
    from retrieval.contracts.release import load_release

    settings = Settings.from_env()
    workspace = Workspace(settings)
    if split == "test":
        raise InvalidInput("the test queries measure and must not choose; tune on another split, such as val")
    source, folder = CatalogFolder.load(workspace.catalog(catalog)), workspace.release(release)
    tower_id = load_release(folder).tower_id
    if write and settings.towers.startswith("s3://"):
        raise InvalidInput(f"towers are kept in {settings.towers}; unset GAVEL_TOWERS_URI to tune a local one, or add --no-write")
    with Stages() as stages, tempfile.TemporaryDirectory(prefix="gavel-tune-") as scratch:
        encoder = load_encoder(settings, tower_id)
        lists = search_lists(source, split, folder, encoder, Path(scratch), depth=settings.candidates, progress=stages("search"))
        choice = choose(lists, boosts=boosts, progress=stages("try"))
    plot = workspace.reports / f"hybrid-{source.name}-{tower_id}.png"
    chosen = choice.chosen.tuning
    title = f"{source.name}: nDCG@10 of {choice.queries} {split} queries by the weight of keywords"
    plot_fusion_weights(
        ndcg_by_share(choice), (chosen.fusion.normalised_weights[0], choice.chosen.measures["ndcg@10"]), title, plot
    )
    written = chosen.save(find_tower(settings, tower_id)) if write else None
    if as_json:
        print_json({"tower_id": tower_id, "written": written and str(written), "plot": str(plot), **choice.to_dict()})
        return
    _show(choice, f"{source.name}: {choice.queries} {split} queries")
    console.print(f"plot {plot}", style="dim", highlight=False, soft_wrap=True)
    if written:
        console.print(f"written {written}; searches of tower {tower_id} use it", style="dim", highlight=False, soft_wrap=True)


def _show(choice: "Choice", title: str) -> None:
    trials = {"untuned": choice.base, "best": choice.best, "chosen": choice.chosen}
    show_metrics(title, {f"{name}: {trial.tuning}": trial.measures for name, trial in trials.items()})
    console.print(
        f"gain over untuned on queries that did not choose {choice.gain:+.4f}, standard error {choice.standard_error:.4f}",
        highlight=False,
    )
