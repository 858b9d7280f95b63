"""Progress of a run of several phases, with the time that is left in all of them."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from gavel.workspace.console import Step, notes, progress

REPORT_S = 60.0  # between two lines where no bar is shown
MIN_DONE_S = 5.0  # expected seconds of finished work from which on the measured speed counts


class Forecast(ExitStack):
    """Bars of the phases of a run, one after another, each with the time that is left until the end of the run.

    The expected seconds of a phase say how phases compare. How long they take on this machine is measured while they run: the time
    so far, divided by the expected time of what is done, is the factor of what is left.
    """

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare the phases.

        Args:
            expected: label of a phase -> expected seconds on two free cores, in the order of the run.
            clock: seconds of a clock that never goes back.
        """
        super().__init__()
        self._expected, self._clock = dict(expected), clock
        self._done: dict[str, float] = dict.fromkeys(expected, 0.0)  # share of each phase, in [0, 1]
        self._took = 0.0  # seconds of the phases that were measured
        self._measured = 0.0  # their expected seconds
        self._label, self._started, self._reported_at = "", clock(), clock()

    def __call__(self, label: str) -> Step:
        """End the phase before, show the bar of the next one and return its function of (done, total)."""
        self.finish()
        self._label, self._started = label, self._clock()
        self._expected.setdefault(label, 0.0)
        self._done.setdefault(label, 0.0)
        number = list(self._expected).index(label) + 1
        title = f"{number}/{len(self._expected)} {label}"
        self._report(title)
        bar = self.enter_context(progress(title, note=self.words))

        def step(done: int, total: int) -> None:
            self._done[label] = min(done / total, 1.0) if total else 0.0
            bar(done, total)
            if self._clock() - self._reported_at >= REPORT_S:
                self._report(title)

        return step

    def _report(self, title: str) -> None:
        """Print the remaining time where no bar is shown, as in a log."""
        self._reported_at = self._clock()
        if not notes.is_terminal:
            notes.print(f"{title}: {self.words()}", highlight=False)

    def finish(self) -> None:
        """End the present phase."""
        self.close()
        if self._label:
            self._took += self._clock() - self._started
            self._measured += self._expected[self._label]
            self._done[self._label], self._label = 1.0, ""

    def skip(self, label: str) -> None:
        """Count a phase as done that an earlier run has finished."""
        self._done[label] = 1.0

    def remaining(self) -> float:
        """Return the expected seconds until the end of the run, at the speed that was measured so far."""
        present = self._clock() - self._started if self._label else 0.0
        done = self._measured + (self._expected[self._label] * self._done[self._label] if self._label else 0.0)
        factor = (self._took + present) / done if done >= MIN_DONE_S else 1.0
        return factor * sum(seconds * (1 - self._done[label]) for label, seconds in self._expected.items())

    def words(self) -> str:
        """Return the remaining time in words."""
        return f"about {duration_words(self.remaining())} left in all"


def duration_words(seconds: float) -> str:
    """Return a duration in words, such as "40 s" or "7 min"."""
    if seconds < 55:
        return f"{max(5, round(seconds / 5) * 5)} s"
    if seconds < 5_400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"
