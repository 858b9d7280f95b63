"""What a small query tower finds of what the full one finds, on test queries.

python -m benchmarks.quality.small_query chorus .gavel/chorus       the work folder of benchmarks.quality.chorus: one tower a seed
python -m benchmarks.quality.small_query homes .gavel-7 .gavel-8    homes where the demo ran: the tower of the newest release

Each tower gets a small query tower as `gavel distill query` makes it, whatever the val queries say of it; then both are measured
on the test queries, once. The file stays with the tower. A home's release must hold the val lots, too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.quality.seeds import mean_and_spread
from catalog.folder import CatalogFolder
from gavel.workspace.console import Stages, console, show_table
from gavel.workspace.folders import Home
from models.training.static_query import StaticQueryConfig
from processing.training.query_distillation import AIMS, FULL, SMALL, distil_query, measure_query_towers
from retrieval.config.settings import Settings
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.encoders.static_query_encoder import SmallQueryEncoder

app = typer.Typer(no_args_is_help=True, help=__doc__)
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]
Source = tuple[str, CatalogFolder, Path, Path]  # name, catalogue, tower folder, release


@app.command()
def chorus(work: Annotated[Path, typer.Argument(help="Work folder of benchmarks.quality.chorus.")], as_json: Json = False) -> None:
    """Every tower of the chorus benchmark."""

    def sources() -> Iterator[Source]:
        for name, run in json.loads((work / "ledger.json").read_text()).items():
            tower_id = run["value"]["tower_id"]
            (release,) = (work / "embeddings").glob(f"{tower_id}-*")
            yield name, CatalogFolder(work / f"catalog-{name.split()[-1]}"), work / "towers" / tower_id, release

    _report("chorus", sources(), as_json)


@app.command()
def homes(paths: Annotated[list[Path], typer.Argument(help="GAVEL_HOME of each demo.")], as_json: Json = False) -> None:
    """The tower of the newest release of every home."""

    def sources() -> Iterator[Source]:
        for path in paths:
            home = Home(Settings(home=path))
            release = home.release(None)
            tower = home.tower(split_tower_id(load_release(release).tower_id)[0])
            yield path.name, CatalogFolder(home.catalog(None)), tower, release

    _report("demo", sources(), as_json)


def _report(title: str, sources: Iterator[Source], as_json: bool) -> None:
    found = {name: _measured(*source) for name, *source in sources}
    spread = mean_and_spread([run["test"] for run in found.values()])
    if as_json:
        print(json.dumps({"runs": found, "mean_and_sd": spread}, indent=2))
        return
    rows = [
        (
            f"{name}, {split}",
            *(f"{run[split][tower][aim]:.4f}" for tower in (FULL, SMALL) for aim in AIMS),
            f"{run[split]['share']['recall@50']:.4f}",
        )
        for name, run in found.items()
        for split in ("val", "test")
    ]
    show_table(title, ("", *(f"{tower} {aim}" for tower in (FULL, SMALL) for aim in AIMS), "share of recall@50"), rows)
    for way, cells in spread.items():
        figures = (f"{aim} {mean:.4f} ± {sd:.4f}" for aim, (mean, sd) in cells.items())
        console.print(f"test, {way}: {', '.join(figures)}", highlight=False)


def _measured(catalog: CatalogFolder, tower: Path, release: Path) -> dict[str, Any]:
    dimensions = split_tower_id(load_release(release).tower_id)[1]
    with Stages() as stages:
        made = distil_query(catalog, tower, release, StaticQueryConfig(), least=0.0, stages=stages)
        encoders = {FULL: QueryEncoder.load(tower, dimensions), SMALL: SmallQueryEncoder.load(tower, dimensions)}
        test: dict[str, Any] = measure_query_towers(catalog, "test", release, encoders, stages("search test"))
    shared = {"recall@50": test[SMALL]["recall@50"] / test[FULL]["recall@50"]}
    test["share"] = shared
    return {
        "tower_id": made.tower_id,
        "val": {**made.quality, "share": {"recall@50": made.share}},
        "test": test,
        "made": made.to_dict(),
    }


if __name__ == "__main__":
    app()
