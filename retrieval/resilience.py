"""A circuit breaker: what failed several times in a row is left alone for a while (docs/adr/0009-what-a-search-does-without.md)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from circuitbreaker import CircuitBreaker

from retrieval.errors import GavelError, IndexMissing

logger = logging.getLogger(__name__)

FAILURES = 5  # in a row, until it opens
RECOVERY_S = 10.0  # until the next try; longer than a search may take, or one caller would find it tried anew each time


class Circuit:
    """Counts the failures of one thing that is asked, and answers for it while it is down."""

    def __init__(self, name: str, failure: type[GavelError]) -> None:
        """Make a closed circuit.

        Args:
            name: of what is asked, for messages.
            failure: the error that counts as its failure, and that is raised while it is open. An index that was not made
                yet is no failure.
        """
        self._name, self._failure = name, failure
        self._breaker = CircuitBreaker(FAILURES, RECOVERY_S, self._counts, name=name)

    @property
    def state(self) -> str:
        """`closed`, `open`, or `half_open` when the next call is the one that tries."""
        return str(self._breaker.state)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Let the block ask, and note how it went.

        Raises:
            GavelError: of the type given, when the circuit is open; else whatever the block raises.
        """
        if self._breaker.opened:
            raise self._failure(
                f"{self._name} failed {FAILURES} times in a row and is left alone for {RECOVERY_S:g} s; the log says why"
            )
        with self._breaker:
            yield

    def _counts(self, kind: type[BaseException], error: BaseException) -> bool:
        return issubclass(kind, self._failure) and not issubclass(kind, IndexMissing)
