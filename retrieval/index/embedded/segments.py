"""The vectors of an embedded index: an immutable main segment, and a small exact buffer for vectors that came later.

A vector in the buffer is found at once, and costs a copy; adding it to a graph costs a hundred times as much. So a background merge
extends a copy of the main segment, which replaces the old one in one step while searches go on in both. Vector ids count on from
the main segment into the buffer, so a merge does not change them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.config.settings import scoring_parameters
from retrieval.contracts.documents import Vector
from retrieval.index.ann.full_vectors import VectorIds
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.port import Mask

DEFAULT_INDEX = "hnsw"
MERGE_ROWS = 4_096  # added at a time to an index that nobody searches; FAISS pays for every vector of a graph at each step


def embedded_spec(text: str = DEFAULT_INDEX) -> IndexSpec:
    """Read the spec of an index in this process; the scoring parameters fill what a text leaves open of a graph.

    Raises:
        InvalidInput: see IndexSpec.parse.
    """
    numbers = scoring_parameters()
    graph = {"m": numbers.hnsw_m, "ef_construction": numbers.hnsw_ef_construction, "ef_search": numbers.hnsw_ef_search}
    return IndexSpec.parse(text, graph)


class VectorBuffer(AnnIndex):
    """Exact search over recently added vectors. Single-threaded, so that it does not compete with the background build."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions, IndexSpec("flat"))

    def _scores(self, query: Vector, vector_ids: VectorIds) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = np.einsum("nd,d->n", self.vectors, query)[vector_ids]  # (N, D) x (D,) -> (N,)
        return scores


class SegmentedVectors:
    """Unit vectors by vector id. Callers hold a lock: for reading to search, for writing to add().

    Args:
        main: holds the first ids; from now on owned by this object.
    """

    def __init__(self, main: AnnIndex) -> None:
        self.main = main
        self.buffer = VectorBuffer(main.dimensions)

    def __len__(self) -> int:
        return len(self.main) + len(self.buffer)

    def add(self, vectors: Vector) -> None:
        """Append (N, D) unit vectors to the buffer."""
        self.buffer.add(vectors)

    def take(self, vector_ids: VectorIds) -> Vector:
        """Return (N, D) float32, a copy of the vectors with these ids."""
        in_main = vector_ids < len(self.main)
        vectors = np.empty((len(vector_ids), self.main.dimensions), dtype=np.float32)
        vectors[in_main] = self.main.take(vector_ids[in_main])
        vectors[~in_main] = self.buffer.vectors[vector_ids[~in_main] - len(self.main)]
        return vectors

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> VectorIds:
        """Find the allowed ids with the highest cosine, k of each segment and more at ties (AnnIndex.nearest)."""
        first = len(self.main)
        in_main = self.main.nearest(query, k, allowed[:first], exact_below)
        return np.concatenate([in_main, self.buffer.exact(query, k, allowed[first:]) + first])

    def exact(self, query: Vector, k: int, allowed: Mask) -> VectorIds:
        """Find the same by comparing with every allowed vector."""
        first = len(self.main)
        return np.concatenate([self.main.exact(query, k, allowed[:first]), self.buffer.exact(query, k, allowed[first:]) + first])

    def merge_in_place(self) -> None:
        """Move the buffer into the main segment itself, which is in memory and not searched yet."""
        self.main.add(self.buffer.vectors)
        self.buffer = VectorBuffer(self.main.dimensions)

    def merge(self, lock: ReadWriteLock, before_step: Callable[[], None] = lambda: None) -> None:
        """Extend a copy of the main segment by the buffer's present vectors, and replace the main segment with it.

        Call it one at a time. Searches and add() go on meanwhile.

        Args:
            lock: that searches hold; taken for the moment of the replacement.
            before_step: may give up by raising; nothing has changed then.
        """
        with lock.reading():
            buffered = self.buffer.vectors.copy()  # (N, D)
        if not len(buffered):
            return
        extended = self.main.copy()
        for start in range(0, len(buffered), MERGE_ROWS):
            before_step()
            extended.add(buffered[start : start + MERGE_ROWS])
        with lock.writing():
            rest = VectorBuffer(self.main.dimensions)
            rest.add(self.buffer.vectors[len(buffered) :])
            self.main, self.buffer = extended, rest

    def replace_main(self, main: AnnIndex, expected: AnnIndex) -> None:
        """Search in another main segment with the same vectors, if `expected` still is the main one; needs the lock for writing."""
        if self.main is expected:
            self.main = main
