"""Quality of towers over users and items: popularity, in-batch negatives, correction of popularity, mined hard negatives.

python -m benchmarks.quality.users_items --seeds 5

Every seed draws its own users, items and interactions. Towers with the same correction share their first stage; all second stages
are equally long. So they differ only in their negatives. Epochs are chosen on the val interactions. The test interactions are read
once, after training. Items of earlier interactions are left out of a user's list.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult, mean_and_sd_of_runs, show_scores
from catalog.interactions import START, InteractionFolder, generate
from gavel.workspace.console import console, progress, show_table
from models.config.features import FeatureTrainingConfig
from models.data.pair_table import PairTable
from models.training.features import (
    FeatureColumns,
    FeatureTowers,
    InteractionData,
    mine,
    train_feature_towers,
)
from models.training.held_out_ranks import held_out_recall
from retrieval.evaluation.metrics import evaluate_per_query

POPULARITY, IN_BATCH, CORRECTED = "popularity", "in-batch", "in-batch + log q"
MINED, CORRECTED_MINED = "in-batch + mined", "in-batch + log q + mined"
MEASURES = ("recall@50", "ndcg@10")
DEPTH = 50
BARS = ((MINED, IN_BATCH), (IN_BATCH, POPULARITY))  # (system, rival): the system must beat the rival
SHOWN = (*BARS, (CORRECTED, IN_BATCH), (CORRECTED_MINED, CORRECTED))
ROUNDS, LEVEL = 2000, 95  # rounds and confidence level in percent of the bootstrap

USER_COLUMNS: FeatureColumns = {"categories": ["buyer_id", "age_group", "region", "favourite_category", "second_category"]}
ITEM_COLUMNS: FeatureColumns = {"categories": ["item_id", "category", "brand"], "numbers": ["price", "seller_rating", "days_late"]}

Values = dict[str, dict[str, NDArray[np.float64]]]  # system -> measure -> value of every user
Step = Callable[[], None]


def load_data(folder: InteractionFolder) -> InteractionData:
    """Read the train interactions and the features of all users and items. The day of listing becomes a number."""
    items: list[Mapping[str, Any]] = [{**row, "days_late": (row["listed_at"] - START).days} for row in folder.items]
    pairs = folder.interactions("train")
    return InteractionData.build(list(folder.users), items, pairs, user_columns=USER_COLUMNS, item_columns=ITEM_COLUMNS)


def rankings(folder: InteractionFolder, config: FeatureTrainingConfig, step: Step = lambda: None) -> Iterator[tuple[str, Tensor]]:
    """Train every system on the train interactions; val interactions choose the epochs.

    Args:
        folder: folder of users, items and interactions.
        config: configuration of both stages; the second stage always runs at later_rate.
        step: called after each of the 6 stages.

    Yields:
        The name of a system and its (U, I) scores.
    """
    data = load_data(folder)
    selection_metric = val_recall(folder, data)
    yield POPULARITY, data.taken.item_counts().float().expand(data.taken.shape)
    for plain, with_mined, correct in ((IN_BATCH, MINED, False), (CORRECTED, CORRECTED_MINED, True)):
        training = replace(config, correct_popularity=correct)
        start = train_feature_towers(data, training, selection_metric).towers
        step()
        for name, mined in ((plain, None), (with_mined, mine(start, data, training))):
            report = train_feature_towers(data, training, selection_metric, start_from=start, mined=mined)
            yield name, report.towers.scores(data)
            step()


def val_recall(folder: InteractionFolder, data: InteractionData) -> Callable[[FeatureTowers], float]:
    """Return the selection metric: mean Recall@50 of the val interactions."""
    held_out = table(folder, "val")

    def measure_towers(towers: FeatureTowers) -> float:
        users, items = towers.vectors(data)
        return float(held_out_recall(lambda block: users[block] @ items.T, data.taken, held_out, [DEPTH]).mean())

    return measure_towers


def table(folder: InteractionFolder, *splits: str) -> PairTable:
    """Return the interactions of the splits as a table."""
    pairs = np.concatenate([folder.interactions(split) for split in splits])
    return PairTable(pairs, len(folder.users), len(folder.items))


def measure(folder: InteractionFolder, scores: Mapping[str, Tensor]) -> Values:
    """Return every system's values per user on the test interactions. A user's train and val items are left out of the lists."""
    hidden, relevant = table(folder, "train", "val").table(), table(folder, "test").table()
    grades = {str(user): dict.fromkeys(map(str, row.nonzero().flatten().tolist()), 2) for user, row in enumerate(relevant)}
    values: Values = {}
    for system, ranking in scores.items():
        best = ranking.masked_fill(hidden, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :DEPTH]  # (U, 50)
        per_user = evaluate_per_query(grades, {str(user): list(map(str, row)) for user, row in enumerate(best.tolist())})
        values[system] = {name: np.array([per_user[name][user] for user in grades]) for name in MEASURES}
    return values


def paired_interval(differences: NDArray[np.float64], seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of paired differences with its bootstrap interval (Efron 1979). Users are resampled within each seed.

    Args:
        differences: (seeds, users) gains of one system over another system for every user.
        seed: seed of the resampling.

    Returns:
        The mean, and the 2.5th and 97.5th percentile of the resampled means.
    """
    random = np.random.default_rng(seed)
    seeds, users = differences.shape
    rows = np.arange(seeds)[:, None]
    means = [differences[rows, random.integers(users, size=(seeds, users))].mean() for _ in range(ROUNDS)]
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(differences.mean()), float(low), float(high)


