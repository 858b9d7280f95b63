"""Training of both towers on (query, item) pairs."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from tokenizers import Tokenizer

from catalog.folder import CatalogFolder
from models.artefacts.model_card import write_model_card
from models.artefacts.run_record import data_hash, run_key, steps_record, write_record
from models.artefacts.tower_files import load_towers, save_towers
from models.config.training import Stage, TrainingConfig, three_stages
from models.data.batches import Slice, TrainingBatches, photo_side
from models.data.tables import ItemTable, PhotoTable, Queries, read_training_items
from models.towers.config import TowerConfig
from models.towers.feature_names import AUTO, NONE, parse_features
from models.towers.item_features import feature_names, fit_features, present_features, unfitted_features
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import TwoTowers
from models.training.checkpoints import CHECKPOINT_FOLDER, CHECKPOINT_SECONDS, Checkpoints
from models.training.choices import TEXT, TEXT_PHOTO, SearchChoice, choose_search, gains_by_photos
from models.training.loop import EpochRecord, LoopSettings, TrainingLoop
from models.training.step import TwoTowersTask
from models.training.trackers import check_tracker, track
from models.training.validation import QueryMetrics, Validation, ValidationMetrics
from retrieval.contracts.tower_card import TOKENIZER_FILE, TowerCard
from retrieval.encoders.query_encoder import prepare_tokenizer
from retrieval.errors import InvalidInput
from retrieval.progress import Progress

__all__ = ["EpochRecord", "Stage", "TrainingConfig", "TrainingReport", "three_stages", "train_towers"]

log = logging.getLogger(__name__)

CACHE_FOLDER = ".photos"
TENSORBOARD_FOLDER = ".runs"
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
        features: structured features that the item tower reads.
        compared_features: for features = "auto", the features of each trained pair of towers ("none" or names joined by commas)
            -> validation metrics of its best epoch. Empty otherwise.
        choice: comparison with keyword and hybrid search on the val split, and of towers without and with photos; None without a
            val split. Where several pairs of towers are compared, steps and planned_steps count all trainings.
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
    features: Sequence[str] = ()
    compared_features: Mapping[str, ValidationMetrics] = field(default_factory=dict)
    choice: SearchChoice | None = None


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
    checkpoint_folder: Path | None = None,
) -> TrainingReport:
    """Train both towers for one stage on the train split, and select the epoch that is best on the val split.

    With photos = "auto" both towers are trained twice where items have photos: without, and with an image encoder. With features =
    "auto" they are trained once more, with structured features. The best pair on the val split is stored. A stage with a start
    tower reads what that tower reads.

    Under `accelerate launch` or torchrun every process calls this function. All sample the same batches, and each encodes its
    slice.

    Args:
        catalog: catalogue with pairs in train, and corpus and judgments in val. Without a val split the last epoch is selected.
        config: architecture and schedule.
        out: folder of the artefacts; the tower appears in it at the end. Its sub-folder `.photos` has decoded photos and
            encodings, `.checkpoints` the checkpoints of unfinished runs, and `.runs` TensorBoard's files.
        progress: called with (steps done, steps) after each step; the steps are those of the whole schedule.
        stage: index in config.stages of the stage to train.
        start_from: folder of the tower with the start weights and the tokenizer; None starts with fresh or pretrained ones.
        negatives: cleaned query -> mined item ids, for a stage with hard negatives.
        resume: True continues a run of the same settings and data that was stopped or cut by max_seconds. False removes its
            checkpoint and starts anew.
        checkpoint_seconds: seconds between two checkpoints; 0 writes one after every step.
        checkpoint_folder: folder of the checkpoints of unfinished runs; None takes `out/.checkpoints`.

    Returns:
        The report of the run, with the folder `out/<tower_id>` of the artefact.

    Raises:
        InvalidInput: the catalogue has no usable pair; there is no such stage; the stage's hard negatives are missing; the start
            tower has another shape; no part of the towers is trained; features are to be compared and there is no val split; or
            the tracker cannot be used.
        TowerError: a pretrained encoder is not available, or the start tower is damaged.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint.
    """
    checkpoint_folder = checkpoint_folder or out / CHECKPOINT_FOLDER
    started, began = time.monotonic(), datetime.now(UTC)
    if not 0 <= stage < len(config.stages):
        raise InvalidInput(f"there is no stage {stage}; the configuration has {len(config.stages)}, counted from 0")
    if config.log_with:
        check_tracker(config.log_with)
    accelerator, chosen = _accelerator(config, out), config.stages[stage]
    main = accelerator.is_main_process
    data = data_hash(catalog)
    reads_features = config.features != NONE or config.tower.features is not None
    items, queries = read_training_items(catalog, chosen.min_weight, keep_records=reads_features)
    measured = catalog.has_queries("val")
    feature_choices = _feature_choices(config, items, start_from, measured=measured)
    choices, reason = _photo_choices(feature_choices[0], items, start_from, out / CACHE_FOLDER, measured=measured)
    count = len(choices) + len(feature_choices) - 1

    def run(choice: TrainingConfig, number: int) -> _Run:
        key = run_key(choice, stage, data, negatives, start_from)
        checkpoints = Checkpoints(checkpoint_folder / key, checkpoint_seconds, writes=main)
        if not resume:
            checkpoints.remove()
        torch.manual_seed(config.seed)
        tokenizer, towers = _first_towers(choice, items, queries, start_from)
        towers.to(accelerator.device)
        with accelerator.main_process_first():  # the other processes read photos and encodings from the cache
            resolved, cache = replace(choice, tower=towers.config), out / CACHE_FOLDER
            part = Slice(accelerator.process_index, accelerator.num_processes)
            batches = TrainingBatches(items, queries, tokenizer, resolved, cache, stage=chosen, negatives=negatives, part=part)
            batches.encode_frozen(towers, accelerator.device)
            validation = Validation(catalog, tokenizer, towers.config, cache) if measured else None
            if validation:
                validation.encode_frozen(towers, accelerator.device)
        settings = loop_settings(choice, chosen, batches.per_epoch, measured=measured)
        task = TwoTowersTask(towers, batches, validation, choice, chosen, accelerator)
        name = f"{chosen.name}-{key}"
        tensorboard = out / TENSORBOARD_FOLDER / name if main else None
        loop = TrainingLoop(task, settings, checkpoints, accelerator=accelerator, tensorboard=tensorboard)
        with track(accelerator, name, asdict(choice), out / TENSORBOARD_FOLDER):
            loop.run(_part_of(progress, number, count))
        results = _from_first(accelerator, validation.search(towers) if validation and main else None)
        return _Run(choice, towers, tokenizer, loop, checkpoints, batches.photo_count, validation, results)

    runs = [run(choice, number) for number, choice in enumerate(choices)]
    best = _better_by_photos(runs, config.selection_metric)
    photo_runs = list(runs)
    if len(feature_choices) > 1:
        reads_photos = best.config.tower.use_image
        runs.append(run(replace(feature_choices[1], tower=replace(feature_choices[1].tower, use_image=reads_photos)), count - 1))
        best = _better_by_features([best, runs[-1]], config)
    folder = _from_first(accelerator, save_towers(best.towers, best.tokenizer, out) if main else None)
    search_choice = _search_choice(best, photo_runs, config.selection_metric, reason)
    report = _report(folder, best, runs, queries, len(items.ids), time.monotonic() - started, search_choice)
    if main:
        write_record(folder, _record(report, best.config, stage, start_from, catalog, data, len(queries.item_rows)), began)
        write_model_card(folder)
        if report.cut_by_clock:
            log.warning(
                "max_seconds (%g) cut the training after %d of %d steps; the same command again trains on, without "
                "--max-seconds to the end",
                config.max_seconds,
                report.steps,
                report.planned_steps,
            )
        else:
            for each in runs:
                each.checkpoints.remove()
    accelerator.wait_for_everyone()
    return report


@dataclass(frozen=True)
class _Run:
    """One trained pair of towers of a training that may compare several."""

    config: TrainingConfig
    towers: TwoTowers
    tokenizer: Tokenizer
    loop: TrainingLoop[ValidationMetrics]
    checkpoints: Checkpoints
    photos: int
    validation: Validation | None
    results: NDArray[np.int64] | None  # of the val queries, see Validation.search()

    @property
    def system(self) -> str:
        """Return the name of these towers in a comparison."""
        return TEXT_PHOTO if self.config.tower.use_image else TEXT

    def query_metrics(self) -> QueryMetrics:
        """Return the metrics of the val queries."""
        assert self.validation is not None
        assert self.results is not None
        return self.validation.metrics(self.results)


def _photo_choices(
    config: TrainingConfig, items: ItemTable, start_from: Path | None, cache: Path, *, measured: bool
) -> tuple[Sequence[TrainingConfig], str]:
    """Return the configurations to train, text alone first: two for "auto", otherwise one with the reason for it."""
    if not config.tower.use_image:
        return [config], ""
    without = replace(config, tower=replace(config.tower, use_image=False))
    if config.photos == "never":
        return [without], "as asked by photos = never"
    if config.photos == "always":
        return [config], "as asked by photos = always"
    if start_from is not None:
        reads = TowerConfig.from_architecture(TowerCard.load(start_from).architecture).use_image
        return [config if reads else without], f"as the start tower {start_from.name} does"
    if not PhotoTable.load(items.photos, photo_side(config.tower), cache).has_image.any():
        return [without], "no lot of the catalogue has a readable photo"
    if config.tower.hidden_text:
        return [config], "hidden texts train them for searches by photo"
    if not measured:
        return [config], "the catalogue has no val split to compare on"
    tower = config.tower
    if tower.text.trainable == "none" and not (tower.hidden or tower.linear or tower.features):
        return [config], "without them nothing of these towers would be trained"
    return [without, config], ""


def _better_by_photos(runs: Sequence[_Run], metric: str) -> _Run:
    """Return the only run, or of the runs without and with photos the second only if photos gain for certain."""
    if len(runs) == 1:
        return runs[0]
    text, photo = runs
    return photo if gains_by_photos(photo.query_metrics(), text.query_metrics(), metric) else text


def _search_choice(best: _Run, runs: Sequence[_Run], metric: str, reason: str) -> SearchChoice | None:
    """Compare the best towers with keyword and hybrid search; None without a val split."""
    if best.validation is None or best.results is None:
        return None
    trained = {run.system: run.query_metrics() for run in [*runs, best]}
    return choose_search(best.validation, best.results, trained, metric, stored=best.system, reason=reason)


def _feature_choices(
    config: TrainingConfig, items: ItemTable, start_from: Path | None, *, measured: bool
) -> Sequence[TrainingConfig]:
    """Return the configurations to train, whose towers name the features that they read: two for "auto", otherwise one."""
    if start_from is not None and config.features != NONE:
        have = TowerConfig.from_architecture(TowerCard.load(start_from).architecture).features
        names = feature_names(have)
        if not names and config.features == AUTO:
            return [replace(config, features=NONE)]
        unknown = sorted(set(names) - set(parse_features(config.features)))
        if unknown or not names:
            raise InvalidInput(
                f"{start_from} reads {', '.join(names) or 'no features'}, the configuration asks for {config.features}; "
                f"write features = {','.join(names) or NONE}, or start from another tower"
            )
        return [replace(config, features=",".join(names), tower=replace(config.tower, features=have))]
    if config.features == NONE:
        return [config]
    names = present_features(parse_features(config.features), items.records)
    with_features = replace(
        config, features=",".join(names) or NONE, tower=replace(config.tower, features=unfitted_features(names))
    )
    if config.features != AUTO:
        if not names:
            raise InvalidInput(f"no item of the catalogue has a value of {config.features}; leave features out")
        return [with_features]
    if not measured:
        raise InvalidInput(
            "features = auto compares towers on the val queries, which this catalogue lacks; give none, all or names"
        )
    without = replace(config, features=NONE)
    return [without, with_features] if names else [without]


def _better_by_features(runs: Sequence[_Run], config: TrainingConfig) -> _Run:
    """Return the run with the highest selection metric; of equal runs the first, so that features must gain to be stored."""

    def metric(run: _Run) -> float:
        best = run.loop.best
        return float(getattr(best.metrics, config.selection_metric)) if best else -1.0

    best = max(runs, key=metric)
    log.info(
        "%s on val: %s", config.selection_metric, ", ".join(f"features {run.config.features}: {metric(run):.4f}" for run in runs)
    )
    return best


def _part_of(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Return a callback of one of several runs of the same length that reports the progress of all."""
    if progress is None or count == 1:
        return progress
    return lambda done, total: progress(number * total + done, count * total)


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
    best: _Run,
    runs: Sequence[_Run],
    queries: Queries,
    items: int,
    seconds: float,
    choice: SearchChoice | None,
) -> TrainingReport:
    loops = [run.loop for run in runs]
    alike = [run for run in runs if run.config.tower.use_image == best.config.tower.use_image]  # without and with features
    compared = {run.config.features: run.loop.best.metrics for run in alike if run.loop.best and run.loop.best.metrics}
    return TrainingReport(
        tower_folder=folder,
        tower_id=folder.name,
        best=best.loop.best or best.loop.history[-1],
        history=best.loop.history,
        items=items,
        photos=best.photos,
        queries=len(queries.texts),
        parameters=sum(p.numel() for p in best.towers.parameters()),
        seconds=seconds,
        steps=sum(loop.steps_run for loop in loops),
        planned_steps=sum(loop.steps for loop in loops),
        cut_by_clock=any(loop.cut_by_clock for loop in loops),
        resumed_at=sum(loop.resumed_at for loop in loops),
        features=feature_names(best.towers.config.features),
        compared_features=compared if len(alike) > 1 else {},
        choice=choice,
    )


