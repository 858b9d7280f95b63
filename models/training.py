"""Training of both towers on (query, lot) pairs."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from catalog.folder import CatalogFolder
from models.artefact import save_towers
from models.augmentation import Augmentation, augment
from models.losses import info_nce
from models.pixels import normalise, to_unit
from models.presets import TowerConfig, preset
from models.tokenizer import make_tokenizer
from models.towers import Photos, Tokens, TwoTowers
from models.training_data import Lots, PhotoTable, Queries, TokenTable, read_training_lots
from models.validation import Figures, Validation, to_tokens
from retrieval.encoder import prepare_tokenizer

log = logging.getLogger(__name__)

ProgressCallback = Callable[[int, int], None]  # (steps done, steps in all)
PHOTO_MARGIN = 1.25  # photos are kept this much larger than the tower sees them, so that crops stay sharp
CACHE_FOLDER = ".photos"


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run makes of a catalogue.

    Attributes:
        tower: the architecture.
        epochs: passes over the lots (or over the queries, where there are more of them), >= 1.
        batch_size: pairs of a step, each of another query, >= 2.
        learning_rate: peak of AdamW's (Loshchilov and Hutter 2019).
        pretrained_factor: the learning rate of pretrained encoders, as a share of learning_rate.
        weight_decay: on matrices; biases, norms and the temperature have none.
        warmup: share of the steps over which the learning rate rises; then it falls as a cosine to zero.
        temperature: at the start; it is learnt, and never below 0.01.
        max_grad_norm: gradients are clipped to it.
        symmetric: train lots to find their queries, too.
        photo_dropout: probability that a lot is shown without its photo, so that lots without one are placed well.
        text_dropout: probability that a lot with a photo is shown without its text, so that the photo is not ignored.
        token_dropout: probability that a token of a lot's text is hidden.
        augmentation: how photos are changed.
        validate_every: epochs between two measurements on the val split, >= 1; the last epoch is always measured.
        mixed_precision: "auto" is bf16 on a GPU and float32 on a CPU.
        max_seconds: the schedule is shortened, if need be, to end after so long; None for no limit. Runs that are cut by
            the clock do not repeat exactly.
        seed: of weights, order, dropout and augmentation.
    """

    tower: TowerConfig = field(default_factory=lambda: preset("compact"))
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    pretrained_factor: float = 0.05
    weight_decay: float = 0.01
    warmup: float = 0.05
    temperature: float = 0.07
    max_grad_norm: float = 1.0
    symmetric: bool = True
    photo_dropout: float = 0.1
    text_dropout: float = 0.0
    token_dropout: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    validate_every: int = 2
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    max_seconds: float | None = None
    seed: int = 7


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: its mean loss, and its figures when it was measured."""

    epoch: int
    loss: float
    seconds: float
    figures: Figures | None


@dataclass(frozen=True)
class TrainingReport:
    """What came out of a training run.

    Attributes:
        tower_folder: the artefact.
        tower_id: its name.
        best: the epoch whose weights were kept.
        history: all epochs.
        lots: lots trained on.
        photos: how many of them had a readable photo that was used.
        queries: distinct training queries.
        parameters: trained numbers in both towers.
        seconds: from reading the catalogue to the artefact.
    """

    tower_folder: Path
    tower_id: str
    best: EpochRecord
    history: Sequence[EpochRecord]
    lots: int
    photos: int
    queries: int
    parameters: int
    seconds: float


def train_towers(
    catalog: CatalogFolder, config: TrainingConfig, out: Path, progress: ProgressCallback | None = None
) -> TrainingReport:
    """Train both towers on the train split and keep the epoch that finds most on the val split.

    Args:
        catalog: pairs of train, corpus and judgments of val (without a val split the last epoch is kept).
        config: architecture and schedule.
        out: folder of the artefacts; nothing appears in it before the training has ended. Decoded photos are cached in
            its sub-folder `.photos`.
        progress: called after each step.

    Returns:
        Where the artefact `out/<tower_id>` lies, and how it came to be.

    Raises:
        InvalidInput: the catalogue has no usable pair.
        TowerError: a pretrained encoder is out of reach.
    """
    started = time.monotonic()
    torch.manual_seed(config.seed)
    lots, queries = read_training_lots(catalog)
    tokenizer = make_tokenizer(config.tower, [*lots.texts, *queries.texts])
    prepare_tokenizer(tokenizer, config.tower.max_length)
    tower_config = fit_vocabulary(config.tower, tokenizer.get_vocab_size())
    cache = out / CACHE_FOLDER
    batches = TrainingBatches(lots, queries, tokenizer, config, cache)
    validation = Validation(catalog, tokenizer, tower_config, cache) if "val" in catalog.splits else None
    towers = TwoTowers(tower_config, config.temperature)
    history, best = _fit(towers, batches, validation, config, progress)
    folder = save_towers(towers, tokenizer, out)
    return TrainingReport(
        tower_folder=folder,
        tower_id=folder.name,
        best=best,
        history=history,
        lots=len(lots.ids),
        photos=batches.photo_count,
        queries=len(queries.texts),
        parameters=sum(p.numel() for p in towers.parameters()),
        seconds=time.monotonic() - started,
    )


def fit_vocabulary(config: TowerConfig, size: int) -> TowerConfig:
    """Give a fresh text encoder as many word embeddings as the tokenizer has pieces; a pretrained one keeps its own."""
    if config.text.model:
        return config
    return replace(config, text=replace(config.text, config={**config.text.config, "vocab_size": size}))


@dataclass(frozen=True)
class Batch:
    """One step's pairs: row i of the lots answers query i.

    Attributes:
        queries: tokens of B queries.
        items: tokens of B lots.
        photos: their photos, augmented and normalised; None for a tower without eyes.
        known: (B, B) bool, which lots are known to answer which queries.
    """

    queries: Tokens
    items: Tokens
    photos: Photos | None
    known: Tensor


class TrainingBatches:
    """Endless batches of pairs: every query comes once before any comes again, each time with one of its lots."""

    def __init__(self, lots: Lots, queries: Queries, tokenizer: Any, config: TrainingConfig, cache: Path) -> None:
        tower = config.tower
        self._config = config
        self._queries = queries
        self._answer_sets = [frozenset(answers.tolist()) for answers in queries.answers]
        self._chances = [weights / weights.sum() for weights in queries.weights]
        self._query_tokens = TokenTable.build(tokenizer, queries.texts, tower.max_length)
        self._item_tokens = TokenTable.build(tokenizer, lots.texts, tower.max_length)
        self._hidden_token = tokenizer.token_to_id("[MASK]") or 0
        side = round(tower.image_size * PHOTO_MARGIN)
        self._photos = PhotoTable.load(lots.photos, side, cache) if tower.use_image else None
        self._random = np.random.default_rng(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.batch_size = min(config.batch_size, len(queries.texts))
        self.per_epoch = math.ceil(max(len(queries.texts), len(lots.ids)) / self.batch_size)

    @property
    def photo_count(self) -> int:
        """Lots whose photo could be read."""
        return int(self._photos.has_image.sum()) if self._photos else 0

    def stream(self, device: torch.device) -> Iterator[Batch]:
        """Make batches on a device, without end."""
        waiting = np.empty(0, dtype=np.int64)
        while True:
            if len(waiting) < self.batch_size:  # the rest of a pass goes to the next: it would repeat a query in a batch
                waiting = self._random.permutation(len(self._queries.texts))
            rows, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
            yield self._batch(rows, device)

    def _batch(self, rows: NDArray[np.int64], device: torch.device) -> Batch:
        lots = np.array([self._random.choice(self._queries.answers[q], p=self._chances[q]) for q in rows])
        known = np.array([[lot in self._answer_sets[q] for lot in lots.tolist()] for q in rows.tolist()])
        return Batch(
            queries=to_tokens(self._query_tokens.take(rows), device),
            items=to_tokens(self._hide(self._item_tokens.take(lots), lots), device),
            photos=self._show(lots, device) if self._photos else None,
            known=torch.from_numpy(known | (lots[:, None] == lots[None, :])).to(device),
        )

    def _hide(
        self, tokens: tuple[NDArray[np.int64], NDArray[np.int64]], lots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Drop tokens, and whole texts of lots that have a photo; [CLS] stays."""
        ids, mask = tokens
        hidden = self._random.random(ids.shape) < self._config.token_dropout
        hidden[:, 0] = False
        ids = np.where(hidden, self._hidden_token, ids)
        if self._photos:
            mute = (self._random.random(len(lots)) < self._config.text_dropout) & self._photos.has_image[lots]
            mask[mute, 1:] = 0
        return ids, mask

    def _show(self, lots: NDArray[np.int64], device: torch.device) -> Photos:
        assert self._photos is not None
        tower = self._config.tower
        seen = self._photos.has_image[lots] & (self._random.random(len(lots)) >= self._config.photo_dropout)
        pixels = to_unit(torch.from_numpy(np.ascontiguousarray(self._photos.pixels[lots[seen]])).to(device))
        changed = augment(pixels, tower.image_size, self._config.augmentation, self._generator)
        return Photos(normalise(changed, tower.image_mean, tower.image_std), torch.from_numpy(seen).to(device))


