"""Training of the buyer tower on next baskets: InfoNCE against in-batch and random items, corrected for popularity.

The text encoder stays frozen. Items are stored vectors, or text encodings with a projection and category embeddings that are
trained together with the buyer tower. There are no embeddings of item ids, because new items would have none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.artefacts.run_record import hash_of
from models.config.buyers import BuyerTrainingConfig
from models.data.baskets import Basket, pad
from models.data.sampling_frequency import StreamingFrequency
from models.towers.buyer_tower import BuyerAttention
from models.towers.features import Features
from models.towers.two_towers import Addition, ItemTower, TextEncodings
from models.training.checkpoints import Checkpoints
from models.training.loop import LoopSettings, StepMetrics, TrainingLoop, TrainingTask, per_epoch
from models.training.losses import info_nce
from retrieval.buyers.attention import Attention
from retrieval.buyers.vector import WeightedAverage
from retrieval.errors import InvalidInput
from retrieval.progress import Progress

CUTOFF = 50
MAX_SCALE = 100.0  # CLIP's bound on 1 / temperature
BUYERS_AT_ONCE = 256
WARMUP = 0.1
MAX_GRAD_NORM = 1.0
MIN_VARIANCE = 1e-4  # added to the variance of every direction, so that noise is not amplified


class StoredItems(nn.Module):
    """Items with fixed vectors."""

    vectors: Tensor

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.from_numpy(np.array(vectors)), persistent=False)
        self.count, self.dimensions = vectors.shape

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors (U, D) of rows (U,)."""
        return self.vectors[rows]


class ProjectedItems(nn.Module):
    """Items with fixed text encodings; projection and embeddings of the item tower are trained."""

    def __init__(self, tower: ItemTower, encodings: NDArray[np.float32], features: Features | None, dimensions: int) -> None:
        super().__init__()
        tower.text_encoder.requires_grad_(False)
        self.projection, self._tower = nn.ModuleList([tower.projection]), [tower]  # a list keeps the encoder out of the state
        self.features_module = nn.ModuleList([tower.feature_encoder] if tower.feature_encoder else [])
        self.encodings, self.features = torch.from_numpy(np.array(encodings)), features
        self.count, self.dimensions = len(encodings), dimensions

    def forward(self, rows: Tensor) -> Tensor:
        """Return the unit vectors (U, D) of rows (U,)."""
        tower = self._tower[0].train(self.training)
        vectors: Tensor = tower(TextEncodings(self.encodings[rows]), None, self.features.take(rows) if self.features else None)
        return vectors


@torch.no_grad()
def start_white(projection: torch.nn.Module, encodings: NDArray[np.float32]) -> None:
    """Set a linear projection to the whitening of a catalogue's encodings (Su et al. 2021, "Whitening sentence representations").

    Vectors of sentence encoders crowd in a narrow cone, where an average of many items is close to any other average. Centring
    and whitening spreads the vectors without training.

    Args:
        projection: projection of an item tower with hidden 0, `linear` and features. The bias of the layer for features is set
            to the centre.
        encodings: (N, width) encodings of the items' texts.

    Raises:
        InvalidInput: the projection is not of this kind.
    """
    if not (isinstance(projection, Addition) and isinstance(projection.text, torch.nn.Linear) and projection.others):
        raise InvalidInput("only a linear projection of text and features can start as a whitening: hidden 0, linear, features")
    units = encodings / np.linalg.norm(encodings, axis=1, keepdims=True)  # (N, width)
    centre = units.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov((units - centre).T, bias=True))  # ascending
    largest = slice(-projection.text.out_features, None)
    white = (directions[:, largest] / np.sqrt(np.maximum(variances[largest], 0) + MIN_VARIANCE)).T  # (dimensions, width)
    scale = 1 / np.linalg.norm((units - centre) @ white.T, axis=1).mean()  # vectors of about unit length
    projection.text.weight.copy_(torch.from_numpy(white * scale))
    projection.others.bias.copy_(torch.from_numpy(-(white @ centre) * scale))


ItemVectors = StoredItems | ProjectedItems


