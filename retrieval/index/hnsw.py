"""The vectors of an embedded index in FAISS: HNSW (Malkov and Yashunin, TPAMI 2020), or Flat; filtered before the search."""

import json
import math
import os
import threading
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.index.base import OVERFETCH, Vector
from retrieval.index.inner_products import inner_products
from retrieval.index.lot_columns import Mask
from retrieval.settings import hyperparameters

Slots = NDArray[np.int64]
_faiss: Any = faiss  # its type stubs leave out search parameters and know the C++ signature of selectors

TIE_MARGIN = 1e-5  # far above the rounding error of a float32 dot product of unit vectors, far below any difference of note
EXACT_PER_EFFORT = 40  # vectors that are compared one by one in the time that a beam takes for each of its width
SHARE_OF_PASSES = 0.8  # of the lots that an unfiltered beam finds: they are answer enough
FOOTER_LENGTH_BYTES = 8
CHECKED_BYTES = 1 << 20


class HnswGraph:
    """Unit vectors in an HNSW graph; the vector at slot i was the i-th to be added.

    Args:
        dimensions: length of the vectors.
    """

    def __init__(self, dimensions: int) -> None:
        self._index: Any = faiss.IndexHNSWFlat(dimensions, hyperparameters().hnsw_m, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = hyperparameters().hnsw_ef_construction
        self._mapped: BinaryIO | None = None  # the file that the index is a view of; open, for its name may go to a newer one

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
        made = type(self)(self.dimensions)
        if self._mapped is None:
            made._index = faiss.clone_index(self._index)
        else:
            self._mapped.seek(0)
            made._index = faiss.read_index(_faiss.PyCallbackIOReader(self._mapped.read, CHECKED_BYTES))
        return made

    def add(self, vectors: Vector) -> None:
        """Add (N, D) unit vectors at the next slots; to one in memory alone, for FAISS ends the process that changes a file's."""
        assert self._mapped is None
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

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
        effort, share = max(hyperparameters().hnsw_ef_search, wanted), count / max(size, 1)
        if count <= exact_below or (exact_below and exact_is_cheaper(count, effort, share)):
            return self.exact(query, k, allowed)
        if count == size:
            return self._beam(query, wanted, effort, None)
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
        scores = self._scores(query, slots)
        cut = np.partition(scores, -k)[-k] - TIE_MARGIN
        best: Slots = slots[scores >= cut]
        return best

    def _scores(self, query: Vector, slots: Slots) -> NDArray[np.float32]:
        vectors = self.vectors
        if 2 * len(slots) > len(vectors):
            return inner_products(vectors, query)[slots]
        return inner_products(vectors, query, slots)

    def _beam(self, query: Vector, k: int, ef_search: int, allowed: Mask | None) -> Slots:
        selector = None if allowed is None else _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        parameters = _faiss.SearchParametersHNSW(efSearch=min(ef_search, len(self)), sel=selector)
        _, labels = self._index.search(query[None], k, params=parameters)  # (1, k)
        found: Slots = labels[0][labels[0] >= 0]  # FAISS fills up with -1
        return found

    def write(self, path: Path) -> None:
        """Write the bare index in FAISS's own format, which any program with faiss reads."""
        faiss.write_index(self._index, str(path))

    def save(self, path: Path, positions: NDArray[np.int64], database_id: str) -> None:
        """Write graph and positions to a file in one step: FAISS's own format, then the positions, then a footer with a checksum.

        Args:
            path: replaced if it is there.
            positions: (N,) where each slot's lot stands in the database.
            database_id: the database that the positions are of.
        """
        partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
        try:
            self.write(partial)
            with partial.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(positions.astype("<i8").tobytes())
                file.flush()
                payload = file.tell()
                footer = {"database_id": database_id, "slots": len(self), "payload": payload, "crc32": _checksum(partial, payload)}
                encoded = json.dumps(footer).encode()
                file.write(encoded + len(encoded).to_bytes(FOOTER_LENGTH_BYTES, "little"))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, dimensions: int, database_id: str) -> tuple["HnswGraph", NDArray[np.int64]]:
        """Map what save() wrote into memory, to be searched and not changed: processes share it, and a start waits for nothing.

        Returns:
            The graph and its (N,) positions.

        Raises:
            OSError: no such file.
            ValueError: damaged, or of another database.
        """
        footer = _footer(path)
        slots, payload = int(footer["slots"]), int(footer["payload"])
        if footer["database_id"] != database_id:
            raise ValueError("it is of another database")
        if _checksum(path, payload) != footer["crc32"]:
            raise ValueError("its checksum does not hold")
        graph, loaded = cls(dimensions), faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        if type(loaded) is not type(graph._index):
            raise ValueError("it is of another kind of index")
        graph._index, graph._mapped = loaded, path.open("rb")
        graph._mapped.seek(payload - 8 * slots)
        positions = np.frombuffer(graph._mapped.read(8 * slots), dtype="<i8").astype(np.int64)
        if len(graph) != slots or graph._index.d != dimensions or len(positions) != slots:
            raise ValueError(f"it holds {len(graph)} vectors of {graph._index.d} dimensions, not {slots} of {dimensions}")
        return graph, positions


class FlatVectors(HnswGraph):
    """Unit vectors side by side, without a graph: nothing to build, every search compares with every allowed one.

    Args:
        dimensions: length of the vectors.
    """

    def __init__(self, dimensions: int) -> None:
        self._index: Any = faiss.IndexFlatIP(dimensions)
        self._mapped = None

    @property
    def vectors(self) -> Vector:
        """(N, D) float32: the index's own storage, not a copy; no longer valid after add()."""
        size, dimensions = len(self), int(self._index.d)
        if not size:
            return np.empty((0, dimensions), dtype=np.float32)
        view: Vector = faiss.rev_swig_ptr(self._index.get_xb(), size * dimensions).reshape(size, dimensions)
        return view

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> Slots:
        """The slots with the highest cosine among the allowed ones, as exact() finds them; exact_below is not looked at."""
        return self.exact(query, k, allowed)


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


def _footer(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < FOOTER_LENGTH_BYTES:
            raise ValueError("it is too short")
        file.seek(size - FOOTER_LENGTH_BYTES)
        length = int.from_bytes(file.read(FOOTER_LENGTH_BYTES), "little")
        if length > size - FOOTER_LENGTH_BYTES:
            raise ValueError("it has no footer")
        file.seek(size - FOOTER_LENGTH_BYTES - length)
        footer = json.loads(file.read(length))
    if not isinstance(footer, dict) or not {"database_id", "slots", "payload", "crc32"} <= footer.keys():
        raise ValueError("it has no footer")
    return footer


def _checksum(path: Path, length: int) -> int:
    """CRC-32 of the first bytes of a file."""
    checksum = 0
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, CHECKED_BYTES))):
            checksum = zlib.crc32(block, checksum)
            length -= len(block)
    return checksum