def fit_vocabulary(config: TowerConfig, size: int) -> TowerConfig:
    """Give a fresh text encoder the tokenizer's vocabulary, and positions for max_length; a pretrained one is not changed."""
    if config.text.model:
        return config
    fitted = {**config.text.config, "vocab_size": size}
    if fitted.get("max_position_embeddings", config.max_length) < config.max_length:
        fitted["max_position_embeddings"] = config.max_length
    return replace(config, text=replace(config.text, config=fitted))


def _first_towers(
    config: TrainingConfig, items: ItemTable, queries: Queries, start_from: Path | None
) -> tuple[Tokenizer, TwoTowers]:
    """Return the tokenizer and the towers that a stage starts with."""
    if start_from is None:
        tokenizer = make_tokenizer(config.tower, [*items.texts, *queries.texts, *queries.item_texts])
        tower = fit_features(fit_vocabulary(config.tower, tokenizer.get_vocab_size()), items.records)
        towers = TwoTowers(tower, config.temperature)
        if towers.config.max_length < tower.max_length:
            log.warning(
                "the text encoder reads %d tokens at most; max_length is not %d", towers.config.max_length, tower.max_length
            )
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
        raise InvalidInput(
            "nothing of these towers is trained: train a part of the text encoder (--train-text all or last-<n>), give them linear "
            "maps (linear = true in [training.tower]), or features"
        )
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
        change = "leave features out" if have.features is None else "set features to all"
        raise InvalidInput(f"{folder} {reads}, the configuration asks for the contrary; {change}, or start from another tower")


