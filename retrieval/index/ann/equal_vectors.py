"""Equal vectors in an HNSW graph: only one of them is linked, the others hang on it (docs/adr/0017-equal-vectors.md).

Hundreds of linked copies of one vector would have only each other as neighbours, and searches for other items would end there. So a
vector that nearly equals a linked vector is stored without links: it hangs on that vector. When a search finds the linked vector,
the hanging ones are added to its result.
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

_faiss: Any = faiss  # untyped, because FAISS's stubs have only C++ signatures

# Largest squared distance of vectors that count as equal. A float32 inner product cannot distinguish vectors below 1e-7. Vectors
# that are further apart than 1e-5 link well
EQUAL_DISTANCE = 1e-5
EF_SEARCH = 32  # low, because an equal vector is the nearest of all and easily found
BLOCK_ROWS = 512  # vectors that are compared with all vectors of their batch at a time
PAIR_BYTES = 16  # bytes per pair in a file: two int64


class EqualVectors:
    """The pairs of a hanging and a linked vector in a graph. Searches may share it.

    Args:
        hanging: (C,) ids of the vectors without links; None for none.
        linked: (C,) id of the vector that each of them hangs on, ascending; None for none.
    """

    def __init__(self, hanging: VectorIds | None = None, linked: VectorIds | None = None) -> None:
        self._hanging = np.empty(0, dtype=np.int64) if hanging is None else hanging
        self._linked = np.empty(0, dtype=np.int64) if linked is None else linked

    def __len__(self) -> int:
        return len(self._hanging)

    def copy(self) -> Self:
        """Return a copy, to which vectors may be added without changing this object."""
        return type(self)(self._hanging, self._linked)

    def add_to(self, index: Any, vectors: Vector, take: Callable[[VectorIds], Vector]) -> None:
        """Append vectors to a graph; those that equal a linked vector, or an earlier one of `vectors`, get no links.

        Args:
            index: IndexHNSW of FAISS, in memory.
            vectors: (n, D) float32, C-contiguous.
            take: function that returns the (m, D) vectors of m ids in the graph.
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
        order = np.arange(first + count)  # FAISS has the linked vectors first; ids must follow the order of `vectors`
        order[first:][alone] = first + np.arange(np.count_nonzero(alone))
        order[first:][~alone] = first + np.arange(np.count_nonzero(alone), count)
        index.permute_entries(order)
        hanging = np.concatenate([self._hanging, first + np.flatnonzero(~alone)])
        linked = np.concatenate([self._linked, on[~alone]])
        ascending = np.argsort(linked, kind="stable")
        self._hanging, self._linked = hanging[ascending], linked[ascending]

    def leading_to(self, allowed: Mask) -> Mask:
        """Return a (N,) bool mask of the allowed ids, and of the ids on which an allowed vector hangs."""
        if not len(self):
            return allowed
        leading = allowed.copy()
        leading[self._linked[allowed[self._hanging]]] = True
        return leading

    def with_equals(self, vector_ids: VectorIds) -> VectorIds:
        """Return these ids, and the ids of all vectors that hang on them."""
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
    """Return, for each of (n, D) new vectors, the id of the vector that it hangs on; its own id if it gets links itself."""
    first, count = int(index.ntotal), len(vectors)
    own = np.arange(count)
    before = _first_equals(vectors)
    # a vector never hangs on a hanging one: if its first equal hangs on a third vector, it is linked itself
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
    """Return, for each row of (n, D) vectors, the first row that equals it, which may be itself."""
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    first = np.arange(len(vectors))
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        products = vectors[rows] @ vectors[: start + BLOCK_ROWS].T
        equal = lengths[rows, None] + lengths[None, : start + BLOCK_ROWS] - 2 * products <= EQUAL_DISTANCE
        first[rows] = np.minimum(equal.argmax(axis=1), first[rows])  # (rows,)
    return first
