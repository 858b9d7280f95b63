"""Trains both towers on a catalogue: a SageMaker Processing job, or a command on any machine.

python -m processing.train_towers --input .gavel/catalogs/synthetic --output .gavel/towers
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from catalog.folder import CatalogFolder
from models.presets import PRESETS, TowerConfig
from models.training import TrainingConfig, TrainingReport, train_towers
from retrieval.errors import GavelError

INPUT = Path("/opt/ml/processing/input")
OUTPUT = Path("/opt/ml/processing/output")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write `<output>/<tower_id>`, and print the report as one line of JSON.

    Args:
        arguments: the command line; None takes the process's own.

    Returns:
        Exit status: 0, or 1 with the reason on stderr.
    """
    flags = _parser().parse_args(arguments)
    try:
        report = train_towers(CatalogFolder.load(flags.input), training_config(flags), flags.output)
    except GavelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(_summary(report)))
    return 0


def training_config(flags: argparse.Namespace) -> TrainingConfig:
    """The catalogue's own schedule, with what the flags change."""
    name = CatalogFolder.load(flags.input).name
    config = TrainingConfig.for_catalog(name, preset=flags.preset, use_image=not flags.text_only, seed=flags.seed)
    given = {
        field: getattr(flags, field)
        for field in ("epochs", "batch_size", "learning_rate", "max_seconds")
        if getattr(flags, field) is not None
    }
    return replace(config, tower=_with_local_weights(config.tower, flags), **given)


def _with_local_weights(tower: TowerConfig, flags: argparse.Namespace) -> TowerConfig:
    if flags.text_model:
        tower = replace(tower, text=replace(tower.text, model=flags.text_model))
    if flags.image_weights:
        tower = replace(tower, image=replace(tower.image, weights=flags.image_weights))
    return tower.fresh() if flags.random_weights else tower


def _summary(report: TrainingReport) -> dict[str, object]:
    return {
        "tower_id": report.tower_id,
        "tower_folder": str(report.tower_folder),
        "best": asdict(report.best),
        "epochs": len(report.history),
        "lots": report.lots,
        "photos": report.photos,
        "queries": report.queries,
        "parameters": report.parameters,
        "seconds": round(report.seconds, 1),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train_towers", description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, default=INPUT, help="the catalogue's folder (default %(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the towers (default %(default)s)")
    parser.add_argument("--preset", choices=list(PRESETS), default="compact")
    parser.add_argument("--text-only", action="store_true", help="an item tower that does not look at photos")
    parser.add_argument("--text-model", help="hub name or local folder of a pretrained text encoder")
    parser.add_argument("--image-weights", help="name of torchvision weights, or path of a state dict")
    parser.add_argument("--random-weights", action="store_true", help="start every encoder from random weights; no download")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--max-seconds", type=float, help="shorten the schedule to end after so long")
    parser.add_argument("--seed", type=int, default=7)
    return parser


if __name__ == "__main__":
    sys.exit(main())
