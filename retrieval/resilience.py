"""A circuit breaker: stop calling a service for a while after several failures (docs/adr/0009-what-a-search-does-without.md)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from circuitbreaker import CircuitBreaker

from retrieval.errors import GavelError, IndexMissing

logger = logging.getLogger(__name__)

FAILURES = 5  # in a row, until it opens
RECOVERY_S = 10.0  # until the next try; longer than a search may take, else one caller would meet a new try each time


class Circuit:
    """Counts the failures of a service, and raises in its place while it is down."""

    def __init__(self, name: str, failure: type[GavelError]) -> None:
        """Create a closed circuit.

        Args:
            name: of the service, for messages.
            failure: the error that counts as a failure, and that is raised while the circuit is open. IndexMissing never
                counts.
        """
        self._name, self._failure = name, failure
        self._breaker = CircuitBreaker(FAILURES, RECOVERY_S, self._counts, name=name)

    @property
    def state(self) -> str:
        """Return `closed`, `open`, or `half_open` if the next call is the try."""
        return str(self._breaker.state)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Run the block, and count its success or failure.

        Raises:
            GavelError: of the type `failure`, if the circuit is open; else as the block raises.
        """
        if self._breaker.opened:
            raise self._failure(
                f"{self._name} failed {FAILURES} times in a row and is left alone for {RECOVERY_S:g} s; the log says why"
            )
        with self._breaker:
            yield

    def _counts(self, kind: type[BaseException], error: BaseException) -> bool:
        return issubclass(kind, self._failure) and not issubclass(kind, IndexMissing)
