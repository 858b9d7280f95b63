"""Background rebuilds of an index's parts: one low-priority thread at a time, and a wait after each that failed."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import faiss

from retrieval.errors import GavelError, IndexUnavailable

logger = logging.getLogger(__name__)

NICENESS = 10
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0  # before a rebuild that failed is tried again; the wait doubles each time


class Closed(Exception):
    """The index was closed while a part of it was made anew."""


class BackgroundRebuild:
    """A background rebuild with back-off: after a failure for want of memory or disk it is due again only later.

    Args:
        name: of the thread, and for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._wait_s, self._not_before = FIRST_WAIT_S, 0.0

    @property
    def due(self) -> bool:
        """True unless it failed just now."""
        return time.monotonic() >= self._not_before

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Count the block as an attempt.

        Raises:
            IndexUnavailable: memory or disk did not suffice; the next attempt is due later.
        """
        try:
            with enough_memory(self._name):
                yield
        except (IndexUnavailable, OSError, RuntimeError) as error:  # RuntimeError is FAISS's
            self._put_off()
            raise error if isinstance(error, IndexUnavailable) else IndexUnavailable(f"{self._name}: {error}") from error
        self._wait_s = FIRST_WAIT_S

    def start(self, renew: Callable[[], None], otherwise: str) -> None:
        """Run it in a thread of one core and, where the system allows it, low priority; nothing happens before it is due.

        Args:
            renew: makes its own attempt().
            otherwise: how things stand if that fails, for the log.
        """
        if not self.due:
            return

        def run() -> None:
            faiss.omp_set_num_threads(1)  # of this thread: the other cores are for searches
            if sys.platform == "linux":  # elsewhere a thread has no priority of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            try:
                renew()
            except GavelError as error:
                logger.error("%s: %s", otherwise, error)

        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # the system gives no more threads; who asked goes on without
            self._put_off()
            logger.error("%s: %s", otherwise, error)

    def _put_off(self) -> None:
        self._not_before, self._wait_s = time.monotonic() + self._wait_s, min(2 * self._wait_s, LONGEST_WAIT_S)


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn a MemoryError into IndexUnavailable.

    Args:
        what: ran out of it, for the message.
    """
    try:
        yield
    except MemoryError as error:
        raise IndexUnavailable(f"{what}: the memory does not suffice; free some, or give the process more") from error