class BuyerModel(nn.Module):
    """Items, the buyer tower, and the temperature of their similarity."""

    def __init__(self, items: ItemVectors, config: BuyerTrainingConfig) -> None:
        super().__init__()
        self.items = items
        self.buyer_tower = BuyerAttention(items.dimensions, config.heads, config.half_life_days)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    @torch.no_grad()
    def scores(self, baskets: Sequence[Basket]) -> NDArray[np.float32]:
        """Return the cosine of every buyer with every item, (B, I)."""
        training = self.training
        self.eval()
        items = self.items(torch.arange(self.items.count))  # (I, D)
        parts = [baskets[start : start + BUYERS_AT_ONCE] for start in range(0, len(baskets), BUYERS_AT_ONCE)]
        scores = torch.cat([self.buyer_tower(items, pad(part)) @ items.T for part in parts])
        self.train(training)
        return scores.numpy()


@dataclass(frozen=True)
class BuyerMetrics:
    """Mean Recall@50 and HitRate@50 over buyers."""

    recall_at_50: float
    hit_rate_at_50: float


@dataclass(frozen=True)
class BuyerReport:
    """Result of training a buyer tower.

    Attributes:
        model: the model, with the weights of the selected epoch.
        history: val metrics before training and after each epoch; zeros if there is no val basket.
        losses: mean loss of each epoch.
        best: number of the selected epoch; 0 is the state before training.
        steps: number of steps that were run.
        planned_steps: number of steps in the schedule.
        cut_by_clock: True if max_seconds ended the run; the next one with the same settings and data resumes it.
        resumed_at: number of epochs done before this run resumed; 0 for a run from its start.
    """

    model: BuyerModel
    history: Sequence[BuyerMetrics]
    losses: Sequence[float]
    best: int
    steps: int
    planned_steps: int
    cut_by_clock: bool
    resumed_at: int = 0


def train_buyers(
    items: ItemVectors,
    train: Sequence[Basket],
    val: Sequence[Basket],
    config: BuyerTrainingConfig,
    checkpoint: Path | None = None,
    step: Progress | None = None,
) -> BuyerReport:
    """Train a buyer model and return it with the weights of the epoch with the best Recall@50 on val.

    Args:
        items: items of all baskets; ProjectedItems are trained in place.
        train: baskets to learn from.
        val: baskets that select the epoch, later in time than those of train. If empty, the last epoch is selected.
        config: settings.
        checkpoint: folder of the checkpoint, which is written after every epoch and removed at the end. A stopped or cut run with
            the same settings and baskets resumes from it. None writes no checkpoint.
        step: called with (epochs done, epochs) after each epoch.

        Raises:
            InvalidInput: `train` is empty.
    """
    if not train:
        raise InvalidInput("there is no basket to train on: nobody came back another day; collect more events")
    torch.manual_seed(config.seed)
    task = BuyerTask(BuyerModel(items, config), train, val, config)
    settings = LoopSettings(
        epochs=config.epochs,
        steps_per_epoch=task.steps_per_epoch,
        warmup=WARMUP,
        max_grad_norm=MAX_GRAD_NORM,
        validate_every=1 if val else 0,
        measure_start=True,
        max_seconds=config.max_seconds,
    )
    checkpoints = Checkpoints(checkpoint, math.inf, epoch_seconds=0.0) if checkpoint else None
    loop = TrainingLoop(task, settings, checkpoints)
    resumed_at = loop.resumed_at // task.steps_per_epoch
    loop.run(per_epoch(step, task.steps_per_epoch))
    if checkpoints and not loop.cut_by_clock:
        checkpoints.remove()
    return BuyerReport(
        model=task.model,
        history=[record.metrics or BuyerMetrics(0.0, 0.0) for record in loop.history],
        losses=[record.loss for record in loop.history[1:]],
        best=(loop.best or loop.history[-1]).epoch,
        steps=loop.steps_run,
        planned_steps=loop.steps,
        cut_by_clock=loop.cut_by_clock,
        resumed_at=resumed_at,
    )


