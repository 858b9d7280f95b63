"""How far a training run is, and the learning rate that belongs there."""

import math
import time


class Clock:
    """How far a run is: by its steps or, where that is further, by its seconds."""

    def __init__(self, steps: int, max_seconds: float | None) -> None:
        self.steps = steps
        self.steps_run = 0
        self._max_seconds = max_seconds or math.inf
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def share(self) -> float:
        """Of the run that is over, in [0, 1]."""
        return min(1.0, max(self.steps_run / self.steps, self.seconds / self._max_seconds))

    @property
    def steps_done(self) -> int:
        """The share in steps."""
        return round(self.share * self.steps)

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.share >= 1.0

    def tick(self) -> None:
        """Count a step."""
        self.steps_run += 1


def learning_rate_factor(share: float, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise over `warmup` of the run, then half a cosine down to zero.

    Args:
        share: of the run that is over, in [0, 1].
        warmup: share of the run, in [0, 1).
    """
    if share < warmup:
        return max(share, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))
