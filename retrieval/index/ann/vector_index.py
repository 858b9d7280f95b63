"""The vectors of an embedded index in FAISS: HNSW (Malkov and Yashunin, TPAMI 2020), or Flat; filtered before the search."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.files import replacing
from retrieval.index.ann.equal_vectors import EqualVectors
from retrieval.index.ann.inner_products import inner_products
from retrieval.index.ann.storage import Footer, MappedIndex, Positions, checked, positions_in, seal
from retrieval.index.ann.whole_vectors import Slots
from retrieval.index.port import OVERFETCH, Mask

_faiss: Any = faiss  # its type stubs leave out search parameters and know the C++ signature of selectors

GRAPH = IndexSpec("hnsw")
TIE_MARGIN = 1e-5  # far above the rounding error of a float32 dot product of unit vectors, far below any difference of note
EXACT_PER_EFFORT = 40  # vectors that are compared one by one in the time that a beam takes for each of its width
SHARE_OF_PASSES = 0.8  # of the lots that an unfiltered beam finds: they are answer enough


class HnswGraph:
    """Unit vectors in an HNSW graph; the vector at slot i was the i-th to be added.

    Args:
        dimensions: length of the vectors.
        spec: of the family hnsw.
    """

    outgrown = False  # of what is trained

    def __init__(self, dimensions: int, spec: IndexSpec = GRAPH) -> None:
        self._spec = spec
        self._index: Any = self._empty(dimensions)
        self._mapped: MappedIndex | None = None  # what the index is a view of
        self._equal = EqualVectors()

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def vectors(self) -> Vector:
        """(N, D) float32: the graph's own storage, not a copy; no longer valid after add()."""
        size, dimensions = len(self), int(self._index.d)
        if not size:
            return np.empty((0, dimensions), dtype=np.float32)
        storage: Any = faiss.downcast_index(self._index.storage)
        view: Vector = faiss.rev_swig_ptr(storage.get_xb(), size * dimensions).reshape(size, dimensions)
        return view

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return int(self._index.d)

    def copy(self) -> Self:
        """The same vectors in memory of their own, whatever this one is a view of."""
        made = type(self)(self.dimensions, self._spec)
        made._index = self._mapped.copy() if self._mapped else faiss.clone_index(self._index)
        made._equal = self._equal.copy()
        return made

    def take(self, slots: Slots) -> Vector:
        """(n, D) float32, a copy of the vectors at some slots."""
        return self.vectors[slots]

    def train(self, before_stride: Callable[[], None]) -> None:
        """Nothing: vectors are linked as they are added."""

    def add(self, vectors: Vector) -> None:
        """Append (N, D) unit vectors. In-memory indexes only: FAISS aborts the process if a memory-mapped index is modified."""
        assert self._mapped is None
        self._equal.add_to(self._index, np.ascontiguousarray(vectors, dtype=np.float32), self.take)

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> Slots:
        """The slots with the highest cosine among the allowed ones.

        Where comparing with each allowed vector is quicker, that is done, and it is exact. Else a beam without the filter shows
        how many of the lots near to the query pass. If most do, they are the answer; if some do, a filtered beam is wider by
        as much as others lie between them; so wide that comparing is quicker after all where hardly any do, for the filter
        then keeps out what the query is about, and the graph leads there.

        Args:
            query: (D,) float32 of unit length.
            k: how many are wanted, > 0.
            allowed: (N,) bool.
            exact_below: up to so many allowed slots are always compared one by one; 0 never compares where the graph brings k.

        Returns:
            At least min(k, allowed) slots, in no order; more than k so that ties at the cut can be broken.
        """
        count, size = int(np.count_nonzero(allowed)), len(self)
        wanted = min(k + OVERFETCH, count)
        effort, share = max(self._spec.beam(size), wanted), count / max(size, 1)
        if count <= exact_below or (exact_below and exact_is_cheaper(count, effort, share)):
            return self.exact(query, k, allowed)
        if count == size:
            found = self._beam(query, wanted, effort, None)  # fewer than are there where many are equal: islands of a graph
            return found if len(found) >= min(k, count) else self.exact(query, k, allowed)
        near = self._beam(query, effort, effort, None)
        passing, share = near[allowed[near]], share_near(near, allowed, share)
        if share >= SHARE_OF_PASSES and len(passing) >= wanted:
            return passing
        if exact_below and exact_is_cheaper(count, effort, share):
            return self.exact(query, k, allowed)
        found = self._beam(query, wanted, math.ceil(effort / share), allowed)
        return found if len(found) >= min(k, count) else self.exact(query, k, allowed)

    def exact(self, query: Vector, k: int, allowed: Mask) -> Slots:
        """The k allowed slots with the highest cosine and all that tie with the last of them, in no order."""
        slots = np.flatnonzero(allowed)
        if len(slots) <= k:
            return slots
        return nearest_ids(slots, self._scores(query, slots), k)

    def _scores(self, query: Vector, slots: Slots) -> NDArray[np.float32]:
        vectors = self.vectors
        if 2 * len(slots) > len(vectors):
            return inner_products(vectors, query)[slots]
        return inner_products(vectors, query, slots)

    def _beam(self, query: Vector, k: int, ef_search: int, allowed: Mask | None) -> Slots:
        bits = None if allowed is None else np.packbits(self._equal.leading_to(allowed), bitorder="little")
        selector = None if bits is None else _faiss.IDSelectorBitmap(bits)
        parameters = _faiss.SearchParametersHNSW(efSearch=min(ef_search, len(self)), sel=selector)
        _, labels = self._index.search(query[None], k, params=parameters)  # (1, k)
        found = self._equal.with_equals(labels[0][labels[0] >= 0])  # FAISS fills up with -1
        return found if allowed is None else found[allowed[found]]

    def write(self, path: Path) -> None:
        """Write the bare index in FAISS's own format, which any program with faiss reads."""
        faiss.write_index(self._index, str(path))

    def save(self, path: Path, positions: Positions, database_id: str) -> Self:
        """Write all to a file in one step: FAISS's own format, pairs of equal slots, positions, a footer with a checksum.

        Args:
            path: replaced if it is there.
            positions: (N,) where each slot's lot stands in the database.
            database_id: the database that the positions are of.

        Returns:
            The same vectors, mapped from the file.
        """
        with replacing(path) as partial:
            self.write(partial)
            self._equal.append_to(partial)
            footer = seal(partial, positions, database_id, {"equal": len(self._equal)})
            return self._in_file(partial, footer, self.dimensions, self._spec)

    @classmethod
    def load(cls, path: Path, dimensions: int, database_id: str, spec: IndexSpec = GRAPH) -> tuple[Self, Positions]:
        """Map what save() wrote into memory, to be searched and not changed: processes share it, and a start waits for nothing.

        Returns:
            The index and its (N,) positions.

        Raises:
            OSError: no such file.
            ValueError: damaged, or of another database.
        """
        footer = checked(path, database_id)
        loaded = cls._in_file(path, footer, dimensions, spec)
        return loaded, positions_in(path, footer)

    @classmethod
    def _in_file(cls, path: Path, footer: Footer, dimensions: int, spec: IndexSpec) -> Self:
        made, mapped = cls(dimensions, spec), MappedIndex(path)
        if type(mapped.index) is not type(made._index):
            raise ValueError("it is of another kind of index")
        made._index, made._mapped = mapped.index, mapped
        if (len(made), made._index.d) != (footer.slots, dimensions):
            raise ValueError(f"it holds {len(made)} vectors of {made._index.d} dimensions, not {footer.slots} of {dimensions}")
        made._equal = EqualVectors.read_from(path, footer.payload - 8 * footer.slots, footer.told.get("equal", 0))
        return made

    def _empty(self, dimensions: int) -> Any:
        index: Any = faiss.IndexHNSWFlat(dimensions, self._spec.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self._spec.ef_construction
        return index


class FlatVectors(HnswGraph):
    """Unit vectors side by side, without a graph: nothing to build, every search compares with every allowed one.

    Args:
        dimensions: length of the vectors.
        spec: of the family flat.
    """

    @property
    def vectors(self) -> Vector:
        """(N, D) float32: the index's own storage, not a copy; no longer valid after add()."""
        size, dimensions = len(self), int(self._index.d)
        if not size:
            return np.empty((0, dimensions), dtype=np.float32)
        view: Vector = faiss.rev_swig_ptr(self._index.get_xb(), size * dimensions).reshape(size, dimensions)
        return view

    def add(self, vectors: Vector) -> None:
        """Append (N, D) unit vectors. In-memory indexes only, as HnswGraph.add."""
        assert self._mapped is None
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> Slots:
        """The slots with the highest cosine among the allowed ones, as exact() finds them; exact_below is not looked at."""
        return self.exact(query, k, allowed)

    def _empty(self, dimensions: int) -> Any:
        return faiss.IndexFlatIP(dimensions)


def share_near(found: Slots, allowed: Mask, share: float) -> float:
    """The share that passes a filter of the lots near to a query, guessed from the nearest ones and a little from all.

    Args:
        found: (n,) the lots that a search without the filter finds.
        allowed: (N,) bool.
        share: of all lots, in (0, 1].

    Returns:
        In (0, 1].
    """
    return float((np.count_nonzero(allowed[found]) + share) / (len(found) + 1))


def exact_is_cheaper(count: int, effort: float, share: float) -> bool:
    """Whether comparing with so many vectors takes less than a beam, which is wider by what does not pass."""
    return count * share <= EXACT_PER_EFFORT * effort


def nearest_ids(slots: Slots, scores: NDArray[np.float32], k: int) -> Slots:
    """Those of (N,) slots with the k highest of (N,) scores, and all that tie with the last of them; in no order."""
    if len(slots) <= k:
        return slots
    best: Slots = slots[scores >= np.partition(scores, -k)[-k] - TIE_MARGIN]
    return best
