"""Train both towers on a catalogue: a SageMaker Processing job, or a command on any machine, on one process or several.

python -m processing.train_towers --input .gavel/catalogs/synthetic --output .gavel/towers
accelerate launch -m processing.train_towers --input … --output …                    # all GPUs of the machine
torchrun --nproc-per-node 2 -m processing.train_towers --input … --output …          # two processes, GPUs or not
"""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from catalog.folder import CatalogFolder
from models.data.hard_negatives import HardNegatives
from models.towers.config import PRESETS, PhotoUse, TowerConfig
from models.towers.published import stated_pooling
from models.training.two_towers import TrainingConfig, TrainingReport, train_towers
from processing.command_line import CONTAINER, SeedOption, run_job
from processing.training.rounds import in_stages
from retrieval.progress import Progress

EXIT_INTERRUPTED = 130
BY_CATALOG = "the catalogue's own by default"
Precision = Literal["auto", "no", "bf16", "fp16"]
CHECKPOINTS = Path("/opt/ml/checkpoints")  # SageMaker copies this folder to and from S3, for jobs on spot instances
LOG_SECONDS = 10.0  # minimum time between two lines of progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Weights:
    """Encoders, weights and text length that replace those of a preset; None keeps the preset's.

    Attributes:
        text_model: hub name or local folder of a pretrained text encoder.
        train_text: layers of the text encoder to train: all, none or last-<n>.
        image_weights: name of torchvision weights, or path of a state dict.
        random: True starts every encoder from random weights.
        max_length: number of tokens read of each text.
    """

    text_model: str | None = None
    train_text: str | None = None
    image_weights: str | None = None
    random: bool = False
    max_length: int | None = None

    def applied_to(self, tower: TowerConfig) -> TowerConfig:
        """Return a tower configuration with these encoders and weights."""
        if self.text_model:
            pooling = stated_pooling(self.text_model) or tower.text.pooling
            tower = replace(tower, text=replace(tower.text, model=self.text_model, pooling=pooling))
        if self.image_weights:
            tower = replace(tower, image=replace(tower.image, weights=self.image_weights))
        if self.train_text:
            tower = replace(tower, text=replace(tower.text, trainable=self.train_text))
        if self.max_length:
            tower = replace(tower, max_length=self.max_length)
        return tower.fresh() if self.random else tower