def compare(runs: list[Values]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return pair of SHOWN -> measure -> (mean gain, lower end, upper end of its interval)."""
    return {
        f"{better} − {worse}": {
            name: paired_interval(np.stack([run[better][name] - run[worse][name] for run in runs])) for name in MEASURES
        }
        for better, worse in SHOWN
    }


def main(
    seeds: Annotated[int, typer.Option(min=2, help="Number of seeds, from --seed on; each draws users and items.")] = 5,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 7,
    users: Annotated[int, typer.Option(min=100, help="Users per seed.")] = 2000,
    items: Annotated[int, typer.Option(min=300, help="Items per seed.")] = 1500,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG of the plot.")] = None,
) -> None:
    """Print mean ± standard deviation over the seeds, and paired gains; exit 1 if a target is missed."""
    machine = describe_machine()
    torch.set_num_threads(1)  # the matrices are small, so more threads would wait for each other
    runs = []
    with progress("stages") as step, tempfile.TemporaryDirectory() as folder:
        for number in range(seeds):
            dataset = generate(Path(folder) / "set", users=users, items=items, seed=seed + number)
            done = iter(range(6 * number + 1, 6 * number + 7))
            config = FeatureTrainingConfig(seed=seed + number)
            scores = dict(rankings(dataset, config, partial(_advance, done, step, 6 * seeds)))
            runs.append(measure(dataset, scores))
    means = [{system: {name: float(v.mean()) for name, v in values.items()} for system, values in run.items()} for run in runs]
    gains = compare(runs)
    result = QualityResult(machine=machine, values={"seeds": means, "gains": gains, "passed": passed(gains)})
    result.report(as_json, lambda: _show(means, gains))
    if plot:
        draw(means, plot)
    raise typer.Exit(0 if passed(gains) else 1)


def _advance(numbers: Iterator[int], step: Callable[[int, int], None], total: int) -> None:
    step(next(numbers), total)


def passed(gains: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> bool:
    """True if every system of BARS beats its rival in every measure, with the whole interval of the gain above zero."""
    return all(low > 0 for better, worse in BARS for _, low, _ in gains[f"{better} − {worse}"].values())


def _show(means: list[dict[str, dict[str, float]]], gains: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> None:
    show_scores(f"Test interactions, mean ± standard deviation over {len(means)} seeds", "system", mean_and_sd_of_runs(means))
    rows = [
        (name, *(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in by_measure.values()))
        for name, by_measure in gains.items()
    ]
    show_table(f"Paired gains with {LEVEL} % bootstrap intervals over users", ("gain", *MEASURES), rows)
    bar = " > ".join((BARS[0][0], BARS[1][0], BARS[1][1]))
    console.print(f"{bar}, outside the {LEVEL} % interval: {'yes' if passed(gains) else 'NO'}")


def draw(means: list[dict[str, dict[str, float]]], path: Path) -> None:
    """Draw one panel per measure, with one bar per system and one dot per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    systems = list(means[0])
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    panels[0].invert_yaxis()  # the first system on top; the axis is shared
    for panel, name in zip(panels, MEASURES, strict=True):
        values = np.array([[run[system][name] for system in systems] for run in means])  # (seeds, systems)
        panel.barh(systems, values.mean(axis=0), color="#9db4c8")
        for place in range(len(systems)):
            panel.plot(values[:, place], [place] * len(means), "o", color="#1f3a52", markersize=3)
        panel.set_title(name, fontsize=10)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)
