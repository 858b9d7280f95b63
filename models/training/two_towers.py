"""Training of both towers on (query, item) pairs."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tokenizers import Tokenizer

from catalog.folder import CatalogFolder
from models.artefacts.run_record import data_hash, run_key, write_record
from models.artefacts.tower_files import load_towers, save_towers
from models.config.training import Stage, TrainingConfig, three_stages
from models.data.batches import Slice, TrainingBatches
from models.data.tables import ItemTable, Queries, read_training_items
from models.towers.config import TowerConfig
from models.towers.item_features import fit_features
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import TwoTowers
from models.training.checkpoints import Checkpoints
from models.training.loop import EpochRecord, LoopSettings, TrainingLoop
from models.training.step import TwoTowersTask
from models.training.validation import Validation, ValidationMetrics
from retrieval.contracts.tower_card import TOKENIZER_FILE
from retrieval.encoders.query_encoder import prepare_tokenizer
from retrieval.errors import InvalidInput
from retrieval.progress import Progress

__all__ = ["EpochRecord", "Stage", "TrainingConfig", "TrainingReport", "three_stages", "train_towers"]

log = logging.getLogger(__name__)

CACHE_FOLDER = ".photos"
CHECKPOINT_FOLDER = ".checkpoints"
TENSORBOARD_FOLDER = ".runs"
CHECKPOINT_SECONDS = 60.0
# settings that must be the same in the start tower and in the configuration
SHARED_SETTINGS = ("hidden", "linear", "dimensions", "max_length", "image_size", "use_image", "shared_text_encoder")
ALWAYS_TRAINABLE = ("logit_scale", "item_tower.no_image")  # parameters that do not count as something to train


@dataclass(frozen=True)
class TrainingReport:
    """Result of a training run.

    Attributes:
        tower_folder: folder of the artefact.
        tower_id: id of the tower, which is the folder's name.
        best: record of the epoch whose weights were selected.
        history: records of all epochs.
        items: number of items in the train split.
        photos: number of these items with a readable photo; 0 for a tower without an image encoder.
        queries: number of distinct training queries.
        parameters: number of parameters in both towers and the temperature, shared parameters counted once.
        seconds: seconds of this process, from reading the catalogue to the artefact.
        steps: number of steps that were run.
        planned_steps: number of steps in the schedule; more than `steps` if max_seconds or patience ended the loop.
        cut_by_clock: True if max_seconds ended the loop. The next training with the same settings resumes there.
        resumed_at: number of steps done before this run resumed; 0 for a run from its start.
    """

    tower_folder: Path
    tower_id: str
    best: EpochRecord[ValidationMetrics]
    history: Sequence[EpochRecord[ValidationMetrics]]
    items: int
    photos: int
    queries: int
    parameters: int
    seconds: float
    steps: int
    planned_steps: int
    cut_by_clock: bool
    resumed_at: int = 0


def train_towers(
    catalog: CatalogFolder,
    config: TrainingConfig,
    out: Path,
    progress: Progress | None = None,
    *,
    stage: int = 0,
    start_from: Path | None = None,
    negatives: Mapping[str, Sequence[str]] | None = None,
    resume: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> TrainingReport:
    """Train both towers for one stage on the train split, and select the epoch that is best on the val split.

    Under `accelerate launch` or torchrun every process calls this function. All sample the same batches, and each encodes its
    slice.

    Args:
        catalog: catalogue with pairs in train, and corpus and judgments in val. Without a val split the last epoch is selected.
        config: architecture and schedule.
        out: folder of the artefacts; the tower appears in it at the end. Its sub-folder `.photos` has decoded photos and
            encodings, `.checkpoints` the checkpoints of unfinished runs, and `.runs` TensorBoard's files.
        progress: called with (steps done, steps) after each step.
        stage: index in config.stages of the stage to train.
        start_from: folder of the tower with the start weights and the tokenizer; None starts with fresh or pretrained ones.
        negatives: cleaned query -> mined item ids, for a stage with hard negatives.
        resume: True continues a run of the same settings and data that was stopped or cut by max_seconds. False removes its
            checkpoint and starts anew.
        checkpoint_seconds: seconds between two checkpoints; 0 writes one after every step.

    Returns:
        The report of the run, with the folder `out/<tower_id>` of the artefact.

    Raises:
        InvalidInput: the catalogue has no usable pair; there is no such stage; the stage's hard negatives are missing; the start
            tower has another shape; or no part of the towers is trained.
        TowerError: a pretrained encoder is not available, or the start tower is damaged.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    started, began = time.monotonic(), datetime.now(UTC)
    if not 0 <= stage < len(config.stages):
        raise InvalidInput(f"there is no stage {stage}; the configuration has {len(config.stages)}, counted from 0")
    accelerator, chosen = _accelerator(config), config.stages[stage]
    main = accelerator.is_main_process
    torch.manual_seed(config.seed)
    data = data_hash(catalog)
    key = run_key(config, stage, data, negatives, start_from)
    checkpoints = Checkpoints(out / CHECKPOINT_FOLDER / key, checkpoint_seconds, writes=main)
    if not resume:
        checkpoints.remove()
    items, queries = read_training_items(catalog, chosen.min_weight, keep_records=config.tower.features is not None)
    tokenizer, towers = _first_towers(config, items, queries, start_from)
    towers.to(accelerator.device)
    with accelerator.main_process_first():  # the other processes read photos and encodings from the cache
        resolved, cache = replace(config, tower=towers.config), out / CACHE_FOLDER
        part = Slice(accelerator.process_index, accelerator.num_processes)
        batches = TrainingBatches(items, queries, tokenizer, resolved, cache, stage=chosen, negatives=negatives, part=part)
        batches.encode_frozen(towers, accelerator.device)
        validation = Validation(catalog, tokenizer, towers.config, cache) if "val" in catalog.splits else None
        if validation:
            validation.encode_frozen(towers, accelerator.device)
    settings = loop_settings(config, chosen, batches.per_epoch, measured=validation is not None)
    task = TwoTowersTask(towers, batches, validation, config, chosen, accelerator)
    tensorboard = out / TENSORBOARD_FOLDER / f"{chosen.name}-{key}" if main else None
    loop = TrainingLoop(task, settings, checkpoints, accelerator=accelerator, tensorboard=tensorboard)
    loop.run(progress)
    folder = _from_first(accelerator, save_towers(towers, tokenizer, out) if main else None)
    report = _report(folder, loop, batches, queries, len(items.ids), towers, time.monotonic() - started)
    if main:
        write_record(folder, _record(report, config, stage, start_from, catalog, data, len(queries.item_rows)), began)
        if loop.cut_by_clock:
            log.warning(
                "max_seconds (%g) cut the training after %d of %d steps; the same command again trains on, with a larger "
                "--max-seconds to the end in one go",
                config.max_seconds,
                report.steps,
                report.planned_steps,
            )
        else:
            checkpoints.remove()
    accelerator.wait_for_everyone()
    return report


