"""Gain of a tuned fusion of hybrid searches on held-out queries.

python -m benchmarks.quality.hybrid chorus .gavel/chorus       towers in the work folder of benchmarks.quality.chorus; 5 folds
python -m benchmarks.quality.hybrid homes .gavel …             homes where the demo ran: val chooses, test measures once
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, pstdev
from typing import Annotated, Any

import typer

from catalog import chorus as chorus_shop
from catalog.folder import CatalogFolder
from gavel.workspace.console import Stages, console, show_table
from gavel.workspace.folders import Workspace
from processing.ranking.tune_hybrid import SELECTION_METRICS, Choice, JudgedLists, choose, search_lists
from retrieval.config.settings import Settings
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.evaluation.significance import compare_paired

app = typer.Typer(no_args_is_help=True, help=__doc__)
Json = Annotated[bool, typer.Option("--json", help="Print only JSON.")]
UNTUNED, BEST, CHOSEN = "untuned", "best of the choosing queries", "chosen by gavel tune"


@app.command()
def chorus(
    work: Annotated[Path, typer.Argument(help="Work folder of benchmarks.quality.chorus.")],
    seed: Annotated[int, typer.Option(help="Seed that splits the queries into folds.")] = 7,
    as_json: Json = False,
) -> None:
    """Cross-validate over five folds of the queries for every tower. The other folds' queries choose the tuning of a fold."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for name, run in json.loads((work / "ledger.json").read_text()).items():
        tower_id = run["value"]["tower_id"]
        (release,) = (work / "embeddings").glob(f"{tower_id}-*")
        catalog = CatalogFolder.load(work / f"catalog-{name.split()[-1]}")
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = list(_folds(_lists(catalog, "test", release, work / "towers", Path(folder)), seed))
    _report(runs, as_json)


@app.command()
def homes(
    paths: Annotated[list[Path], typer.Argument(help="GAVEL_HOME of each demo.")],
    as_json: Json = False,
) -> None:
    """Choose on the val queries of each workspace's newest catalogue, and measure on its test queries."""
    runs = {}
    for path in paths:
        workspace = Workspace(Settings(home=path))
        catalog, release = CatalogFolder.load(workspace.catalog(None)), workspace.release(None)
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            choice = choose(_lists(catalog, "val", release, workspace.towers, Path(one)))
            runs[f"{catalog.name} {path.name}"] = [_measured(choice, _lists(catalog, "test", release, workspace.towers, Path(two)))]
    _report(runs, as_json)


def _lists(catalog: CatalogFolder, split: str, release: Path, towers: Path, folder: Path) -> JudgedLists:
    artefact, dimensions = split_tower_id(load_release(release).tower_id)
    encoder = QueryEncoder.load(towers / artefact, dimensions)
    with Stages() as stages:
        return search_lists(catalog, split, release, encoder, folder, progress=stages(f"search {split}"))


def _folds(lists: JudgedLists, seed: int) -> Iterator[dict[str, Any]]:
    queries = sorted(lists.grades)
    for fold in range(chorus_shop.FOLDS):
        split = chorus_shop.split_queries(queries, fold=fold, seed=seed)
        choice = choose(lists.part([query for query in queries if split[query] != "test"]))
        yield _measured(choice, lists.part([query for query in queries if split[query] == "test"]))


def _measured(choice: Choice, tested: JudgedLists) -> dict[str, Any]:
    """Return the untuned, best and chosen tuning of a choice, and the values of each for every held-out query."""
    trials = {UNTUNED: choice.base.tuning, BEST: choice.best.tuning, CHOSEN: choice.chosen.tuning}
    return {
        "tunings": {name: asdict(tuning) for name, tuning in trials.items()},
        "shown": {name: str(tuning) for name, tuning in trials.items()},
        "values": {name: tested.values(tuning) for name, tuning in trials.items()},
    }


def _report(runs: Mapping[str, Sequence[dict[str, Any]]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(runs, indent=2))
        return
    for title, folds in runs.items():
        rows = []
        for name in (UNTUNED, BEST, CHOSEN):
            means = {m: [fmean(fold["values"][name][m].values()) for fold in folds] for m in SELECTION_METRICS}
            rows.append((name, *(f"{fmean(values):.3f} ± {pstdev(values):.3f}" for values in means.values())))
        show_table(f"{title}: mean ± spread over {len(folds)} folds", ("tuning", *SELECTION_METRICS), rows)
        for measure in SELECTION_METRICS:
            base, new = ({q: v for fold in folds for q, v in fold["values"][name][measure].items()} for name in (UNTUNED, BEST))
            test = compare_paired(base, new)
            console.print(f"{measure}: best against untuned over {len(base)} queries {test.difference:+.4f}, p {test.p_value:.2f}")
        for fold in folds:
            console.print(
                "  ", fold["shown"][BEST], "| chosen" if fold["shown"][BEST] == fold["shown"][CHOSEN] else "| kept untuned"
            )


if __name__ == "__main__":
    app()
