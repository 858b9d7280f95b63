"""The time that a search may take, and whether anybody still waits for its answer."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from retrieval.errors import IndexUnavailable, RequestAbandoned


class Arrival:
    """The moment when a server had a whole request, and the state of its client.

    Attributes:
        at: by time.monotonic(), seconds.
        abandoned: True once the client has hung up.
    """

    def __init__(self) -> None:
        self.at = time.monotonic()
        self.abandoned = False


ARRIVAL: ContextVar[Arrival | None] = ContextVar("arrival", default=None)  # of the request that this context answers


@contextmanager
def uncounted() -> Iterator[None]:
    """Leave the time of the block out of the time that this request may take."""
    arrival, started = ARRIVAL.get(), time.monotonic()
    try:
        yield
    finally:
        if arrival is not None:
            arrival.at += time.monotonic() - started


class Deadline:
    """A moment after which no further stage is begun."""

    def __init__(self, seconds: float, arrival: Arrival | None = None) -> None:
        """Count from an arrival on, or from now.

        Args:
            seconds: until the moment.
            arrival: of the request; once its client has hung up, no further stage is begun either.
        """
        self._seconds, self._arrival = seconds, arrival
        self._ends = (time.monotonic() if arrival is None else arrival.at) + seconds

    @classmethod
    def of_request(cls, seconds: float) -> "Deadline":
        """Count from the arrival of the request that is answered here; from now where no server set one."""
        return cls(seconds, ARRIVAL.get())

    def left(self) -> float:
        """Seconds until then; 0 or less when it has passed."""
        return self._ends - time.monotonic()

    def limit(self, seconds: float) -> float:
        """The time that a stage may take which is given up after so many seconds, or with the search.

        Raises:
            IndexUnavailable: the deadline has passed.
            RequestAbandoned: nobody waits for the answer.
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
