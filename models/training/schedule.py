"""How far a training run is, and the learning rate that belongs there."""

import math
import time
from collections.abc import Mapping
from typing import Any

PACE_SHARE = 0.1  # of a run, after which its pace is known


class StepBudget:
    """How far a run is, by its steps; it takes fewer of them where the time would not do for all.

    A run that was cut goes on from its checkpoint with the steps that were left out, and has max_seconds for them anew.

    Attributes:
        planned: how many steps the schedule asks for.
        steps: how many the run has; falls when the pace so far would end the run after max_seconds.
        steps_run: how many are done.
    """

    def __init__(self, steps: int, max_seconds: float | None) -> None:
        self.planned = self.steps = steps
        self.steps_run = 0
        self._max_seconds = max_seconds or math.inf
        self._first_step, self._first_second = 0, 0.0  # where the time began that max_seconds limits
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
        done, left = self.steps_run - self._first_step, self.planned - self._first_step
        if done >= left * PACE_SHARE and self._max_seconds < math.inf:
            affordable = self._first_step + int(done * self._max_seconds / (self.seconds - self._first_second))
            self.steps = min(self.steps, max(self.steps_run, affordable))

    def state_dict(self) -> dict[str, Any]:
        """How far the run is."""
        first = {"first_step": self._first_step, "first_second": self._first_second}
        return {"steps": self.steps, "steps_run": self.steps_run, "seconds": self.seconds, **first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; a run that had ended before its planned steps has all of them again."""
        self.steps, self.steps_run, self._before = state["steps"], state["steps_run"], state["seconds"]
        self._first_step, self._first_second = state.get("first_step", 0), state.get("first_second", 0.0)
        if self.over:
            self.steps, self._first_step, self._first_second = self.planned, self.steps_run, self._before
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
