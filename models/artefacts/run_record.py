"""The record of a training run: training.json beside the artefact, and what names a run.

Commands that only read a record import no torch, which takes seconds.
"""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from catalog.folder import TRAINING_FOLDER, CatalogFolder
from models.config.training import TrainingConfig
from retrieval.files import replace_file

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")


def data_hash(catalog: CatalogFolder) -> str:
    """Return the sha256 of the item files of train and val, the pairs and the judgments; photos count by name alone."""
    digest = hashlib.sha256()
    items = {file for split in ("train", "val") if split in catalog.splits for file in catalog.item_files(split)}
    tables = [catalog.path / TRAINING_FOLDER / f"{name}.parquet" for name in ("pairs", "qrels")]
    for file in [*sorted(items), *tables]:
        digest.update(f"{file.name}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def run_key(
    config: TrainingConfig, stage: int, data: str, negatives: Mapping[str, Sequence[str]] | None, start_from: Path | None
) -> str:
    """Name a run by everything that its outcome depends on: twelve hexadecimal digits.

    max_seconds is left out, so that a run that was cut goes on when it is given more time.
    """
    import torch

    mined = {query: list(item_ids) for query, item_ids in negatives.items()} if negatives is not None else None
    parts = [asdict(config) | {"max_seconds": None}, stage, data, mined, start_from.name if start_from else None, torch.__version__]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def git_commit() -> str | None:
    """Return the commit of the checkout that this file lies in; None outside one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Return the machine, its threads and its GPUs."""
    import torch

    return {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's rounding."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def write_record(folder: Path, record: Mapping[str, Any], started: datetime) -> None:
    """Write training.json into an artefact's folder.

    Args:
        folder: `towers/<tower_id>`.
        record: settings and results of the run, as JSON values.
        started: UTC.
    """
    complete = {
        "gavel": _own_version(),
        "git_commit": git_commit(),
        "started": started.isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
        **record,
    }
    replace_file(folder / RECORD_FILE, json.dumps(complete, indent=2, ensure_ascii=False, default=str) + "\n")


def _own_version() -> str:
    try:
        return version("gavel")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+checkout"


RECORD_FILE = "training.json"  # beside the artefact that a run made


def cut_steps(folder: Path) -> tuple[int, int] | None:
    """Return the steps that were run and planned if the clock cut the training of a tower; else None.

    Args:
        folder: `towers/<tower_id>`; one without a readable record was not cut as far as anybody knows.
    """
    try:
        steps = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["steps"]
        run, planned = int(steps["run"]), int(steps["planned"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (run, planned) if steps["cut_by_clock"] else None