def _from_first(accelerator: Accelerator, value: Any) -> Any:
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def _accelerator(config: TrainingConfig, out: Path) -> Accelerator:
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # set by accelerate launch and torchrun
    # without cpu=True, Accelerate does not connect processes that have no GPUs
    return Accelerator(
        mixed_precision=_precision(config),
        cpu=several and not torch.cuda.is_available(),
        log_with=config.log_with,
        project_dir=out / TENSORBOARD_FOLDER,
    )


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
        "steps": steps_record(report.steps, report.planned_steps, report.cut_by_clock),
        "start_from": start_from.name if start_from else None,
        "data": {
            "catalog": catalog.name,
            "sha256": data,
            "lots": report.items,
            "photos": report.photos,
            "queries": report.queries,
            "pairs": pairs,
        },
        "features": list(report.features),
        "compared_features": {choice: asdict(metrics) for choice, metrics in report.compared_features.items()},
        "choice": report.choice.to_dict() if report.choice else None,
        "history": [_flat(record) for record in report.history],
        "best": _flat(report.best),
        "parameters": report.parameters,
        "resumed_at": report.resumed_at,
    }


def _flat(record: EpochRecord[ValidationMetrics]) -> dict[str, Any]:
    values = asdict(record)
    metrics = values.pop("metrics")
    return {**values, **(metrics or {})}
