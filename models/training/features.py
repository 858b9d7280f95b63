"""Training of two feature towers on interactions, with in-batch and mined negatives.

Exact search replaces an index, in blocks of users. Towers over texts and photos are trained by models.training.two_towers.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.config.features import FeatureTrainingConfig
from models.data.pair_table import PairTable
from models.data.sampling_frequency import StreamingFrequency
from models.data.shuffle import Shuffle
from models.towers.features import Features, FeatureTower
from models.training.checkpoints import Checkpoints
from models.training.loop import EpochRecord, LoopSettings, StepMetrics, TrainingLoop, TrainingTask
from models.training.losses import info_nce
from models.training.step import in_batch_metrics
from retrieval.encoders.feature_spec import FeatureSpec, Row
from retrieval.progress import Progress, ignore_progress

MAX_SCALE = 100.0  # CLIP's bound on 1 / temperature
MINING_BLOCK = 1024  # users whose scores are held at once
WARMUP = 0.1
MAX_GRAD_NORM = 1.0

Pairs = NDArray[np.int64]  # (N, 2), index of a user and index of an item that the user took
Records = Callable[[EpochRecord[float]], None]


class FeatureColumns(TypedDict, total=False):
    """Names of features, as FeatureSpec.fit() takes them."""

    categories: Sequence[str]
    numbers: Sequence[str]


@dataclass(frozen=True)
class InteractionData:
    """Users and items as features, and the pairs to train on.

    Attributes:
        users: features of the U users; ids are among these if the towers may read them.
        items: features of the I items, likewise.
        user_spec: encoding of the users' features.
        item_spec: encoding of the items' features.
        pairs: (N, 2) training pairs.
        taken: the training pairs; mining and the loss never use these as negatives.
    """

    users: Features
    items: Features
    user_spec: FeatureSpec
    item_spec: FeatureSpec
    pairs: Pairs
    taken: PairTable

    @classmethod
    def build(
        cls,
        users: list[Row],
        items: list[Row],
        pairs: Pairs,
        *,
        user_columns: FeatureColumns,
        item_columns: FeatureColumns,
    ) -> "InteractionData":
        """Fit the specs on the rows and encode the rows.

        Args:
            users: features of every user.
            items: features of every item.
            pairs: (N, 2) training pairs, indices into users and items.
            user_columns: names of the users' features.
            item_columns: names of the items' features.
        """
        user_spec, item_spec = FeatureSpec.fit(users, **user_columns), FeatureSpec.fit(items, **item_columns)
        return cls.encode(users, items, pairs, user_spec, item_spec)

    @classmethod
    def encode(
        cls, users: Sequence[Row], items: Sequence[Row], pairs: Pairs, user_spec: FeatureSpec, item_spec: FeatureSpec
    ) -> "InteractionData":
        """Encode the rows with given specs; the other arguments are those of build()."""
        taken = PairTable(pairs, len(users), len(items))
        return cls(Features.of(user_spec, users), Features.of(item_spec, items), user_spec, item_spec, pairs, taken)


class FeatureTowers(nn.Module):
    """A tower for users, a tower for items, and the temperature of their similarity."""

    def __init__(self, user_spec: FeatureSpec, item_spec: FeatureSpec, config: FeatureTrainingConfig) -> None:
        super().__init__()
        self.user_tower, self.item_tower = (
            FeatureTower(
                spec,
                config.hidden,
                config.dimensions,
                widths={name: config.id_width for name in spec.categories if name == "id" or name.endswith("_id")},
                dropout=config.dropout,
                unknown_rate=config.unknown_rate,
            )
            for spec in (user_spec, item_spec)
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    @torch.no_grad()
    def vectors(self, data: InteractionData) -> tuple[Tensor, Tensor]:
        """Return the vectors of all users (U, D) and of all items (I, D), of unit length."""
        training = self.training
        self.eval()
        vectors = self.user_tower(*data.users), self.item_tower(*data.items)
        self.train(training)
        return vectors

    def scores(self, data: InteractionData) -> Tensor:
        """Return the cosine of every user with every item, (U, I)."""
        users, items = self.vectors(data)
        return users @ items.T


@dataclass(frozen=True)
class FeatureReport:
    """Result of training two feature towers.

    Attributes:
        towers: the towers, with the weights of the best epoch.
        epochs: one record per epoch; the first one is of the towers before training. `metrics` is the selection metric.
        best: the epoch whose weights the towers have.
        steps: number of steps that were run.
        planned_steps: number of steps in the schedule.
        cut_by_clock: True if max_seconds ended the run; the next one with the same checkpoints resumes it.
    """

    towers: FeatureTowers
    epochs: list[EpochRecord[float]]
    best: EpochRecord[float]
    steps: int
    planned_steps: int
    cut_by_clock: bool

    @property
    def history(self) -> list[float]:
        """Return the selection metric before training and after each epoch."""
        return [record.metrics for record in self.epochs if record.metrics is not None]

    @property
    def losses(self) -> list[float]:
        """Return the mean loss of each epoch."""
        return [record.loss for record in self.epochs[1:]]


def train_feature_towers(
    data: InteractionData,
    config: FeatureTrainingConfig,
    selection_metric: Callable[[FeatureTowers], float],
    *,
    start_from: FeatureTowers | None = None,
    mined: Tensor | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress = ignore_progress,
    on_epoch: Records = lambda record: None,
) -> FeatureReport:
    """Train for config.epochs and return the towers of the best epoch.

    Args:
        data: users, items and training pairs.
        config: settings; `hard` and `random` apply only with `mined`, `later_rate` only with `start_from`.
        selection_metric: function from the towers to a metric of held-out pairs; greater is better.
        start_from: towers to continue from, which are not changed; None starts anew.
        mined: (U, M) int64, hard negatives of every user, as mine() returns them.
        checkpoints: checkpoints of this run, from which a stopped run resumes; the caller removes them. None writes none.
        progress: called with (steps done, steps) after each step.
        on_epoch: called with the record of each epoch.

    Returns:
        The towers and the history of the run.
    """
    torch.manual_seed(config.seed)
    towers = copy.deepcopy(start_from) if start_from else FeatureTowers(data.user_spec, data.item_spec, config)
    rate = config.rate * (config.later_rate if start_from else 1.0)
    task = FeatureTask(towers, data, config, rate, selection_metric, mined)
    settings = LoopSettings(
        epochs=config.epochs,
        steps_per_epoch=task.steps_per_epoch,
        warmup=WARMUP,
        max_grad_norm=MAX_GRAD_NORM,
        validate_every=1,
        measure_start=True,
        max_seconds=config.max_seconds,
        patience=config.patience,
    )
    loop = TrainingLoop(task, settings, checkpoints)
    shown = 0

    def step(done: int, total: int) -> None:
        nonlocal shown
        progress(done, total)
        for record in loop.history[shown:]:
            on_epoch(record)
        shown = len(loop.history)

    loop.run(step)
    assert loop.best is not None
    return FeatureReport(towers, loop.history, loop.best, loop.steps_run, loop.steps, loop.cut_by_clock)


class FeatureTask(TrainingTask[float]):
    """Training of two feature towers on pairs."""

    def __init__(
        self,
        towers: FeatureTowers,
        data: InteractionData,
        config: FeatureTrainingConfig,
        rate: float,
        selection_metric: Callable[[FeatureTowers], float],
        mined: Tensor | None,
    ) -> None:
        self.model = self._towers = towers
        self._data, self._config, self._mined, self._selection_metric = data, config, mined, selection_metric
        self.optimizers = {"optimizer": torch.optim.AdamW(towers.parameters(), lr=rate, weight_decay=config.weight_decay)}
        self._batch_size = min(config.batch_size, len(data.pairs))
        self.steps_per_epoch = len(data.pairs) // self._batch_size  # whole batches; the rest is left to the next epoch
        self._frequency = StreamingFrequency() if config.correct_popularity else None
        self._shuffle = Shuffle(len(data.pairs), self._batch_size, self.steps_per_epoch, config.seed)

    def backward(self, step: int) -> StepMetrics:
        """Compute the gradients of one batch of pairs; steps must be made in order."""
        batch = _batch(self._data, self._shuffle.batch(step), self._mined, self._config, self._shuffle.random)
        return _backward(self._towers, self._data, *batch, self._frequency)

    def measure(self) -> float:
        """Return the selection metric of the towers."""
        return self._selection_metric(self._towers)

    def is_better(self, metrics: float, best: float) -> bool:
        """Return True if the selection metric did not fall."""
        return metrics >= best

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the batches and of the sampling frequencies."""
        return {**self._shuffle.state_dict(), "frequency": self._frequency.state_dict() if self._frequency else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of state_dict()."""
        self._shuffle.load_state_dict(state)
        if self._frequency:
            self._frequency.load_state_dict(state["frequency"])


def mine(towers: FeatureTowers, data: InteractionData, config: FeatureTrainingConfig) -> Tensor:
    """Return the items that the towers rank highest for each user, without items that the user took in training.

    Returns:
        (U, config.mined_depth - config.mined_skip) int64, best first.
    """
    users, items = towers.vectors(data)
    blocks = torch.split(torch.arange(len(users)), MINING_BLOCK)
    scores = ((users[block] @ items.T).masked_fill_(data.taken.rows(block), -math.inf) for block in blocks)
    return torch.cat([part.topk(config.mined_depth, dim=1).indices for part in scores])[:, config.mined_skip :]


def _batch(
    data: InteractionData, rows: NDArray[np.int64], mined: Tensor | None, config: FeatureTrainingConfig, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return users (B,) and items (B + hard + random,); the first B items are the users' own."""
    pairs = torch.from_numpy(data.pairs[rows])  # (B, 2)
    users, items = pairs[:, 0], [pairs[:, 1]]
    if mined is not None:
        mined_for = users[torch.from_numpy(random.integers(len(users), size=round(config.hard * len(users))))]
        items.append(mined[mined_for, torch.from_numpy(random.integers(mined.shape[1], size=len(mined_for)))])
        items.append(torch.from_numpy(random.integers(data.taken.shape[1], size=round(config.random * len(users)))))
    return users, torch.cat(items)


def _backward(
    towers: FeatureTowers, data: InteractionData, users: Tensor, items: Tensor, frequency: StreamingFrequency | None
) -> StepMetrics:
    """Add the gradients of InfoNCE over one batch. Items that a user took, copies of the own item included, are no negatives."""
    user_vectors = towers.user_tower(*data.users.take(users))  # (B, D)
    item_vectors = towers.item_tower(*data.items.take(items))  # (B + negatives, D)
    is_relevant = data.taken.among(users, items)  # (B, B + negatives)
    log_q = torch.from_numpy(frequency.update(items.numpy())) if frequency else None
    loss = info_nce(user_vectors, item_vectors, towers.scale, is_relevant=is_relevant, log_q=log_q, symmetric=False)
    torch.autograd.backward(loss)
    accuracy, recall_at_10 = in_batch_metrics(user_vectors.detach(), item_vectors.detach(), is_relevant)
    return StepMetrics(loss.detach(), accuracy, recall_at_10)
