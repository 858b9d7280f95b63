"""The time that a search may take."""

import time

from retrieval.errors import IndexUnavailable


class Deadline:
    """A moment after which no further stage is begun."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then; 0 or less when it has passed."""
        return self._ends - time.monotonic()

    def limit(self, seconds: float) -> float:
        """The time that a request may take which is given up after so many seconds, or with the search.

        Raises:
            IndexUnavailable: the deadline has passed.
        """
        left = self.left()
        if left <= 0:
            raise IndexUnavailable(
                f"the {self._seconds:g} s of this search were used up before the index had answered; try again, "
                "or allow more with GAVEL_DEADLINE_S"
            )
        return min(seconds, left)
