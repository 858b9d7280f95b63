"""The vectors of an embedded index: an immutable main segment, and a small exact buffer for vectors that came later.

Adding a vector to the buffer costs a copy; adding it to a graph would cost a hundred times as much. So a background merge adds the
buffer to a copy of the main segment, which then replaces the old one in one step. Searches go on meanwhile. Vector ids in the
buffer continue those of the main segment, so a merge does not change them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import AUTO_INDEX, IndexSpec, parse_bytes
from retrieval.config.settings import scoring_parameters
from retrieval.contracts.documents import Vector
from retrieval.index.ann.automatic import AutomaticIndex, machine_memory
from retrieval.index.ann.full_vectors import VectorIds
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.port import Mask

DEFAULT_INDEX = "hnsw"
MEMORY_SHARE = 0.5  # share of the machine's memory for the vector index; towers, words and the system need the rest
MERGE_ROWS = 4_096  # vectors added per step; not fewer, because each step of FAISS costs time for all vectors of a graph


def embedded_spec(text: str = DEFAULT_INDEX) -> IndexSpec:
    """Read the spec of an embedded index; graph parameters that the text does not name are this process's scoring parameters.

    Raises:
        InvalidInput: see IndexSpec.parse.
    """
    return IndexSpec.parse(text, _graph_parameters())


def embedded_index(text: str, memory: str = "") -> IndexSpec | AutomaticIndex:
    """Read the setting of an embedded index.

    Args:
        text: "auto", or a spec as embedded_spec() reads it.
        memory: memory for the vector index, such as 8GB; empty for half of the machine's. Only used with "auto".

    Raises:
        InvalidInput: a text cannot be read.
    """
    if text != AUTO_INDEX:
        return embedded_spec(text)
    return AutomaticIndex(parse_bytes(memory) if memory else int(MEMORY_SHARE * machine_memory()), _graph_parameters())


def _graph_parameters() -> dict[str, int]:
    numbers = scoring_parameters()
    return {"m": numbers.hnsw_m, "ef_construction": numbers.hnsw_ef_construction, "ef_search": numbers.hnsw_ef_search}


class VectorBuffer(AnnIndex):
    """Exact search over recently added vectors. Single-threaded, so that it does not compete with the background build."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions, IndexSpec("flat"))

    def _scores(self, query: Vector, vector_ids: VectorIds) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = np.einsum("nd,d->n", self.vectors, query)[vector_ids]  # (N, D) x (D,) -> (N,)
        return scores


class SegmentedVectors:
    """The unit vectors of an index by vector id. Callers must hold a lock: for reading to search, for writing to add().

    Args:
        main: index with the first vectors, which from now on only this object changes.
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
        """Return a copy of the vectors with these N ids, (N, D) float32."""
        in_main = vector_ids < len(self.main)
        vectors = np.empty((len(vector_ids), self.main.dimensions), dtype=np.float32)
        vectors[in_main] = self.main.take(vector_ids[in_main])
        vectors[~in_main] = self.buffer.vectors[vector_ids[~in_main] - len(self.main)]
        return vectors

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> VectorIds:
        """Return the allowed ids with the highest cosine: k or more of each segment, see AnnIndex.nearest()."""
        first = len(self.main)
        in_main = self.main.nearest(query, k, allowed[:first], exact_below)
        return np.concatenate([in_main, self.buffer.exact(query, k, allowed[first:]) + first])

    def exact(self, query: Vector, k: int, allowed: Mask) -> VectorIds:
        """Return the allowed ids with the highest cosine, like nearest(), but by comparing with every allowed vector."""
        first = len(self.main)
        return np.concatenate([self.main.exact(query, k, allowed[:first]), self.buffer.exact(query, k, allowed[first:]) + first])

    def merge_in_place(self) -> None:
        """Move the buffer into the main segment itself, which must be in memory and not in use by searches."""
        self.main.add(self.buffer.vectors)
        self.buffer = VectorBuffer(self.main.dimensions)

    def merge(self, lock: ReadWriteLock, before_step: Callable[[], None] = lambda: None) -> None:
        """Add the present vectors of the buffer to a copy of the main segment, and replace the main segment with the copy.

        Only one thread at a time may merge. Searches and add() go on meanwhile.

        Args:
            lock: lock that searches hold; held for writing only during the replacement.
            before_step: function that is called before each step. If it raises, nothing is changed.
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
        """Replace the main segment by another with the same vectors, if it is still `expected`. Hold the lock for writing."""
        if self.main is expected:
            self.main = main
