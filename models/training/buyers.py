"""Trains the buyer tower to find a buyer's next basket: InfoNCE against in-batch and random lots, popularity corrected.

The text encoder stays frozen: lots come as stored vectors, or as encodings whose projection and category embeddings are
trained along. No lot has an embedding of its own id, as lots of tonight would have none.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.config.buyers import BuyerTrainingConfig
from models.data.baskets import Basket, pad
from models.data.sampling_frequency import StreamingFrequency
from models.towers.buyer_tower import BuyerAttention
from models.towers.features import Features
from models.towers.two_towers import ItemTower, TextEncodings
from models.training.checkpoints import Checkpoints
from models.training.losses import info_nce
from models.training.schedule import learning_rate_factor
from retrieval.buyers.attention import Attention
from retrieval.buyers.vector import WeightedAverage
from retrieval.errors import InvalidInput
from retrieval.progress import Progress

CUTOFF = 50
MAX_SCALE = 100.0  # CLIP's bound on 1 / temperature
BUYERS_AT_ONCE = 256
WARMUP = 0.1


class StoredLots(nn.Module):
    """Lots whose vectors stay as they are."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.from_numpy(np.array(vectors)), persistent=False)
        self.count, self.dimensions = vectors.shape

    def forward(self, rows: Tensor) -> Tensor:
        """(U,) rows -> (U, D)."""
        found: Tensor = self.vectors[rows]
        return found


class ProjectedLots(nn.Module):
    """Lots whose texts are encoded already; projection and embeddings of the item tower are trained."""

    def __init__(self, tower: ItemTower, encodings: NDArray[np.float32], features: Features | None, dimensions: int) -> None:
        super().__init__()
        tower.text_encoder.requires_grad_(False)
        self.projection, self._tower = nn.ModuleList([tower.projection]), [tower]  # the encoder is no part of the state
        self.features_module = nn.ModuleList([tower.feature_encoder] if tower.feature_encoder else [])
        self.encodings, self.features = torch.from_numpy(np.array(encodings)), features
        self.count, self.dimensions = len(encodings), dimensions

    def forward(self, rows: Tensor) -> Tensor:
        """(U,) rows -> (U, D) of unit length."""
        tower = self._tower[0].train(self.training)
        vectors: Tensor = tower(TextEncodings(self.encodings[rows]), None, self.features.take(rows) if self.features else None)
        return vectors


Lots = StoredLots | ProjectedLots


class BuyerModel(nn.Module):
    """Lots, the buyer tower over them, and the temperature between."""

    def __init__(self, lots: Lots, config: BuyerTrainingConfig) -> None:
        super().__init__()
        self.lots = lots
        self.buyer_tower = BuyerAttention(lots.dimensions, config.heads, config.half_life_days)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    @torch.no_grad()
    def scores(self, baskets: Sequence[Basket]) -> NDArray[np.float32]:
        """Cosine of every buyer with every lot, (B, I)."""
        training = self.training
        self.eval()
        lots = self.lots(torch.arange(self.lots.count))  # (I, D)
        parts = [baskets[start : start + BUYERS_AT_ONCE] for start in range(0, len(baskets), BUYERS_AT_ONCE)]
        scores = torch.cat([self.buyer_tower(lots, pad(part)) @ lots.T for part in parts])
        self.train(training)
        return scores.numpy()


class Figures(NamedTuple):
    """How well next baskets are found."""

    recall_at_50: float
    hit_rate_at_50: float


@dataclass(frozen=True)
class BuyerReport:
    """What training came to.

    Attributes:
        model: with the weights of the best epoch.
        history: val figures before training and after each epoch.
        losses: mean loss of each epoch.
        best: the epoch that was kept; 0 is the start.
        resumed_at: epochs that a checkpoint had done already.
    """

    model: BuyerModel
    history: Sequence[Figures]
    losses: Sequence[float]
    best: int
    resumed_at: int = 0


def train_buyers(
    lots: Lots,
    train: Sequence[Basket],
    val: Sequence[Basket],
    config: BuyerTrainingConfig,
    checkpoint: Path | None = None,
    step: Progress | None = None,
) -> BuyerReport:
    """Train and keep the epoch with the best Recall@50 on val.

    Args:
        lots: stored vectors, or those to be projected; the latter are trained in place.
        train: baskets to learn from.
        val: baskets that choose the epoch; later in time than those of train. None at all keep the last epoch.
        config: how.
        checkpoint: folder of a checkpoint after every epoch; a run that finds its own there goes on from it, and removes it
            at the end. None keeps none.
        step: called with (epochs done, epochs).

    Raises:
        InvalidInput: there is nothing to learn from.
    """
    if not train:
        raise InvalidInput("there is no basket to train on: nobody came back another day; collect more events")
    torch.manual_seed(config.seed)
    run = _Run(BuyerModel(lots, config), train, val, config)
    checkpoints = Checkpoints(checkpoint, 0.0) if checkpoint else None
    state = checkpoints.load() if checkpoints else None
    if state and state["config"] == asdict(config):
        run.load_state_dict(state)
    resumed_at = len(run.losses)
    for epoch in range(resumed_at, config.epochs):
        run.epoch(epoch)
        if checkpoints:
            checkpoints.save(run.state_dict())
        if step:
            step(epoch + 1, config.epochs)
    if checkpoints:
        checkpoints.remove()
    run.model.load_state_dict(run.best)
    best = max(range(len(run.history)), key=lambda number: (run.history[number].recall_at_50, number)) if val else config.epochs
    return BuyerReport(run.model.eval(), run.history, run.losses, best, resumed_at)


