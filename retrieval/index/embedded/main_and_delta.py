"""The vectors of an embedded index: an immutable main index, and a small exact one after it for what came later.

A lot is found as soon as its vector is in the delta, which costs a copy of it; a graph takes a hundred times as long. So the main
index is extended apart, on a copy, which takes the place of the old one in one step, while searches go on in both parts. Slots
go on from the main index into the delta: the slot of a vector stays what it was when the two are merged.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.index.ann.vector_index import FlatVectors
from retrieval.index.ann.whole_vectors import Slots
from retrieval.index.embedded.main_index import MainIndex
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.port import Mask

ROWS_A_STRIDE = 4_096  # added to an index that nobody searches; FAISS pays for every vector of a graph at each stride


class Delta(FlatVectors):
    """A few vectors, compared by one thread: of two, one would wait for the core on which a graph is being made."""

    def _scores(self, query: Vector, slots: Slots) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = np.einsum("nd,d->n", self.vectors, query)[slots]  # (N, D) x (D,) -> (N,)
        return scores


class MainAndDelta:
    """Unit vectors by slot. Whoever shares it holds a lock: for reading to search, for writing to add().

    Args:
        main: holds the first slots; from now on this object's alone.
    """

    def __init__(self, main: MainIndex) -> None:
        self.main = main
        self.delta = Delta(main.dimensions)

    def __len__(self) -> int:
        return len(self.main) + len(self.delta)

    def add(self, vectors: Vector) -> None:
        """Add (N, D) unit vectors at the next slots, in the delta."""
        self.delta.add(vectors)

    def take(self, slots: Slots) -> Vector:
        """(N, D) float32, a copy of the vectors at some slots."""
        in_main = slots < len(self.main)
        taken = np.empty((len(slots), self.main.dimensions), dtype=np.float32)
        taken[in_main] = self.main.take(slots[in_main])
        taken[~in_main] = self.delta.vectors[slots[~in_main] - len(self.main)]
        return taken

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> Slots:
        """The slots with the highest cosine among the allowed ones, k of each part and more where they tie (HnswGraph.nearest)."""
        first = len(self.main)
        return self._joined(self.main.nearest(query, k, allowed[:first], exact_below), self.delta.exact(query, k, allowed[first:]))

    def exact(self, query: Vector, k: int, allowed: Mask) -> Slots:
        """The same, compared with every allowed vector."""
        first = len(self.main)
        return self._joined(self.main.exact(query, k, allowed[:first]), self.delta.exact(query, k, allowed[first:]))

    def absorb(self) -> None:
        """Move the delta into the main index itself, which is in memory, where nobody searches."""
        self.main.add(self.delta.vectors)
        self.delta = Delta(self.main.dimensions)

    def merge(self, lock: ReadWriteLock, before_stride: Callable[[], None] = lambda: None) -> None:
        """Extend a copy of the main index by what the delta holds now, and put it in the old one's place.

        One at a time. Searches go on meanwhile, and so may add().

        Args:
            lock: that searches hold; taken for the moment of the exchange.
            before_stride: may give up by raising; nothing has happened then.
        """
        with lock.reading():
            taken = self.delta.vectors.copy()  # (N, D)
        if not len(taken):
            return
        extended = self.main.copy()
        for start in range(0, len(taken), ROWS_A_STRIDE):
            before_stride()
            extended.add(taken[start : start + ROWS_A_STRIDE])
        with lock.writing():
            rest = Delta(self.main.dimensions)
            rest.add(self.delta.vectors[len(taken) :])
            self.main, self.delta = extended, rest

    def put(self, main: MainIndex, instead_of: MainIndex) -> None:
        """Search in another main index of the same vectors, unless the one that it is for has gone; under the lock for writing."""
        if self.main is instead_of:
            self.main = main

    def _joined(self, in_main: Slots, in_delta: Slots) -> Slots:
        return np.concatenate([in_main, in_delta + len(self.main)])