def _fit(
    towers: TwoTowers,
    batches: TrainingBatches,
    validation: Validation | None,
    config: TrainingConfig,
    progress: ProgressCallback | None,
) -> tuple[list[EpochRecord], EpochRecord]:
    """Run the schedule; the towers end with the weights of the best epoch, on the CPU."""
    accelerator = Accelerator(mixed_precision=_precision(config))
    model, optimizer = accelerator.prepare(towers, torch.optim.AdamW(_parameter_groups(towers, config)))
    peaks = [group["lr"] for group in optimizer.param_groups]
    clock = Clock(config.epochs * batches.per_epoch, config.max_seconds)
    stream = batches.stream(accelerator.device)
    history: list[EpochRecord] = []
    best, kept = None, towers.state_dict()
    while not clock.over:
        losses = []
        for _ in range(batches.per_epoch):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * learning_rate_factor(clock.share, config.warmup)
            losses.append(_step(model, next(stream), optimizer, accelerator, config))
            clock.tick()
            if progress:
                progress(clock.steps_done, clock.steps)
            if clock.over:
                break
        due = clock.over or (len(history) + 1) % config.validate_every == 0
        figures = validation.measure(towers) if validation and due else None
        history.append(EpochRecord(len(history) + 1, float(torch.stack(losses).mean()), clock.seconds, figures))
        log.info("%s", history[-1])
        if _better(history[-1], best):
            best, kept = history[-1], copy.deepcopy(towers.state_dict())
    towers.load_state_dict(kept)
    towers.cpu().eval()
    return history, best or history[-1]


