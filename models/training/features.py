"""Training of two feature towers on interactions, with in-batch and mined negatives.

Users, items and all their scores must fit into memory: exact search replaces an index. Towers over texts and photos are
trained by models.training.two_towers.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data.sampling_frequency import StreamingFrequency
from models.towers.features import Features, FeatureSpec, FeatureTower, Row
from models.training.loop import LoopSettings, StepMetrics, TrainingLoop, TrainingTask, per_epoch
from models.training.losses import info_nce

MAX_SCALE = 100.0  # CLIP's bound on 1 / temperature
CUTOFF = 50  # length of the list in recall()
WARMUP = 0.1
MAX_GRAD_NORM = 1.0

Pairs = NDArray[np.int64]  # (N, 2), index of a user and index of an item that the user took
Scores = Callable[[Pairs], float]


class FeatureColumns(TypedDict, total=False):
    """Names of features, as FeatureSpec.fit() takes them."""

    categories: Sequence[str]
    numbers: Sequence[str]


@dataclass(frozen=True)
class FeatureTrainingConfig:
    """Training settings of two feature towers.

    Attributes:
        dimensions: length of the vectors.
        hidden: width of the hidden layers; 0 for no hidden layer.
        id_width: width of the embeddings of user and item ids.
        unknown_rate: share of category values, ids included, that training replaces by unknown.
        dropout: dropout probability on the hidden layers.
        batch_size: pairs per step.
        epochs: passes over all pairs, without and with mined negatives.
        rate: peak learning rate of AdamW; it rises over a tenth of the steps, then falls as a cosine.
        weight_decay: weight decay of AdamW.
        temperature: initial temperature; it is learned.
        correct_popularity: True subtracts the log of an item's sampling frequency from the item's logit. The frequency is estimated
            from the batches (Yi et al. 2019).
        hard: mined negatives per pair; used only if mined negatives are given.
        random: random negatives per pair; used only if mined negatives are given.
        mined_skip: top ranks that mining leaves out, because they often hold items that were only not bought yet.
        mined_depth: last rank that mining takes.
        later_rate: peak learning rate as a share of `rate`, for training that starts from trained towers.
        seed: seed of weights, batches and draws.
    """

    dimensions: int = 64
    hidden: int = 128
    id_width: int = 32
    unknown_rate: float = 0.1
    dropout: float = 0.0
    batch_size: int = 512
    epochs: int = 3
    rate: float = 5e-3
    weight_decay: float = 1e-4
    temperature: float = 0.1
    correct_popularity: bool = False
    hard: float = 1.0
    random: float = 0.5
    mined_skip: int = 0
    mined_depth: int = 100
    later_rate: float = 0.3
    seed: int = 7


@dataclass(frozen=True)
class InteractionData:
    """Users and items as features, and the pairs to train on.

    Attributes:
        users: features of the U users; ids are among these if the towers may read them.
        items: features of the I items, likewise.
        user_spec: encoding of the users' features.
        item_spec: encoding of the items' features.
        pairs: (N, 2) training pairs.
        taken: (U, I) bool, True for the training pairs; mining and the loss never use these as negatives.
    """

    users: Features
    items: Features
    user_spec: FeatureSpec
    item_spec: FeatureSpec
    pairs: Pairs
    taken: Tensor

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
        taken = torch.zeros(len(users), len(items), dtype=torch.bool)
        taken[pairs[:, 0], pairs[:, 1]] = True
        return cls(user_spec.encode(users), item_spec.encode(items), user_spec, item_spec, pairs, taken)


class FeatureTowers(nn.Module):
    """A tower for users, a tower for items, and the temperature of their similarity."""

    def __init__(self, data: InteractionData, config: FeatureTrainingConfig) -> None:
        super().__init__()
        self.user_tower, self.item_tower = (
            FeatureTower(
                spec,
                config.hidden,
                config.dimensions,
                widths={name: config.id_width for name in spec.categories if name.endswith("_id")},
                dropout=config.dropout,
                unknown_rate=config.unknown_rate,
            )
            for spec in (data.user_spec, data.item_spec)
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    @torch.no_grad()
    def scores(self, data: InteractionData) -> Tensor:
        """Return the cosine of every user with every item, (U, I)."""
        training = self.training
        self.eval()
        scores: Tensor = self.user_tower(*data.users) @ self.item_tower(*data.items).T
        self.train(training)
        return scores


@dataclass(frozen=True)
class FeatureReport:
    """Result of training two feature towers.

    Attributes:
        towers: the towers, with the weights of the best epoch.
        history: selection metric before training and after each epoch.
        losses: mean loss of each epoch.
    """

    towers: FeatureTowers
    history: list[float]
    losses: list[float]


def train_feature_towers(
    data: InteractionData,
    config: FeatureTrainingConfig,
    selection_metric: Callable[[Tensor], float],
    *,
    start_from: FeatureTowers | None = None,
    mined: Tensor | None = None,
    step: Callable[[int, int], None] | None = None,
) -> FeatureReport:
    """Train for config.epochs and return the towers of the best epoch.

    Args:
        data: users, items and training pairs.
        config: settings; `hard` and `random` apply only with `mined`, `later_rate` only with `start_from`.
        selection_metric: function from (U, I) cosines to a metric of held-out pairs; greater is better.
        start_from: towers to continue from, which are not changed; None starts anew.
        mined: (U, M) int64, hard negatives of every user, as mine() returns them.
        step: called with (epochs done, epochs) after each epoch.

    Returns:
        The towers and the history of the run.
    """
    torch.manual_seed(config.seed)
    towers = copy.deepcopy(start_from) if start_from else FeatureTowers(data, config)
    rate = config.rate * (config.later_rate if start_from else 1.0)
    task = FeatureTask(towers, data, config, rate, selection_metric, mined)
    settings = LoopSettings(
        epochs=config.epochs,
        steps_per_epoch=task.steps_per_epoch,
        warmup=WARMUP,
        max_grad_norm=MAX_GRAD_NORM,
        validate_every=1,
        measure_start=True,
    )
    loop = TrainingLoop(task, settings)
    loop.run(per_epoch(step, task.steps_per_epoch))
    history = [record.metrics for record in loop.history if record.metrics is not None]
    return FeatureReport(towers, history, [record.loss for record in loop.history[1:]])


class FeatureTask(TrainingTask[float]):
    """Training of two feature towers on pairs."""

    def __init__(
        self,
        towers: FeatureTowers,
        data: InteractionData,
        config: FeatureTrainingConfig,
        rate: float,
        selection_metric: Callable[[Tensor], float],
        mined: Tensor | None,
    ) -> None:
        self.model = self._towers = towers
        self._data, self._config, self._mined, self._selection_metric = data, config, mined, selection_metric
        self.optimizers = {"optimizer": torch.optim.AdamW(towers.parameters(), lr=rate, weight_decay=config.weight_decay)}
        self._batch_size = min(config.batch_size, len(data.pairs))
        self.steps_per_epoch = len(data.pairs) // self._batch_size  # whole batches; the rest is left to the next epoch
        self._frequency = StreamingFrequency() if config.correct_popularity else None
        self._random, self._order = np.random.default_rng(config.seed), np.empty(0, np.int64)

    def backward(self, step: int) -> StepMetrics:
        """Compute the gradients of one batch of pairs; steps must be made in order."""
        place = step % self.steps_per_epoch
        if place == 0:
            self._order = self._random.permutation(len(self._data.pairs))
        rows = self._order[place * self._batch_size :][: self._batch_size]
        batch = _batch(self._data, rows, self._mined, self._config, self._random)
        loss = _loss(self._towers, self._data, *batch, self._frequency)
        torch.autograd.backward(loss)
        return StepMetrics.of_loss(loss)

    def measure(self) -> float:
        """Return the selection metric of the cosines of all users with all items."""
        return self._selection_metric(self._towers.scores(self._data))

    def is_better(self, metrics: float, best: float) -> bool:
        """Return True if the selection metric did not fall."""
        return metrics >= best


def mine(towers: FeatureTowers, data: InteractionData, config: FeatureTrainingConfig) -> Tensor:
    """Return the items that the towers rank highest for each user, without items that the user took in training.

    Returns:
        (U, config.mined_depth - config.mined_skip) int64, best first.
    """
    scores = towers.scores(data).masked_fill(data.taken, -math.inf)
    return scores.topk(config.mined_depth, dim=1).indices[:, config.mined_skip :]


def recall(scores: Tensor, hidden: Tensor, relevant: Tensor, k: int = CUTOFF) -> Tensor:
    """Return Recall@k of every user with a relevant item.

    Args:
        scores: (U, I), higher ranks earlier.
        hidden: (U, I) bool, True for items that the user took before; they are left out of the ranking.
        relevant: (U, I) bool, True for items that the user took afterwards.
        k: number of items in a user's list.

    Returns:
        (V,) in [0, 1] for the V users with at least one relevant item, in their order.
    """
    top = scores.masked_fill(hidden, -math.inf).topk(k, dim=1).indices  # (U, k)
    hits, counts = relevant.gather(1, top).sum(1), relevant.sum(1)  # (U,)
    return (hits / counts)[counts > 0]


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


def _loss(
    towers: FeatureTowers, data: InteractionData, users: Tensor, items: Tensor, frequency: StreamingFrequency | None
) -> Tensor:
    """Return InfoNCE of one batch. Items that a user took, copies of the user's own item included, are no negatives."""
    user_vectors = towers.user_tower(*data.users.take(users))  # (B, D)
    item_vectors = towers.item_tower(*data.items.take(items))  # (B + negatives, D)
    is_relevant = data.taken[users][:, items]  # (B, B + negatives)
    log_q = torch.from_numpy(frequency.update(items.numpy())) if frequency else None
    return info_nce(user_vectors, item_vectors, towers.scale, is_relevant=is_relevant, log_q=log_q, symmetric=False)
