"""Progress reports of long steps."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (units done, total units); the docstring of the step names the unit
PhaseProgress = Callable[[str], Progress]  # label of a phase -> the Progress to report that phase to


def ignore_progress(done: int, total: int) -> None:
    """Ignore a report."""


def ignore_phases(label: str) -> Progress:
    """Return a Progress that ignores the reports of a phase."""
    return ignore_progress


class ProgressCounter:
    """A counter of steps with a known total, which reports each step; a None progress reports nothing."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._count, self._progress = total, 0, progress

    def tick(self) -> None:
        """Count one step and report it."""
        self._count += 1
        if self._progress:
            self._progress(self._count, self._total)
