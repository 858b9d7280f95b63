"""The vector index of an embedded index in step with its database: whoever searches catches up, a thread apart renews it."""

import threading
from pathlib import Path

from retrieval.config.index_spec import IndexSpec
from retrieval.index.embedded.background import BackgroundRebuild, Closed
from retrieval.index.embedded.database import ItemDatabase
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.embedded.vectors import VectorView


class RenewedGraph:
    """The VectorView of a database. Threads may share it.

    Args:
        lots: the database.
        spec: of the vector index.
        lock: readers search, the writer changes what they search.

    Raises:
        InvalidInput: the parameters of the spec do not suit the vectors.
    """

    def __init__(self, lots: ItemDatabase, spec: IndexSpec, lock: ReadWriteLock) -> None:
        spec.check_fit(lots.dimensions)
        self._lots, self._spec, self._lock = lots, spec, lock
        self._turn = threading.Lock()  # one thread at a time catches up
        self._renewing = threading.Lock()  # one thread at a time makes a new graph
        self._exchanging = self._closed = False
        self._renewal = BackgroundRebuild(f"merge {self._path.parent.name}")
        self.known: VectorView | None = None

    @property
    def renewing(self) -> bool:
        """Whether the graph takes new lots in, or is built again, while searches go on."""
        return self._renewing.locked()

    def current(self, least: int) -> VectorView:
        """The graph of the newest generation; of an older one, from `least` on, while another thread catches up."""
        known, generation = self.known, self._lots.generation()
        if known is not None and known.generation == generation:
            return known
        if not self._turn.acquire(blocking=known is None or known.generation < least or self._exchanging):
            assert known is not None
            return known
        try:
            current = self.known = self.known or VectorView.open(self._lots, self._path, self._spec)
            if current.generation < generation:
                with self._lots.snapshot() as snapshot:
                    current.catch_up(snapshot, self._lock)
        except MemoryError:
            self.known = None  # a lot may have got a vector and no columns
            raise
        finally:
            self._turn.release()
        if (current.overdue or current.worn) and not self._renewing.locked():
            name = self._path.parent.name
            self._renewal.start(lambda: self.renew(least, wait=False), f"{name} keeps its graph and its delta as they are")
        return current

    def renew_if_due(self, least: int) -> None:
        """Put a delta that has grown into the graph, unless that failed just now.

        Raises:
            IndexUnavailable: memory or disk do not suffice; the new lots are searched beside the others.
        """
        if self.current(least).overdue and self._renewal.due:
            self.renew(least, wait=True)

    def renew(self, least: int, *, wait: bool) -> None:
        """Put the delta into the graph, or build that again where much of it is dead; searches go on meanwhile.

        Args:
            least: generation that must be in it.
            wait: for another thread that does the same, to go on from there and save all; else there is nothing to do.

        Raises:
            IndexUnavailable: memory or disk do not suffice.
        """
        if not self._renewing.acquire(blocking=wait):
            return
        try:
            # apart, it must not catch up: searches that came meanwhile would go on with what was before
            current = self.current(least) if wait else self.known or self.current(least)
            with self._renewal.attempt():
                if current.worn:
                    current = VectorView.build(self._lots, self._spec, self._go_on)
                    self._exchange(current)
                else:
                    current.vectors.merge(self._lock, self._go_on)
                current.save(self._lots, self._path, self._lock, everything=wait)
        except Closed:
            pass
        finally:
            self._renewing.release()

    def _exchange(self, made: VectorView) -> None:
        """Let searches see this graph; those that come meanwhile wait, for it must not be older than the one before."""
        with self._lots.snapshot() as snapshot:  # most of what came meanwhile, while searches go on
            made.catch_up(snapshot, ReadWriteLock(), self._go_on)
        self._exchanging = True
        try:
            with self._turn, self._lots.snapshot() as snapshot:
                made.catch_up(snapshot, self._lock)
                self.known = made
        finally:
            self._exchanging = False

    def close(self) -> None:
        """Save what a next start would have to build again."""
        self._closed = True
        with self._renewing:  # whoever makes a new graph gives up
            if self.known is not None:
                self.known.save(self._lots, self._path, self._lock, everything=True)
        self.known = None

    def _go_on(self) -> None:
        if self._closed:
            raise Closed

    @property
    def _path(self) -> Path:
        return self._lots.path.with_name(f"{self._spec.index_type}.faiss")
