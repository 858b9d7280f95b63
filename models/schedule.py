"""How far a training run is, and the learning rate that belongs there."""

import math
import time
from collections.abc import Mapping
from typing import Any

PACE_SHARE = 0.1  # of a run, after which its pace is known


class Clock:
    """How far a run is, by its steps; it takes fewer of them where the time would not do for all.

    Attributes:
        steps: how many the run has; falls when the pace so far would end the run after max_seconds.
        steps_run: how many are done.
    """

    def __init__(self, steps: int, max_seconds: float | None) -> None:
        self.steps = steps
        self.steps_run = 0
        self._max_seconds = max_seconds or math.inf
        self._pace_known = steps * PACE_SHARE
        self._before = 0.0  # seconds that the run had taken when it was stopped
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start, without the time between a checkpoint and what went on from it."""
        return self._before + time.monotonic() - self._started

    @property
    def share(self) -> float:
        """Of the run that is over, in [0, 1]."""
        return self.steps_run / self.steps

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.steps_run >= self.steps

    def tick(self) -> None:
        """Count a step, and take out those at the end for which there will be no time."""
        self.steps_run += 1
        if self.steps_run >= self._pace_known and self._max_seconds < math.inf:
            affordable = int(self.steps_run * self._max_seconds / self.seconds)
            self.steps = min(self.steps, max(self.steps_run, affordable))

    def state_dict(self) -> dict[str, Any]:
        """How far the run is."""
        return {"steps": self.steps, "steps_run": self.steps_run, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.steps, self.steps_run, self._before = state["steps"], state["steps_run"], state["seconds"]
        self._started = time.monotonic()


def learning_rate_factor(share: float, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise over `warmup` of the run, then half a cosine down to zero.

    Args:
        share: of the run that is over, in [0, 1].
        warmup: share of the run, in [0, 1).
    """
    if share < warmup:
        return max(share, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))