def _step(model: nn.Module, batch: Batch, optimizer: Any, accelerator: Accelerator, config: TrainingConfig) -> Tensor:
    queries, items, scale = model(batch.queries, batch.items, batch.photos)  # (B, 128), (B, 128), ()
    loss = info_nce(queries, items, scale, known=batch.known, symmetric=config.symmetric)
    optimizer.zero_grad()
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return loss.detach()


class Clock:
    """How far a run is: by its steps or, where that is further, by its seconds."""

    def __init__(self, steps: int, max_seconds: float | None) -> None:
        self.steps = steps
        self.steps_run = 0
        self._max_seconds = max_seconds or math.inf
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def share(self) -> float:
        """Of the run that is over, in [0, 1]."""
        return min(1.0, max(self.steps_run / self.steps, self.seconds / self._max_seconds))

    @property
    def steps_done(self) -> int:
        """The share in steps."""
        return round(self.share * self.steps)

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.share >= 1.0

    def tick(self) -> None:
        """Count a step."""
        self.steps_run += 1


def learning_rate_factor(share: float, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise over `warmup` of the run, then half a cosine down to zero.

    Args:
        share: of the run that is over, in [0, 1].
        warmup: share of the run, in [0, 1).
    """
    if share < warmup:
        return max(share, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def _precision(config: TrainingConfig) -> str:
    if config.mixed_precision != "auto":
        return config.mixed_precision
    return "bf16" if torch.cuda.is_available() else "no"


def _parameter_groups(towers: TwoTowers, config: TrainingConfig) -> list[dict[str, Any]]:
    """Pretrained encoders at a lower rate; no decay on vectors and scalars."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in towers.named_parameters():
        pretrained = (".transformer." in name and bool(config.tower.text.model)) or (
            ".image_encoder." in name and bool(config.tower.image.weights)
        )
        groups.setdefault((pretrained, parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.learning_rate * (config.pretrained_factor if pretrained else 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (pretrained, decays), parameters in groups.items()
    ]


def _better(record: EpochRecord, best: EpochRecord | None) -> bool:
    """By Recall@50, ties by nDCG@10; without measurement the latest is best."""
    if record.figures is None:
        return best is None or best.figures is None
    if best is None or best.figures is None:
        return True
    return (record.figures.recall_at_50, record.figures.ndcg_at_10) > (best.figures.recall_at_50, best.figures.ndcg_at_10)