class BuyerTask(TrainingTask[BuyerMetrics]):
    """Training of a buyer model on baskets."""

    model: BuyerModel
    metrics_type = BuyerMetrics

    def __init__(self, model: BuyerModel, train: Sequence[Basket], val: Sequence[Basket], config: BuyerTrainingConfig) -> None:
        self.model, self._train, self._val, self._config = model, train, val, config
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel()]
        self.optimizers = {"optimizer": torch.optim.AdamW(parameters, lr=config.rate, weight_decay=config.weight_decay)}
        self.settings = asdict(config) | {"max_seconds": None, "data": _data_hash(model.items, train, val)}
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self._frequency = StreamingFrequency() if config.correct_popularity else None
        self._random, self._order = np.random.default_rng(), np.empty(0, np.int64)  # of the current epoch

    def backward(self, step: int) -> StepMetrics:
        """Compute the gradients of one batch of baskets. Random draws depend only on the seed and the number of the epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if place == 0:
            self._random = np.random.default_rng([self._config.seed, epoch])
            torch.manual_seed(self._config.seed * 1_000 + epoch)
            self._order = self._random.permutation(len(self._train))
        rows = self._order[place * self._config.batch_size :][: self._config.batch_size]
        loss = self._loss([self._train[row] for row in rows], self._random)
        torch.autograd.backward(loss)
        return StepMetrics.of_loss(loss)

    def measure(self) -> BuyerMetrics:
        """Rank all items for the validation baskets and return the metrics."""
        return measure(self.model.scores(self._val), self._val)

    def is_better(self, metrics: BuyerMetrics, best: BuyerMetrics) -> bool:
        """Return True if Recall@50 did not fall."""
        return metrics.recall_at_50 >= best.recall_at_50

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the sampling frequencies and of the random draws."""
        return {
            "frequency": self._frequency.state_dict() if self._frequency else None,
            "order": torch.from_numpy(self._order),
            "random": self._random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of state_dict()."""
        if self._frequency:
            self._frequency.load_state_dict(state["frequency"])
        self._order, self._random.bit_generator.state = state["order"].numpy(), state["random"]

    def _loss(self, baskets: Sequence[Basket], random: np.random.Generator) -> Tensor:
        """Return InfoNCE of one batch. A buyer's basket, and unless own_are_negatives the history, are no negatives."""
        config, model = self._config, self.model
        sampled = np.stack([random.choice(basket.targets, config.targets) for basket in baskets])  # (B, T)
        negatives = random.integers(model.items.count, size=config.random)  # (R,)
        candidates = np.concatenate([sampled.ravel(), negatives])  # (B T + R,), the first B T are the answers
        answers = [basket.targets for basket in baskets]
        table = np.unique(np.concatenate([candidates, *(basket.items for basket in baskets)]))  # (U,)
        places = {row: place for place, row in enumerate(table.tolist())}
        items = model.items(torch.from_numpy(table))  # (U, D)
        buyers = model.buyer_tower(items, pad(baskets, places))  # (B, D)
        is_relevant = np.zeros((len(baskets), len(table)), dtype=np.bool_)  # (B, U)
        for number, basket in enumerate(baskets):
            own = answers[number].tolist() if config.own_are_negatives else [*answers[number].tolist(), *basket.owned]
            is_relevant[number, [places[row] for row in own if row in places]] = True
        chosen = torch.from_numpy(np.searchsorted(table, candidates))  # (B T + R,)
        log_q = torch.from_numpy(self._frequency.update(candidates)) if self._frequency else None
        return info_nce(
            buyers.repeat_interleave(config.targets, dim=0),  # (B T, D)
            F.embedding(chosen, items),
            model.scale,
            is_relevant=torch.from_numpy(is_relevant)[:, chosen].repeat_interleave(config.targets, dim=0),
            log_q=log_q,
            symmetric=False,
        )


def _data_hash(items: ItemVectors, train: Sequence[Basket], val: Sequence[Basket]) -> str:
    vectors = items.vectors if isinstance(items, StoredItems) else items.encodings
    baskets = [[b.items, b.weights, b.ages_days, np.array(sorted(b.owned)), b.targets] for b in (*train, *val)]
    return hash_of([vectors.numpy(), len(train), *(array for arrays in baskets for array in arrays)])


def measure(scores: NDArray[np.float32], baskets: Sequence[Basket], k: int = CUTOFF) -> BuyerMetrics:
    """Return mean Recall@k and HitRate@k over buyers.

    Args:
        scores: (B, I), higher ranks earlier.
        baskets: B baskets, in the order of the scores.
        k: number of items in a buyer's list.
    """
    hits = [len(np.intersect1d(top, b.targets)) for top, b in zip(best_items(scores, k), baskets, strict=True)]
    return BuyerMetrics(
        fmean(count / len(basket.targets) for count, basket in zip(hits, baskets, strict=True)),
        fmean(count > 0 for count in hits),
    )


def best_items(scores: NDArray[np.float32], k: int = CUTOFF) -> NDArray[np.int64]:
    """Return (B, k) rows of the k items with the highest scores, in no particular order."""
    k = min(k, scores.shape[1])
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]


def to_numpy(tower: BuyerAttention) -> Attention | WeightedAverage:
    """Convert a trained tower into the numpy one that serves."""
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
