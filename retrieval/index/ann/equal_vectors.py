"""Equal vectors in an HNSW graph: one of them is linked, the others hang on it (docs/adr/0017-equal-vectors.md).

Five hundred linked copies of one vector would have only each other as neighbours: an island where searches for other items end,
too. So a vector that nearly equals one in the graph is stored without links. It joins an answer together with the vector that it
hangs on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.index.ann.full_vectors import VectorIds
from retrieval.index.port import Mask

_faiss: Any = faiss  # its type stubs know the C++ signatures alone

# Squared distance up to which vectors count as equal. A float32 inner product cannot tell them apart below 1e-7; vectors further
# apart than this link well by themselves
EQUAL_DISTANCE = 1e-5
EF_SEARCH = 32  # for an equal vector, the nearest of all, so little effort finds it
BLOCK_ROWS = 512  # compared with their batch at a time
PAIR_BYTES = 16


class EqualVectors:
    """The vector ids of a graph that hang on others. Searches may share it.

    Args:
        hanging: (C,) the ids without links.
        linked: (C,) ascending, the id that each of them hangs on.
    """

    def __init__(self, hanging: VectorIds | None = None, linked: VectorIds | None = None) -> None:
        self._hanging = np.empty(0, dtype=np.int64) if hanging is None else hanging
        self._linked = np.empty(0, dtype=np.int64) if linked is None else linked

    def __len__(self) -> int:
        return len(self._hanging)

    def copy(self) -> Self:
        """Return the same ids, which may be added to."""
        return type(self)(self._hanging, self._linked)

    def add_to(self, index: Any, vectors: Vector, take: Callable[[VectorIds], Vector]) -> None:
        """Append vectors to a graph, and link only those that equal no other.

        Args:
            index: an IndexHNSW of FAISS in memory.
            vectors: (n, D) float32, C-contiguous.
            take: returns the (m, D) vectors of ids that the index has before.
        """
        first, count = int(index.ntotal), len(vectors)
        on = _find_linked(index, vectors, take)
        alone = on == first + np.arange(count)
        index.add(vectors[alone])
        if alone.all():
            return
        _faiss.downcast_index(index.storage).add(vectors[~alone])
        index.hnsw.prepare_level_tab(int(np.count_nonzero(~alone)), False)
        index.ntotal = first + count
        order = np.arange(first + count)  # ids follow the order of the vectors, FAISS has the linked ones first
        order[first:][alone] = first + np.arange(np.count_nonzero(alone))
        order[first:][~alone] = first + np.arange(np.count_nonzero(alone), count)
        index.permute_entries(order)
        hanging = np.concatenate([self._hanging, first + np.flatnonzero(~alone)])
        linked = np.concatenate([self._linked, on[~alone]])
        ascending = np.argsort(linked, kind="stable")
        self._hanging, self._linked = hanging[ascending], linked[ascending]

    def leading_to(self, allowed: Mask) -> Mask:
        """Return (N,) bool: the allowed ids, and those on which an allowed one hangs."""
        if not len(self):
            return allowed
        leading = allowed.copy()
        leading[self._linked[allowed[self._hanging]]] = True
        return leading

    def with_equals(self, vector_ids: VectorIds) -> VectorIds:
        """Return these ids and all that hang on them."""
        if not len(self):
            return vector_ids
        starts, ends = np.searchsorted(self._linked, vector_ids, "left"), np.searchsorted(self._linked, vector_ids, "right")
        return np.concatenate([vector_ids, *(self._hanging[a:b] for a, b in zip(starts, ends, strict=True) if a < b)])

    def append_to(self, path: Path) -> None:
        """Append the pairs to a file."""
        with path.open("ab") as file:
            file.write(np.stack([self._hanging, self._linked]).astype("<i8").tobytes())

    @classmethod
    def read_from(cls, path: Path, end: int, count: int) -> Self:
        """Read the `count` pairs that append_to() wrote before byte `end` of a file."""
        with path.open("rb") as file:
            file.seek(end - PAIR_BYTES * count)
            hanging, linked = np.frombuffer(file.read(PAIR_BYTES * count), dtype="<i8").astype(np.int64).reshape(2, count)
        return cls(hanging, linked)


def _find_linked(index: Any, vectors: Vector, take: Callable[[VectorIds], Vector]) -> VectorIds:
    """Return (n,) for each of (n, D) new vectors the id of an equal one that has or gets links; its own id if none is equal."""
    first, count = int(index.ntotal), len(vectors)
    own = np.arange(count)
    before = _first_equals(vectors)
    # a vector equal to one that hangs on a third is linked itself, because hanging has one level
    alone = (before == own) | (before[before] != before)
    before[alone] = own[alone]
    on = first + own
    if first:
        parameters = _faiss.SearchParametersHNSW(efSearch=EF_SEARCH)
        near: NDArray[np.int64] = index.search(vectors[alone], 1, params=parameters)[1][:, 0]  # (m,)
        has_near = near >= 0
        equal = ((vectors[alone][has_near] - take(near[has_near])) ** 2).sum(axis=1) <= EQUAL_DISTANCE
        on[own[alone][has_near][equal]] = near[has_near][equal]
    linked: VectorIds = on[before]
    return linked


def _first_equals(vectors: Vector) -> NDArray[np.int64]:
    """Return (n,) the first row of (n, D) that equals each row; the row itself if no earlier one does."""
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    first = np.arange(len(vectors))
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        products = vectors[rows] @ vectors[: start + BLOCK_ROWS].T
        equal = lengths[rows, None] + lengths[None, : start + BLOCK_ROWS] - 2 * products <= EQUAL_DISTANCE
        first[rows] = np.minimum(equal.argmax(axis=1), first[rows])  # (rows,)
    return first