def run_training(
    catalog: Annotated[Path, typer.Option("--input", help="The catalogue's folder.")] = CONTAINER / "input",
    output: Annotated[Path, typer.Option(help="Folder of the towers.")] = CONTAINER / "output",
    seed: SeedOption = 7,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was cut short.")] = True,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help=f"Folder of the checkpoints; {CHECKPOINTS} if it is there, else .checkpoints of the output."),
    ] = None,
    preset: Annotated[str, typer.Option(help=f"Architecture: {', '.join(PRESETS)}.")] = "compact",
    text_only: Annotated[bool, typer.Option("--text-only", help="An item tower that does not look at photos.")] = False,
    use_photos: Annotated[
        PhotoUse | None,
        typer.Option(
            help="auto trains without and with photos, and reads them only if that is better on the val queries; always; never. "
            "By default auto if both encoders are frozen, else always, because auto trains twice."
        ),
    ] = None,
    text_model: Annotated[str | None, typer.Option(help="Hub name or local folder of a pretrained text encoder.")] = None,
    train_text: Annotated[
        str | None, typer.Option(metavar="all|none|last-<n>", help="Layers of the text encoder to train; the preset's by default.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Tokens read of each text; the preset's by default.")] = None,
    features: Annotated[
        str | None, typer.Option(metavar="auto|none|all|NAME,…", help="Structured features of the item tower; none by default.")
    ] = None,
    image_weights: Annotated[str | None, typer.Option(help="Name of torchvision weights, or path of a state dict.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Start every encoder from random weights; no download.")
    ] = False,
    stage: Annotated[int, typer.Option(help="0: in-batch and random negatives, 1: mined ones, 2: weak positives.")] = 0,
    start_from: Annotated[Path | None, typer.Option(help="Folder of the tower whose weights training starts from.")] = None,
    negatives: Annotated[Path | None, typer.Option(help="File that processing.mine_negatives wrote.")] = None,
    epochs: Annotated[int | None, typer.Option(help=f"Epochs; {BY_CATALOG}.")] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Pairs per batch; {BY_CATALOG}.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help=f"Highest learning rate; {BY_CATALOG}.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after this many seconds; the same command goes on.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Texts encoded at once: large batches in little memory.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing", help="Compute the text encoder's layers twice to save memory.")
    ] = None,
    batch_hard: Annotated[float | None, typer.Option(help="Weight of a loss on the nearest wrong lot of the batch; 0.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches whose gradients are added up for one step.")] = None,
    patience: Annotated[int | None, typer.Option(help="Measurements without improvement after which training stops.")] = None,
    mixed_precision: Annotated[Precision | None, typer.Option(help=f"Number format; {BY_CATALOG}.")] = None,
    log_with: Annotated[str | None, typer.Option(help="Experiment tracker of Accelerate beside TensorBoard: wandb, …")] = None,
    log_q: Annotated[bool | None, typer.Option("--log-q", help="Correct for how often a lot is sampled.")] = None,
) -> int:
    """Train both towers on a catalogue, on one process or several."""
    schedule = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_seconds": max_seconds,
        "features": features,
        "photos": use_photos or ("auto" if start_from else None),  # a stage reads photos as its start tower does
        "batch_hard": batch_hard,
        "micro_batch": micro_batch,
        "gradient_checkpointing": gradient_checkpointing,
        "accumulate": accumulate,
        "patience": patience,
        "mixed_precision": mixed_precision,
        "log_with": log_with,
        "log_q": log_q,
    }
    try:
        mined = HardNegatives.load(negatives).by_query if negatives else None
        source = CatalogFolder.load(catalog)
        config = training_config(
            source.name,
            preset=preset,
            text_only=text_only,
            seed=seed,
            three_stages=bool(stage or negatives),
            weights=Weights(text_model, train_text, image_weights, random_weights, max_length),
            schedule=schedule,
        )
        report = train_towers(
            source,
            config,
            output,
            _log_progress(),
            stage=stage,
            start_from=start_from,
            negatives=mined,
            resume=resume,
            checkpoint_folder=checkpoints or (CHECKPOINTS if CHECKPOINTS.is_dir() else None),
        )
    except KeyboardInterrupt:
        print("gavel: interrupted; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    if os.environ.get("RANK", "0") == "0":  # a launcher's other processes have the same report
        print(json.dumps(_summary(report)))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from a command line; return 130 after Ctrl-C or SIGTERM, otherwise the result of run_job()."""
    return run_job(run_training, arguments, "gavel")


def training_config(
    catalog: str,
    *,
    preset: str,
    text_only: bool,
    seed: int,
    three_stages: bool,
    weights: Weights,
    schedule: Mapping[str, Any],
) -> TrainingConfig:
    """Return the catalogue's own schedule with the given changes.

    Args:
        catalog: name of the catalogue.
        preset: name of the towers' preset.
        text_only: True builds an item tower that reads no photos.
        seed: seed of the training.
        three_stages: True splits the schedule into three stages, which mined negatives and every stage but the first need.
        weights: encoders and weights that replace the preset's.
        schedule: field of TrainingConfig -> value; None keeps the catalogue's own value. Photos are compared by default only if
            both encoders are frozen: then a second training takes seconds, otherwise as long as the first, on a machine that is
            paid by the hour.
    """
    config = TrainingConfig.for_catalog(catalog, preset=preset, use_image=not text_only, seed=seed)
    tower = weights.applied_to(config.tower)
    is_frozen = tower.text.trainable == tower.image.trainable == "none"
    changes = {name: value for name, value in schedule.items() if value is not None}
    config = replace(config, tower=tower, **{"photos": "auto" if is_frozen else "always", **changes})
    return in_stages(config) if three_stages else config


def _log_progress() -> Progress:
    """Return a progress callback that logs at most every ten seconds, and at the end."""
    began = last = time.monotonic()
    first: int | None = None  # of this process; those before were run before an interruption

    def report(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if now - last >= LOG_SECONDS or done == total:
            last = now
            left = (total - done) * (now - began) / (done - first + 1)
            log.info("step %d of %d, about %.0f s left", done, total, left)

    return report


def _summary(report: TrainingReport) -> dict[str, object]:
    return {
        "tower_id": report.tower_id,
        "tower_folder": str(report.tower_folder),
        "best": report.best.to_dict(),
        "epochs": len(report.history),
        "steps": report.steps,
        "planned_steps": report.planned_steps,
        "cut_by_clock": report.cut_by_clock,
        "features": list(report.features),
        "compared_features": {choice: asdict(metrics) for choice, metrics in report.compared_features.items()},
        "choice": report.choice.to_dict() if report.choice else None,
        "lots": report.items,
        "photos": report.photos,
        "queries": report.queries,
        "parameters": report.parameters,
        "seconds": round(report.seconds, 1),
        "resumed_at": report.resumed_at,
    }
