"""A circuit breaker: after several failures a service is not called for a while (docs/adr/0009-what-a-search-does-without.md)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from circuitbreaker import CircuitBreaker

from retrieval.errors import GavelError, IndexMissing

logger = logging.getLogger(__name__)

FAILURES = 5  # failures in a row that open the circuit
# Seconds until the next try. It is longer than a search may take, because otherwise a search could run into several tries.
RECOVERY_S = 10.0


class Circuit:
    """A circuit breaker of one service: while the service is down, calls raise at once instead of waiting for it."""

    def __init__(self, name: str, failure: type[GavelError]) -> None:
        """Create a closed circuit.

        Args:
            name: name of the service, for messages.
            failure: type of the errors that count as failures, and of the error that an open circuit raises. IndexMissing never
                counts.
        """
        self._name, self._failure = name, failure
        self._breaker = CircuitBreaker(FAILURES, RECOVERY_S, self._counts, name=name)

    @property
    def state(self) -> str:
        """Return `closed`; `open` while calls are refused; `half_open` if the next call tries the service again."""
        return str(self._breaker.state)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Run the block, and count its success or failure.

        Raises:
            GavelError: the circuit is open; the error has the type `failure`. Errors of the block are raised unchanged.
        """
        if self._breaker.opened:
            raise self._failure(
                f"{self._name} failed {FAILURES} times in a row and is left alone for {RECOVERY_S:g} s; the log says why"
            )
        with self._breaker:
            yield

    def _counts(self, kind: type[BaseException], error: BaseException) -> bool:
        return issubclass(kind, self._failure) and not issubclass(kind, IndexMissing)
