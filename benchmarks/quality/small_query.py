"""Quality of a static query encoder ("small query tower") relative to the full query tower, on test queries.

python -m benchmarks.quality.small_query chorus .gavel/chorus       the work folder of benchmarks.quality.chorus: one tower per seed
python -m benchmarks.quality.small_query homes .gavel-7 .gavel-8    homes where the demo ran: the tower of the newest release

Each tower gets a static query encoder as by `gavel distill query`, without a minimum quality on the val queries. Then both encoders
are measured once on the test queries. The encoder's file stays with the tower. A workspace's release must hold the val lots, too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult, mean_and_sd_of_runs
from catalog.folder import CatalogFolder
from gavel.workspace.console import Stages, console, show_table
from gavel.workspace.folders import Workspace
from models.config.distillation import StaticQueryConfig
from processing.training.query_distillation import FULL, MEASURES_SHOWN, SMALL, distil_query, measure_query_towers
from retrieval.config.settings import Settings
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.encoders.static_query_encoder import SmallQueryEncoder
from retrieval.search.live_index import Encoder

app = typer.Typer(no_args_is_help=True, help=__doc__)
Json = Annotated[bool, typer.Option("--json", help="Print only JSON.")]
Source = tuple[str, CatalogFolder, Path, Path]  # name, catalogue, tower folder, release


@app.command()
def chorus(work: Annotated[Path, typer.Argument(help="Work folder of benchmarks.quality.chorus.")], as_json: Json = False) -> None:
    """Measure every tower of the chorus benchmark."""

    def sources() -> Iterator[Source]:
        for name, run in json.loads((work / "ledger.json").read_text()).items():
            tower_id = run["value"]["tower_id"]
            (release,) = (work / "embeddings").glob(f"{tower_id}-*")
            yield name, CatalogFolder(work / f"catalog-{name.split()[-1]}"), work / "towers" / tower_id, release

    _report("chorus", sources(), as_json)


@app.command()
def homes(paths: Annotated[list[Path], typer.Argument(help="GAVEL_HOME of each demo.")], as_json: Json = False) -> None:
    """Measure the tower of the newest release of every workspace."""

    def sources() -> Iterator[Source]:
        for path in paths:
            workspace = Workspace(Settings(home=path))
            release = workspace.release(None)
            tower = workspace.tower(split_tower_id(load_release(release).tower_id)[0])
            yield path.name, CatalogFolder(workspace.catalog(None)), tower, release

    _report("demo", sources(), as_json)


def _report(title: str, sources: Iterator[Source], as_json: bool) -> None:
    machine = describe_machine()
    runs = {name: _measured(catalog, tower, release) for name, catalog, tower, release in sources}
    table = mean_and_sd_of_runs([run["test"] for run in runs.values()])
    rows = [
        (
            f"{name}, {split}",
            *(f"{run[split][tower][aim]:.4f}" for tower in (FULL, SMALL) for aim in MEASURES_SHOWN),
            f"{run[split]['share']['recall@50']:.4f}",
        )
        for name, run in runs.items()
        for split in ("val", "test")
    ]

    def show() -> None:
        show_table(
            title, ("", *(f"{tower} {aim}" for tower in (FULL, SMALL) for aim in MEASURES_SHOWN), "share of recall@50"), rows
        )
        for system, cells in table.items():
            scores = (f"{aim} {mean:.4f} ± {sd:.4f}" for aim, (mean, sd) in cells.items())
            console.print(f"test, {system}: {', '.join(scores)}", highlight=False)

    QualityResult(machine=machine, values={"runs": runs, "mean_and_sd": table}).report(as_json, show)


def _measured(catalog: CatalogFolder, tower: Path, release: Path) -> dict[str, Any]:
    dimensions = split_tower_id(load_release(release).tower_id)[1]
    with Stages() as stages:
        distilled = distil_query(catalog, tower, release, StaticQueryConfig(), least=0.0, phases=stages)
        encoders: dict[str, Encoder] = {
            FULL: QueryEncoder.load(tower, dimensions),
            SMALL: SmallQueryEncoder.load(tower, dimensions),
        }
        test: dict[str, Any] = measure_query_towers(catalog, "test", release, encoders, stages("search test"))
    shared = {"recall@50": test[SMALL]["recall@50"] / test[FULL]["recall@50"]}
    test["share"] = shared
    return {
        "tower_id": distilled.tower_id,
        "val": {**distilled.quality, "share": {"recall@50": distilled.share}},
        "test": test,
        "made": distilled.to_dict(),
    }


if __name__ == "__main__":
    app()
