"""The record of a training run (training.json in the artefact's folder), and the key that identifies a run.

torch is imported inside functions, because it takes seconds and commands that only read a record do not need it.
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

import numpy as np

from catalog.folder import TRAINING_FOLDER, CatalogFolder
from models.config.training import TrainingConfig
from retrieval.files import replace_file

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")


def data_hash(catalog: CatalogFolder) -> str:
    """Return the sha256 of the item files of train and val, the pairs and the judgments; photos count only by name."""
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
    """Return the key of a run: twelve hexadecimal digits of a hash over everything that its outcome depends on.

    max_seconds and log_with are left out, so that a run that max_seconds cut can resume with other values. So is the choice of
    photos, because the towers say whether they read any.
    """
    import torch

    mined = {query: list(item_ids) for query, item_ids in negatives.items()} if negatives is not None else None
    parts = [
        asdict(config) | {"max_seconds": None, "log_with": None, "photos": None},
        stage,
        data,
        mined,
        start_from.name if start_from else None,
        torch.__version__,
    ]
    return hash_of(parts)


def hash_of(parts: Sequence[Any]) -> str:
    """Return twelve hexadecimal digits of a hash over settings and data, in which runs that may resume each other agree.

    Args:
        parts: JSON values, numpy arrays, and values that str() tells apart.
    """
    digest = hashlib.sha256()
    for part in parts:
        plain = isinstance(part, np.ndarray)
        digest.update(f"{part.shape} {part.dtype} ".encode() if plain else b"")
        digest.update(part.tobytes() if plain else json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:12]


def steps_record(run: int, planned: int, cut_by_clock: bool) -> dict[str, Any]:
    """Return the length of a run as its record stores it under `steps`; cut_steps() reads it."""
    return {"run": run, "planned": planned, "cut_by_clock": cut_by_clock}


def git_commit() -> str | None:
    """Return the commit of the checkout that this file lies in; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Return the machine's architecture, torch's number of threads and the names of the GPUs."""
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
        started: start of the run, in UTC.
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


RECORD_FILE = "training.json"  # in the folder of the artefact that the run made


def read_record(folder: Path) -> dict[str, Any]:
    """Return training.json of a tower; empty without a readable record."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def cut_steps(folder: Path) -> tuple[int, int] | None:
    """Return (steps run, steps planned) if max_seconds cut the training of a tower, otherwise None.

    Args:
        folder: `towers/<tower_id>`; without a readable record the result is None.
    """
    return cut_of(read_record(folder).get("steps"))


def cut_of(steps: Any) -> tuple[int, int] | None:
    """Return (steps run, steps planned) of a value of steps_record() if the run was cut; None if not, or for another value."""
    try:
        return (int(steps["run"]), int(steps["planned"])) if steps["cut_by_clock"] else None
    except (ValueError, KeyError, TypeError):
        return None
