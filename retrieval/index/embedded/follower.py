"""Keep a view of an index up to date with the commits of its database.

A search refreshes the view before it uses it. Longer work, such as a merge or a new training, runs in a background rebuild: one
low-priority thread, in which FAISS uses one thread.
"""

import logging
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import faiss

from retrieval.errors import GavelError, IndexUnavailable
from retrieval.files import reason_of
from retrieval.index.embedded.database import CommitSeq, ItemDatabase

logger = logging.getLogger(__name__)

NICENESS = 10
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 300.0  # wait after a failed rebuild before the next attempt; it doubles with each failure


class Closed(Exception):
    """The follower was closed during a rebuild."""


class View(Protocol):
    """A state of an index."""

    @property
    def commit_seq(self) -> CommitSeq:
        """Return the last commit of the database that is in the view."""


V = TypeVar("V", bound=View)


class Follower(ABC, Generic[V]):
    """The holder of the view of a database that searches use. Threads may share it.

    One thread at a time refreshes the view, and one at a time rebuilds it. Searches go on meanwhile.

    Args:
        database: database to follow.
        name: name of rebuilds, in the log and in errors.
        on_failure: consequence of a failed background rebuild, for the log.

    Attributes:
        view: view of the last refresh; None before the first refresh, and after a refresh that ran out of memory.
    """

    def __init__(self, database: ItemDatabase, name: str, on_failure: str) -> None:
        self.view: V | None = None
        self._database, self._name, self._on_failure = database, name, on_failure
        self._backoff = Backoff(name)
        self._rebuild_lock, self._refresh_lock = threading.Lock(), threading.Lock()  # always taken in this order
        self._swapping = self._closed = False

    @property
    def rebuilding(self) -> bool:
        """True while a rebuild runs."""
        return self._rebuild_lock.locked()

    def current(self, min_commit: CommitSeq) -> V:
        """Return the current view, and start a background rebuild if one is due.

        While another thread refreshes, return the previous view if its commit is at least `min_commit`; otherwise wait.
        """
        view, commit_seq = self.view, self._database.commit_seq()
        if view is not None and view.commit_seq == commit_seq:
            return view
        if not self._refresh_lock.acquire(blocking=view is None or view.commit_seq < min_commit or self._swapping):
            assert view is not None
            return view
        try:
            view = self.view or self._open()
            if view.commit_seq < commit_seq:
                view = self._refresh(view)
            self.view = view
        except MemoryError:
            self.view = None  # a part of the view may have an item that another part lacks
            raise
        finally:
            self._refresh_lock.release()
        if self._is_rebuild_due(view) and not self.rebuilding:
            self._start_rebuild()
        return view

    def rebuild_if_due(self, min_commit: CommitSeq) -> None:
        """Rebuild the view if a rebuild is due and the last one did not fail just now.

        Raises:
            IndexUnavailable: the rebuild ran out of memory or disk space.
        """
        if self._is_rebuild_due(self.current(min_commit)) and self._backoff.due:
            self.rebuild(min_commit)

    def rebuild(self, min_commit: CommitSeq) -> None:
        """Rebuild and save the view, even if no rebuild is due; wait first for a running rebuild.

        Raises:
            IndexUnavailable: the rebuild ran out of memory or disk space.
        """
        with self._rebuild_lock:
            self._attempt(self.current(min_commit), in_background=False)

    def close(self) -> None:
        """Cancel a running rebuild, and save the view for the next start."""
        self._closed = True
        with self._rebuild_lock, self._refresh_lock:
            if self.view is not None:
                self._save(self.view)
            self.view = None

    @abstractmethod
    def _open(self) -> V:
        """Return the first view, of any commit."""

    @abstractmethod
    def _refresh(self, view: V, checkpoint: Callable[[], None] = lambda: None) -> V:
        """Return a view with all commits, which may be `view` itself.

        Args:
            view: view of any commit. It stays valid and can be refreshed again, except after a MemoryError.
            checkpoint: function that is called between steps; it may raise to give up.
        """

    def _is_rebuild_due(self, view: V) -> bool:
        """True if a background rebuild should start."""
        return False

    @abstractmethod
    def _rebuild(self, view: V, *, in_background: bool) -> None:
        """Rebuild the view and save the result. Call _check_open() between steps.

        Args:
            view: view that searches use.
            in_background: True if no caller waits. Then files of another process may be used, and a small part may stay unsaved.
        """

    @abstractmethod
    def _save(self, view: V) -> object:
        """Save the parts that the next start would have to build again. No thread refreshes or rebuilds meanwhile."""

    def _swap(self, view: V) -> None:
        """Let searches use another view. New searches wait for the swap, so that none gets an older commit than before."""
        view = self._refresh(view, self._check_open)  # adds most new commits while searches go on
        self._swapping = True
        try:
            with self._refresh_lock:
                self.view = self._refresh(view)
        finally:
            self._swapping = False

    def _check_open(self) -> None:
        if self._closed:
            raise Closed

    def _attempt(self, view: V, *, in_background: bool) -> None:
        try:
            with self._backoff.attempt():
                self._rebuild(view, in_background=in_background)
        except Closed:
            pass

    def _start_rebuild(self) -> None:
        if not self._backoff.due:
            return
        try:
            threading.Thread(target=self._rebuild_in_background, name=self._name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # no thread can be started; the search goes on
            self._backoff.postpone()
            logger.error("%s: %s", self._on_failure, error)

    def _rebuild_in_background(self) -> None:
        faiss.omp_set_num_threads(1)  # affects only this thread, and leaves the other cores to searches
        if sys.platform == "linux":  # on other systems a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        if not self._rebuild_lock.acquire(blocking=False):
            return
        try:
            # not current(), because this thread is slow, and searches would use the previous view during its refresh
            if self.view is not None:
                self._attempt(self.view, in_background=True)
        except GavelError as error:
            logger.error("%s: %s", self._on_failure, error)
        finally:
            self._rebuild_lock.release()


class Backoff:
    """A wait between failed attempts, which doubles with each failure and ends with a success.

    Args:
        name: name of the work, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._wait_s = self._not_before = 0.0

    @property
    def due(self) -> bool:
        """True unless the wait after a failed attempt still runs."""
        return time.monotonic() >= self._not_before

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Run the block as an attempt; if it fails, postpone the next one.

        Raises:
            IndexUnavailable: the block failed, for example without enough memory or disk space.
        """
        try:
            with enough_memory(self._name):
                yield
        except (IndexUnavailable, OSError, RuntimeError) as error:  # FAISS raises RuntimeError
            self.postpone()
            raise error if isinstance(error, IndexUnavailable) else IndexUnavailable(f"{self._name}: {reason_of(error)}") from error
        self._wait_s = 0.0

    def postpone(self) -> None:
        """Start the wait before the next attempt, twice as long as the last one."""
        self._wait_s = min(max(2 * self._wait_s, FIRST_WAIT_S), MAX_WAIT_S)
        self._not_before = time.monotonic() + self._wait_s


@contextmanager
def enough_memory(name: str) -> Iterator[None]:
    """Translate a MemoryError in the block into IndexUnavailable.

    Args:
        name: name of the index or work that needs the memory, for the message.
    """
    try:
        yield
    except MemoryError as error:
        raise IndexUnavailable(f"{name}: the memory does not suffice; free some, or give the process more") from error
