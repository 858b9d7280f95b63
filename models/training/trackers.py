"""Experiment trackers of Accelerate, such as Weights & Biases, which get the curves of a run beside TensorBoard."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from retrieval.errors import InvalidInput

PROJECT = "gavel"
WANDB = str(LoggerType.WANDB)


def check_tracker(name: str) -> None:
    """Refuse a tracker that cannot be used; Accelerate would leave it out in silence.

    Args:
        name: value of TrainingConfig.log_with.

    Raises:
        InvalidInput: the name is unknown, the tracker's package is not installed, or it is TensorBoard, which is always written.
    """
    known = sorted({str(kind) for kind in LOGGER_TYPE_TO_CLASS} - {str(LoggerType.TENSORBOARD)})
    if name == str(LoggerType.TENSORBOARD):
        raise InvalidInput("TensorBoard's files are always written, below .runs of the towers; leave log_with out, or name another")
    if name not in known:
        raise InvalidInput(f"there is no tracker {name!r}; log_with is one of {', '.join(known)}")
    if name in LoggerType.list() and name not in [str(kind) for kind in get_available_trackers()]:
        package = "pip install 'gavel[wandb]'" if name == WANDB else f"install the package of {name}"
        raise InvalidInput(f"log_with is {name!r}, whose package is not installed; {package}, or leave log_with out")


@contextmanager
def track(accelerator: Accelerator, run: str, settings: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Open the trackers of an Accelerator for one run, and close them at its end, also after an error.

    Args:
        accelerator: accelerator with the name of a tracker as log_with, or without one.
        run: name of the run.
        settings: settings of the run, possibly nested.
        folder: folder for files of the run; it is created if there is a tracker.
    """
    if not accelerator.log_with:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers(PROJECT, config=_flat(settings), init_kwargs={WANDB: {"name": run, "dir": str(folder)}})
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # end_training() would also close the process group, which further runs need
            tracker.finish()
        accelerator.trackers.clear()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level of keys with dots and of plain values, as trackers take them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, (bool, int, float, str)):
            flat[prefix + key] = value
        else:
            flat[prefix + key] = str(value)
    return flat
