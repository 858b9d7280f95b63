"""Training of two feature towers on tables of users, items and interactions, and its evaluation beside popularity."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalog.user_items import EntityTable, UserItems, split_interactions
from models.artefacts.run_record import hash_of, steps_record
from models.config.features import UsersItemsConfig
from models.data.pair_table import PairTable
from models.training.checkpoints import CHECKPOINT_SECONDS, Checkpoints
from models.training.features import FeatureReport, FeatureTowers, InteractionData, train_feature_towers
from models.training.held_out_ranks import held_out_recall
from models.training.loop import EpochRecord
from retrieval.encoders.feature_spec import FeatureSpec
from retrieval.errors import InvalidInput
from retrieval.progress import Progress, ignore_progress

CUTOFFS = (10, 100, 1000)
SELECTION_CUTOFF = 100  # Recall@100 of val users chooses the epoch


@dataclass(frozen=True)
class UsersItemsReport:
    """The result of a training.

    Attributes:
        trained: the towers with the weights of the best epoch, and the epochs.
        counts: number of users, items, and interactions of each split.
        recall: system -> "recall@10" and so on of the test interactions, mean over the users.
        tested_users: number of users with test interactions.
        seconds: wall time of training, with the measurements of val, in seconds.
        cpu_seconds: CPU time of the same.
        checkpoints: checkpoints of the run; None if it wrote none.
    """

    trained: FeatureReport
    counts: Mapping[str, int]
    recall: Mapping[str, Mapping[str, float]]
    tested_users: int
    seconds: float
    cpu_seconds: float
    checkpoints: Checkpoints | None = None

    def forget(self) -> None:
        """Remove the checkpoint of a finished run; that of a cut run stays."""
        if self.checkpoints and not self.trained.cut_by_clock:
            self.checkpoints.remove()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "counts": dict(self.counts),
            "tested_users": self.tested_users,
            "best_epoch": self.trained.best.epoch,
            "steps": steps_record(self.trained.steps, self.trained.planned_steps, self.trained.cut_by_clock),
            "epochs": [asdict(record) for record in self.trained.epochs],
            "recall": {system: dict(values) for system, values in self.recall.items()},
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
        }


def train_users_items(
    tables: UserItems,
    config: UsersItemsConfig,
    *,
    checkpoint_folder: Path | None = None,
    stages: Callable[[str], Progress] = lambda label: ignore_progress,
    on_epoch: Callable[[EpochRecord[float]], None] = lambda record: None,
) -> UsersItemsReport:
    """Train towers, choose the epoch by val, and measure test once.

    Vocabularies of ids come from the train interactions alone; other columns are known without interactions.

    Args:
        tables: users, items and interactions.
        config: settings.
        checkpoint_folder: folder of the checkpoints of unfinished runs; a run of the same tables and settings resumes there. The
            caller removes the checkpoint with UsersItemsReport.forget() when the result is stored. None writes none.
        stages: opens the progress of a phase by its label; the unit of training is steps, that of testing users.
        on_epoch: called with the record of each epoch.

    Raises:
        InvalidInput: the tables do not fit the settings.
    """
    parts = split_interactions(tables, config.split, val=config.val, test=config.test, seed=config.towers.seed)
    data = encode_tables(tables, parts["train"], config)
    val, test = (PairTable(parts[split], *data.taken.shape) for split in ("val", "test"))
    chosen = val_users(val, config)

    def selection_metric(towers: FeatureTowers) -> float:
        return float(held_out_recall(score_with(towers, data), data.taken, val, [SELECTION_CUTOFF], users=chosen).mean())

    checkpoints = None
    if checkpoint_folder:
        checkpoints = Checkpoints(checkpoint_folder / _run_key(data, parts["val"], config), CHECKPOINT_SECONDS)
    start, start_cpu = time.monotonic(), time.process_time()
    trained = train_feature_towers(
        data, config.towers, selection_metric, checkpoints=checkpoints, progress=stages("train towers"), on_epoch=on_epoch
    )
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - start_cpu
    before = PairTable(np.concatenate([parts["train"], parts["val"]]), *data.taken.shape)
    # minus the rank by train interactions; a list of equal scores would take longer to rank
    popularity = -data.taken.item_counts().argsort(descending=True, stable=True).argsort().float()  # (I,)
    systems = {
        "towers": score_with(trained.towers, data),
        "popularity": lambda users: popularity.expand(len(users), -1),
    }
    recall = {name: mean_recall(score, before, test, stages(f"test {name}")) for name, score in systems.items()}
    counts = {"users": len(tables.users.rows), "items": len(tables.items.rows), **{name: len(p) for name, p in parts.items()}}
    return UsersItemsReport(trained, counts, recall, int((test.counts > 0).sum()), seconds, cpu_seconds, checkpoints)


def _run_key(data: InteractionData, val: NDArray[np.int64], config: UsersItemsConfig) -> str:
    """Return the key of a run: a hash of everything that its outcome depends on, without the time limit."""
    arrays = [array.numpy() for features in (data.users, data.items) for array in features]
    specs = [data.user_spec.to_json(), data.item_spec.to_json()]
    settings = asdict(replace(config, towers=replace(config.towers, max_seconds=None)))
    return hash_of([settings, specs, data.pairs, val, *arrays, torch.__version__])


def encode_tables(tables: UserItems, train: NDArray[np.int64], config: UsersItemsConfig) -> InteractionData:
    """Fit the specs of both towers without val and test, and encode all rows.

    Args:
        tables: users, items and interactions.
        train: (N, 2) train pairs.
        config: settings.

    Raises:
        InvalidInput: a table has neither features nor ids to learn from.
    """
    specs = []
    for name, table, taken, use_ids, rows in (
        ("users", tables.users, train[:, 0], config.user_ids, [tables.users.rows[user] for user in np.unique(train[:, 0])]),
        ("items", tables.items, train[:, 1], config.item_ids, tables.items.rows),
    ):
        min_count = config.min_taken if name == "items" else 1
        specs.append(_fit(name, table, rows, taken, use_ids, min_count))
    return InteractionData.encode(tables.users.rows, tables.items.rows, train, *specs)


def _fit(
    name: str, table: EntityTable, rows: list[dict[str, Any]], taken: NDArray[np.int64], use_ids: bool, min_count: int
) -> FeatureSpec:
    spec = FeatureSpec.fit(rows, table.categories, table.numbers)
    categories = dict(spec.categories)
    if use_ids:
        ids = FeatureSpec.fit((table.rows[row] for row in taken), [table.id_column], min_count=min_count).categories
        categories |= {column: vocabulary for column, vocabulary in ids.items() if vocabulary}
    if not categories and not spec.numbers:
        raise InvalidInput(f"the table of {name} has no column to learn from; add one, or let the tower learn ids")
    return replace(spec, categories=categories)


def score_with(towers: FeatureTowers, data: InteractionData) -> Callable[[Tensor], Tensor]:
    """Return a function from indices of users (B,) to their cosines with all items (B, I)."""
    users, items = towers.vectors(data)
    return lambda block: users[block] @ items.T


def val_users(val: PairTable, config: UsersItemsConfig) -> Tensor:
    """Return the users whose val interactions choose the epoch, sampled by the seed."""
    users = (val.counts > 0).nonzero().flatten().numpy()
    sampled = np.random.default_rng(config.towers.seed).permutation(users)[: config.val_users]
    return torch.from_numpy(np.sort(sampled))


def mean_recall(
    score: Callable[[Tensor], Tensor], before: PairTable, test: PairTable, progress: Progress = ignore_progress
) -> dict[str, float]:
    """Return "recall@10" and so on of the test pairs, mean over the users; items taken before are left out of the lists."""
    values = held_out_recall(score, before, test, CUTOFFS, progress=progress).mean(dim=0).tolist()
    return {f"recall@{cutoff}": value for cutoff, value in zip(CUTOFFS, values, strict=True)}
