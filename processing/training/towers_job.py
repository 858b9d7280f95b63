"""Trains both towers on a catalogue: a SageMaker Processing job, or a command on any machine, on one process or several.

python -m processing.train_towers --input .gavel/catalogs/synthetic --output .gavel/towers
accelerate launch -m processing.train_towers --input … --output …                    # all GPUs of the machine
torchrun --nproc-per-node 2 -m processing.train_towers --input … --output …          # two processes, GPUs or not
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from catalog.folder import CatalogFolder
from models.data.hard_negatives import HardNegatives
from models.towers.config import PRESETS, TowerConfig
from models.training.two_towers import TrainingConfig, TrainingReport, train_towers
from processing.training.rounds import in_stages
from retrieval.errors import GavelError
from retrieval.progress import Progress

INPUT = Path("/opt/ml/processing/input")
OUTPUT = Path("/opt/ml/processing/output")
EXIT_USAGE, EXIT_INTERRUPTED = 2, 130
FIELDS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "max_seconds",
    "micro_batch",
    "accumulate",
    "patience",
    "mixed_precision",
    "log_q",
)
LOG_SECONDS = 10.0  # between two lines of progress

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write `<output>/<tower_id>`, and print the report as one line of JSON.

    Args:
        arguments: the command line; None takes the process's own.

    Returns:
        Exit status: 0; 2 when the input or a flag cannot be used, with one line on stderr that says why; 130 after Ctrl-C.
    """
    flags = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        negatives = HardNegatives.load(flags.negatives).by_query if flags.negatives else None
        report = train_towers(
            CatalogFolder.load(flags.input),
            training_config(flags),
            flags.output,
            _log_progress(),
            stage=flags.stage,
            start_from=flags.start_from,
            negatives=negatives,
            resume=flags.resume,
        )
    except GavelError as error:
        print(f"gavel: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("gavel: interrupted; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    if os.environ.get("RANK", "0") == "0":  # a launcher's other processes have the same to say
        print(json.dumps(_summary(report)))
    return 0


def training_config(flags: argparse.Namespace) -> TrainingConfig:
    """The catalogue's own schedule, with what the flags change; any stage but the first, or negatives, ask for three stages."""
    name = CatalogFolder.load(flags.input).name
    config = TrainingConfig.for_catalog(name, preset=flags.preset, use_image=not flags.text_only, seed=flags.seed)
    given = {field: getattr(flags, field) for field in FIELDS if getattr(flags, field) is not None}
    config = replace(config, tower=_with_local_weights(config.tower, flags), **given)
    return in_stages(config) if flags.stage or flags.negatives else config


def _with_local_weights(tower: TowerConfig, flags: argparse.Namespace) -> TowerConfig:
    if flags.text_model:
        tower = replace(tower, text=replace(tower.text, model=flags.text_model))
    if flags.image_weights:
        tower = replace(tower, image=replace(tower.image, weights=flags.image_weights))
    if flags.train_text:
        tower = replace(tower, text=replace(tower.text, trainable=flags.train_text))
    return tower.fresh() if flags.random_weights else tower


def _log_progress() -> Progress:
    """Progress as a line of the log every few seconds."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_SECONDS or done == total:
            last = time.monotonic()
            log.info("step %d of %d", done, total)

    return report


def _summary(report: TrainingReport) -> dict[str, object]:
    return {
        "tower_id": report.tower_id,
        "tower_folder": str(report.tower_folder),
        "best": asdict(report.best),
        "epochs": len(report.history),
        "steps": report.steps,
        "planned_steps": report.planned_steps,
        "cut_by_clock": report.cut_by_clock,
        "lots": report.lots,
        "photos": report.photos,
        "queries": report.queries,
        "parameters": report.parameters,
        "seconds": round(report.seconds, 1),
        "resumed_at": report.resumed_at,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train_towers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--input", type=Path, default=INPUT, help="the catalogue's folder (default %(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the towers (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on with a run that was cut short")
    _add_architecture(parser.add_argument_group("architecture"))
    _add_stage(parser.add_argument_group("stage"))
    _add_schedule(parser.add_argument_group("schedule; the catalogue's own by default"))
    return parser


def _add_architecture(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--preset", choices=list(PRESETS), default="compact")
    group.add_argument("--text-only", action="store_true", help="an item tower that does not look at photos")
    group.add_argument("--text-model", help="hub name or local folder of a pretrained text encoder")
    group.add_argument("--train-text", metavar="all|none|last-<n>", help="which of its layers are trained (default all)")
    group.add_argument("--image-weights", help="name of torchvision weights, or path of a state dict")
    group.add_argument("--random-weights", action="store_true", help="start every encoder from random weights; no download")


def _add_stage(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--stage", type=int, default=0, help="0 in-batch and random negatives, 1 mined ones, 2 weak positives (default %(default)s)"
    )
    group.add_argument("--start-from", type=Path, help="folder of the tower whose weights are gone on from")
    group.add_argument("--negatives", type=Path, help="file that processing.training.mining wrote")


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=int)
    group.add_argument("--batch-size", type=int)
    group.add_argument("--learning-rate", type=float)
    group.add_argument("--max-seconds", type=float, help="shorten the schedule to end after so long")
    group.add_argument("--micro-batch", type=int, help="encode so many texts at once: large batches in little memory")
    group.add_argument("--accumulate", type=int, help="batches whose gradients are added up for one step")
    group.add_argument("--patience", type=int, help="measurements without a better one after which training stops")
    group.add_argument("--mixed-precision", choices=("auto", "no", "bf16", "fp16"))
    group.add_argument("--log-q", action="store_const", const=True, help="correct for how often a lot is met")


if __name__ == "__main__":
    sys.exit(main())
