"""TensorBoard's curves of a training run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoardWriter:
    """Writes curves; without a writer it shows nothing."""

    def __init__(self, writer: Any = None) -> None:
        self._writer = writer

    @classmethod
    def open(cls, folder: Path | None, step: int) -> "TensorBoardWriter":
        """Write into a folder, over what stands there from `step` on; None shows nothing."""
        if folder is None:
            return cls()
        from torch.utils.tensorboard import SummaryWriter  # a second of imports

        return cls(SummaryWriter(str(folder), purge_step=step))

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, *reason: object) -> None:
        if self._writer:
            self._writer.close()

    def show_step(self, step: int, figures: Mapping[str, Any], rate: float, temperature: float) -> None:
        """Points of one step; rate is a share of the peak."""
        self._show("step", {**figures, "learning_rate_factor": rate, "temperature": temperature}, step)

    def show_epoch(self, step: int, record: Mapping[str, Any]) -> None:
        """Points of one epoch, an EpochRecord as a mapping, at the step where it ended."""
        names = ("loss", "in_batch_accuracy", "in_batch_recall_at_10")
        self._show("train", {name: record[name] for name in names}, step)
        self._show("val", record["figures"] or {}, step)

    def _show(self, group: str, values: Mapping[str, Any], step: int) -> None:
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", float(value), step)
