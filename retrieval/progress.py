"""Progress reports of long steps."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (units done, units in all); the step's docstring names the unit
PhaseProgress = Callable[[str], Progress]  # label of a phase -> the progress of that phase


def ignore_progress(done: int, total: int) -> None:
    """Report nothing."""


def ignore_phases(label: str) -> Progress:
    """Report nothing in any phase."""
    return ignore_progress


class ProgressCounter:
    """Counts the steps of a known total and reports each."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._count, self._progress = total, 0, progress

    def tick(self) -> None:
        """Count one step."""
        self._count += 1
        if self._progress:
            self._progress(self._count, self._total)
