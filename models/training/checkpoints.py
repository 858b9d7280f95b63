"""Checkpoints from which a stopped training run resumes exactly.

A checkpoint holds everything that the rest of a run depends on: the loop stores torch's random state, and a task the states of its
own generators. TwoTowersTask has none, because its batches and dropout follow from the seed and the number of the step
(models/data/batches.py).
"""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import torch

from retrieval.files import replacing

log = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.pt"
CHECKPOINT_FOLDER = ".checkpoints"  # beside the artefacts
CHECKPOINT_SECONDS = 60.0
EPOCH_SECONDS = 10.0


class Checkpoints:
    """The latest checkpoint of one run.

    Attributes:
        folder: folder of the checkpoint, such as `<out>/.checkpoints/<run key>`; runs of the same settings and data share it.
    """

    def __init__(self, folder: Path, every_seconds: float, *, epoch_seconds: float = EPOCH_SECONDS, writes: bool = True) -> None:
        """Set the folder and the rules of a run's checkpoint.

        Args:
            folder: folder of the checkpoint; it need not exist.
            every_seconds: seconds between two checkpoints; 0 writes one after every step.
            epoch_seconds: seconds after the last checkpoint from which the end of an epoch writes another.
            writes: False on all processes of a distributed run except the first.
        """
        self.folder = folder
        self._every_seconds, self._epoch_seconds, self._writes = every_seconds, epoch_seconds, writes
        self._last = time.monotonic()

    def due(self, epoch_ended: bool = False) -> bool:
        """Return True if another checkpoint is due; at the end of an epoch it is due earlier."""
        wait = min(self._every_seconds, self._epoch_seconds) if epoch_ended else self._every_seconds
        return time.monotonic() - self._last >= wait

    def load(self) -> dict[str, Any] | None:
        """Read the checkpoint, with tensors on the CPU; None if it is missing or cannot be read."""
        path = self.folder / CHECKPOINT_FILE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            log.warning("%s cannot be read (%s); the run begins anew", path, str(error).splitlines()[0])
            return None
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint atomically: a process killed at any moment leaves the old or the new checkpoint whole.

        Args:
            state: tensors, and plain values that torch.load(weights_only=True) can read.
        """
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / CHECKPOINT_FILE) as partial, partial.open("wb") as file:
                torch.save(state, file)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Delete the checkpoint of a run that is finished or starts anew."""
        if self._writes:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # other runs have checkpoints there, or the folder does not exist
                self.folder.parent.rmdir()


class PendingInterrupt:
    """Ctrl-C or SIGTERM that waits for the end of a step.

    Attributes:
        requested: True after the first signal.
    """

    def __init__(self) -> None:
        self.requested = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; raise KeyboardInterrupt at the second."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def defer_signals(enabled: bool) -> Iterator[PendingInterrupt]:
    """Defer Ctrl-C and SIGTERM to the end of a step, so that a checkpoint of whole steps can be written.

    SIGTERM is what `kill`, `timeout` and a container's end send; a container is killed some seconds later.

    Args:
        enabled: False changes nothing. Nothing is changed in a thread other than the main one, either.
    """
    interrupt = PendingInterrupt()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