def loop_settings(config: TrainingConfig, stage: Stage, batches_per_epoch: int, *, measured: bool) -> LoopSettings:
    """Return the length and rules of a stage; measured is True if there is a validation split."""
    return LoopSettings(
        epochs=config.stage_epochs(stage),
        steps_per_epoch=-(-batches_per_epoch // config.accumulate),
        warmup=config.warmup,
        max_grad_norm=config.max_grad_norm,
        max_seconds=config.max_seconds,
        validate_every=config.validate_every if measured else 0,
        patience=config.patience,
    )


def _report(
    folder: Path,
    loop: TrainingLoop[ValidationMetrics],
    batches: TrainingBatches,
    queries: Queries,
    items: int,
    towers: TwoTowers,
    seconds: float,
) -> TrainingReport:
    return TrainingReport(
        tower_folder=folder,
        tower_id=folder.name,
        best=loop.best or loop.history[-1],
        history=loop.history,
        items=items,
        photos=batches.photo_count,
        queries=len(queries.texts),
        parameters=sum(p.numel() for p in towers.parameters()),
        seconds=seconds,
        steps=loop.budget.steps_run,
        planned_steps=loop.budget.planned,
        cut_by_clock=loop.cut_by_clock,
        resumed_at=loop.resumed_at,
    )


def fit_vocabulary(config: TowerConfig, size: int) -> TowerConfig:
    """Set the vocabulary size of a fresh text encoder to the tokenizer's; a pretrained encoder is not changed."""
    if config.text.model:
        return config
    return replace(config, text=replace(config.text, config={**config.text.config, "vocab_size": size}))


def _first_towers(
    config: TrainingConfig, items: ItemTable, queries: Queries, start_from: Path | None
) -> tuple[Tokenizer, TwoTowers]:
    """Return the tokenizer and the towers that a stage starts with."""
    if start_from is None:
        tokenizer = make_tokenizer(config.tower, [*items.texts, *queries.texts, *queries.item_texts])
        tower = fit_features(fit_vocabulary(config.tower, tokenizer.get_vocab_size()), items.records)
        towers = TwoTowers(tower, config.temperature)
    else:
        towers, _ = load_towers(start_from)
        tokenizer = Tokenizer.from_file(str(start_from / TOKENIZER_FILE))
        _check_same(config.tower, towers.config, start_from)
        for encoder in {towers.item_tower.text_encoder, towers.query_tower.text_encoder}:
            encoder.train_only(config.tower.text.trainable)
        if towers.item_tower.image_encoder is not None:
            towers.item_tower.image_encoder.train_only(config.tower.image.trainable)
        towers.config = replace(
            towers.config,
            text=replace(towers.config.text, trainable=config.tower.text.trainable),
            image=replace(towers.config.image, trainable=config.tower.image.trainable),
            matryoshka=config.tower.matryoshka,
        )
    if not any(parameter.requires_grad for name, parameter in towers.named_parameters() if name not in ALWAYS_TRAINABLE):
        raise InvalidInput("nothing of these towers is trained: let a part of the encoder (trainable), or give them linear heads")
    towers.logit_scale.requires_grad_(config.learn_temperature)
    return prepare_tokenizer(tokenizer, towers.config.max_length), towers


def _check_same(requested: TowerConfig, have: TowerConfig, folder: Path) -> None:
    requested = replace(requested, dimensions=requested.dimensions or have.dimensions)
    for name in SHARED_SETTINGS:
        if getattr(requested, name) != getattr(have, name):
            raise InvalidInput(
                f"{folder} has {name} {getattr(have, name)}, the configuration asks for {getattr(requested, name)}; "
                "start from a tower of the same preset, or change the configuration"
            )
    if (requested.features is None) != (have.features is None):
        reads = "reads no structured features" if have.features is None else "reads structured features"
        raise InvalidInput(f"{folder} {reads}, the configuration asks for the contrary; start from another tower, or change it")


def _from_first(accelerator: Accelerator, value: Any) -> Any:
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def _accelerator(config: TrainingConfig) -> Accelerator:
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # set by accelerate launch and torchrun
    # without cpu=True, Accelerate does not connect processes that have no GPUs
    return Accelerator(mixed_precision=_precision(config), cpu=several and not torch.cuda.is_available())


def _precision(config: TrainingConfig) -> str:
    if config.mixed_precision != "auto":
        return config.mixed_precision
    return "bf16" if torch.cuda.is_available() else "no"


def _record(
    report: TrainingReport,
    config: TrainingConfig,
    stage: int,
    start_from: Path | None,
    catalog: CatalogFolder,
    data: str,
    pairs: int,
) -> dict[str, Any]:
    """Return the contents of training.json except for versions and hardware."""
    return {
        "seconds": round(report.seconds, 1),
        "settings": asdict(config),
        "stage": config.stages[stage].name,
        "steps": {"run": report.steps, "planned": report.planned_steps, "cut_by_clock": report.cut_by_clock},
        "start_from": start_from.name if start_from else None,
        "data": {
            "catalog": catalog.name,
            "sha256": data,
            "lots": report.items,
            "photos": report.photos,
            "queries": report.queries,
            "pairs": pairs,
        },
        "history": [_flat(record) for record in report.history],
        "best": _flat(report.best),
        "parameters": report.parameters,
        "resumed_at": report.resumed_at,
    }


def _flat(record: EpochRecord[ValidationMetrics]) -> dict[str, Any]:
    values = asdict(record)
    metrics = values.pop("metrics")
    return {**values, **(metrics or {})}
