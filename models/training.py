"""Training of both towers on (query, lot) pairs."""

import copy
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from catalog.folder import CatalogFolder
from models.artefact import save_towers
from models.batches import Batch, TrainingBatches
from models.losses import info_nce
from models.presets import TowerConfig
from models.schedule import Clock, learning_rate_factor
from models.tokenizer import make_tokenizer
from models.towers import TwoTowers
from models.training_config import TrainingConfig
from models.training_data import read_training_lots
from models.validation import Figures, Validation
from retrieval.encoder import prepare_tokenizer

__all__ = ["EpochRecord", "ProgressCallback", "TrainingConfig", "TrainingReport", "train_towers"]

log = logging.getLogger(__name__)

ProgressCallback = Callable[[int, int], None]  # (steps done, steps in all)
CACHE_FOLDER = ".photos"


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
                progress(clock.steps_run, clock.steps)
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
    """By Figures.quality; without measurement the latest is best."""
    if record.figures is None:
        return best is None or best.figures is None
    if best is None or best.figures is None:
        return True
    return record.figures.quality > best.figures.quality