class _Run:
    """One run of training: all that a checkpoint holds."""

    def __init__(self, model: BuyerModel, train: Sequence[Basket], val: Sequence[Basket], config: BuyerTrainingConfig) -> None:
        self.model, self.train, self.val, self.config = model, train, val, config
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel()]
        self.optimizer = torch.optim.AdamW(self._parameters, lr=config.rate, weight_decay=config.weight_decay)
        steps = config.epochs * math.ceil(len(train) / config.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda done: learning_rate_factor(min(done / steps, 1.0), WARMUP)
        )
        self.frequency = StreamingFrequency() if config.correct_popularity else None
        self.history, self.losses = [self._figures()], list[float]()
        self.best = copy.deepcopy(model.state_dict())

    def epoch(self, number: int) -> None:
        """Once over all baskets; draws depend on seed and epoch alone, so that a resumed run draws the same."""
        random = np.random.default_rng([self.config.seed, number])
        torch.manual_seed(self.config.seed * 1_000 + number)
        self.model.train()
        order = random.permutation(len(self.train))
        size = self.config.batch_size
        self.losses.append(fmean(self._step(order[start : start + size], random) for start in range(0, len(order), size)))
        self.history.append(self._figures())
        if self.history[-1].recall_at_50 >= max(figures.recall_at_50 for figures in self.history):
            self.best = copy.deepcopy(self.model.state_dict())

    def _figures(self) -> Figures:
        return measure(self.model.scores(self.val), self.val) if self.val else Figures(0.0, 0.0)

    def _step(self, rows: NDArray[np.int64], random: np.random.Generator) -> float:
        loss = self._loss([self.train[row] for row in rows], random)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def _loss(self, baskets: Sequence[Basket], random: np.random.Generator) -> Tensor:
        """InfoNCE of one batch; lots of the basket, and as configured those of the history, are no negatives."""
        config, model = self.config, self.model
        drawn = np.stack([random.choice(basket.targets, config.targets) for basket in baskets])  # (B, T)
        negatives = random.integers(model.lots.count, size=config.random)  # (R,)
        candidates = np.concatenate([drawn.ravel(), negatives])  # (B T + R,), the first B T are the answers
        answers = [basket.targets for basket in baskets]
        table = np.unique(np.concatenate([candidates, *(basket.items for basket in baskets)]))  # (U,)
        places = {row: place for place, row in enumerate(table.tolist())}
        lots = model.lots(torch.from_numpy(table))  # (U, D)
        buyers = model.buyer_tower(lots, pad(baskets, places))  # (B, D)
        known = np.zeros((len(baskets), len(table)), dtype=np.bool_)  # (B, U)
        for number, basket in enumerate(baskets):
            own = answers[number].tolist() if config.own_are_negatives else [*answers[number].tolist(), *basket.owned]
            known[number, [places[row] for row in own if row in places]] = True
        chosen = torch.from_numpy(np.searchsorted(table, candidates))  # (B T + R,)
        log_q = torch.from_numpy(self.frequency.update(candidates)) if self.frequency else None
        return info_nce(
            buyers.repeat_interleave(config.targets, dim=0),  # (B T, D)
            F.embedding(chosen, lots),
            model.scale,
            known=torch.from_numpy(known)[:, chosen].repeat_interleave(config.targets, dim=0),
            log_q=log_q,
            symmetric=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the run goes on from."""
        return {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "frequency": self.frequency.state_dict() if self.frequency else None,
            "history": [tuple(figures) for figures in self.history],
            "losses": self.losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        if self.frequency:
            self.frequency.load_state_dict(state["frequency"])
        self.best, self.losses = state["best"], list(state["losses"])
        self.history = [Figures(*figures) for figures in state["history"]]


def measure(scores: NDArray[np.float32], baskets: Sequence[Basket], k: int = CUTOFF) -> Figures:
    """Mean Recall@k and HitRate@k over buyers.

    Args:
        scores: (B, I) the higher, the earlier.
        baskets: B.
        k: length of the list.
    """
    found = [len(np.intersect1d(top, b.targets)) for top, b in zip(best_items(scores, k), baskets, strict=True)]
    return Figures(
        fmean(count / len(basket.targets) for count, basket in zip(found, baskets, strict=True)),
        fmean(count > 0 for count in found),
    )


def best_items(scores: NDArray[np.float32], k: int = CUTOFF) -> NDArray[np.int64]:
    """(B, k) rows of the lots that score highest, in no order."""
    k = min(k, scores.shape[1])
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]


def to_numpy(tower: BuyerAttention) -> Attention | WeightedAverage:
    """A trained tower as serving computes it."""
    if not tower.heads:
        return WeightedAverage(tower.half_life_days)
    arrays = {
        "context": tower.context,
        "weight_share": tower.weight_share,
        "fade": F.softplus(tower.fade),
        "blend": tower.blend,
        "bias": tower.bias,
    }
    plain = {name: value.detach().cpu().numpy().astype(np.float64) for name, value in arrays.items()}
    return Attention(**plain, half_life_days=tower.half_life_days)
