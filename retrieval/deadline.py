"""The deadline of a search, which also ends when its client hangs up."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from retrieval.errors import IndexUnavailable, RequestAbandoned


class Arrival:
    """The arrival of a request at a server, and the state of its client.

    Attributes:
        at: time.monotonic() in seconds when the whole request had arrived.
        abandoned: True once the client has hung up.
    """

    def __init__(self) -> None:
        self.at = time.monotonic()
        self.abandoned = False


ARRIVAL: ContextVar[Arrival | None] = ContextVar("arrival", default=None)  # of this context's request; None without a server


@contextmanager
def uncounted() -> Iterator[None]:
    """Postpone the deadline of this request by the duration of the block, so that the block costs no search time."""
    arrival, started = ARRIVAL.get(), time.monotonic()
    try:
        yield
    finally:
        if arrival is not None:
            arrival.at += time.monotonic() - started


class Deadline:
    """A moment after which no further step begins."""

    def __init__(self, seconds: float, arrival: Arrival | None = None) -> None:
        """Set the deadline `seconds` after the arrival of the request; without an arrival, after now.

        Args:
            seconds: time until the deadline, in seconds.
            arrival: arrival of the request, or None. Once its client has hung up, limit() raises.
        """
        self._seconds, self._arrival = seconds, arrival
        self._ends = (time.monotonic() if arrival is None else arrival.at) + seconds

    def left(self) -> float:
        """Return the seconds until the deadline; 0 or less once it has passed."""
        return self._ends - time.monotonic()

    def limit(self, seconds: float) -> float:
        """Return the seconds that a step may take: `seconds`, or the time until the deadline if that is shorter.

        Raises:
            IndexUnavailable: the deadline has passed.
            RequestAbandoned: the client has hung up.
        """
        if self._arrival is not None and self._arrival.abandoned:
            raise RequestAbandoned("the client hung up before it was answered; nothing more is worked out for it")
        left = self.left()
        if left <= 0:
            raise IndexUnavailable(
                f"the {self._seconds:g} s of this search were used up before the index had answered; try again, "
                "or allow more with GAVEL_DEADLINE_S"
            )
        return min(seconds, left)
