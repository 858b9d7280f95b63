"""Equal vectors of an HNSW graph: one of them is linked, the others hang on it (docs/adr/0017-equal-vectors.md).

Linked like others, five hundred copies of one vector have nothing but each other for neighbours: they are an island on which
searches for other items end, too. So a vector that is as good as equal to one in the graph is stored with no link, and comes
into an answer together with the one that it hangs on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.index.ann.whole_vectors import Slots
from retrieval.index.port import Mask

_faiss: Any = faiss  # its type stubs know the C++ signatures alone

# Squared distance up to which vectors count as equal. A float32 inner product cannot tell them apart below 1e-7; vectors further
# apart than this link well by themselves
EQUAL_DISTANCE = 1e-5
EF_SEARCH = 32  # of the search for an equal vector: it is the nearest of all, so a narrow beam meets it
ROWS_A_BLOCK = 512  # compared with their batch at a time
PAIR_BYTES = 16


class EqualVectors:
    """The slots of a graph that hang on others. Searches may share it.

    Args:
        hanging: (C,) the slots without links.
        linked: (C,) ascending, the slot that each of them hangs on.
    """

    def __init__(self, hanging: Slots | None = None, linked: Slots | None = None) -> None:
        self._hanging = np.empty(0, dtype=np.int64) if hanging is None else hanging
        self._linked = np.empty(0, dtype=np.int64) if linked is None else linked

    def __len__(self) -> int:
        return len(self._hanging)

    def copy(self) -> Self:
        """The same slots, to be added to."""
        return type(self)(self._hanging, self._linked)

    def add_to(self, index: Any, vectors: Vector, take: Callable[[Slots], Vector]) -> None:
        """Add vectors to a graph at its next slots, and link only those that equal no other.

        Args:
            index: an IndexHNSW of FAISS in memory.
            vectors: (n, D) float32, C-contiguous.
            take: returns (m, D) the vectors at some slots of the index as it is before.
        """
        first, count = int(index.ntotal), len(vectors)
        on = _linked_slots(index, vectors, take)
        alone = on == first + np.arange(count)
        index.add(vectors[alone])
        if alone.all():
            return
        _faiss.downcast_index(index.storage).add(vectors[~alone])
        index.hnsw.prepare_level_tab(int(np.count_nonzero(~alone)), False)
        index.ntotal = first + count
        order = np.arange(first + count)  # slots follow the order of the vectors, FAISS has the linked ones first
        order[first:][alone] = first + np.arange(np.count_nonzero(alone))
        order[first:][~alone] = first + np.arange(np.count_nonzero(alone), count)
        index.permute_entries(order)
        hanging = np.concatenate([self._hanging, first + np.flatnonzero(~alone)])
        linked = np.concatenate([self._linked, on[~alone]])
        ascending = np.argsort(linked, kind="stable")
        self._hanging, self._linked = hanging[ascending], linked[ascending]

    def leading_to(self, allowed: Mask) -> Mask:
        """(N,) bool: the allowed slots, and those on which an allowed one hangs."""
        if not len(self):
            return allowed
        leading = allowed.copy()
        leading[self._linked[allowed[self._hanging]]] = True
        return leading

    def with_equals(self, found: Slots) -> Slots:
        """The slots that a graph found, and all that hang on them."""
        if not len(self):
            return found
        starts, ends = np.searchsorted(self._linked, found, "left"), np.searchsorted(self._linked, found, "right")
        return np.concatenate([found, *(self._hanging[a:b] for a, b in zip(starts, ends, strict=True) if a < b)])

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


def _linked_slots(index: Any, vectors: Vector, take: Callable[[Slots], Vector]) -> Slots:
    """(n,) for each of (n, D) new vectors the slot of an equal one that has links, or will have; its own where there is none."""
    first, count = int(index.ntotal), len(vectors)
    own = np.arange(count)
    before = _first_equals(vectors)
    alone = (before == own) | (before[before] != before)  # equal to one that hangs on a third: linked itself, not by steps
    before[alone] = own[alone]
    on = first + own
    if first:
        parameters = _faiss.SearchParametersHNSW(efSearch=EF_SEARCH)
        near: NDArray[np.int64] = index.search(vectors[alone], 1, params=parameters)[1][:, 0]  # (m,)
        met = near >= 0
        equal = ((vectors[alone][met] - take(near[met])) ** 2).sum(axis=1) <= EQUAL_DISTANCE
        on[own[alone][met][equal]] = near[met][equal]
    slots: Slots = on[before]
    return slots


def _first_equals(vectors: Vector) -> NDArray[np.int64]:
    """(n,) the first row of (n, D) that equals each row; itself where none before does."""
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    first = np.arange(len(vectors))
    for start in range(0, len(vectors), ROWS_A_BLOCK):
        rows = slice(start, start + ROWS_A_BLOCK)
        products = vectors[rows] @ vectors[: start + ROWS_A_BLOCK].T
        equal = lengths[rows, None] + lengths[None, : start + ROWS_A_BLOCK] - 2 * products <= EQUAL_DISTANCE
        first[rows] = np.minimum(equal.argmax(axis=1), first[rows])  # (rows,)
    return first
