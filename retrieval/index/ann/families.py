"""An index of any family, opened from the disk and searched in FAISS; answers have exact cosines whatever is compressed.

folder/
    index.faiss     FAISS's own format
    vectors.f32     (N, D) float32, only where the index holds something less: what candidates are scored from
    index.json      written last: the spec, the shape, sizes and checksum of the files

family_build.py writes them. Both are mapped read-only, so processes share them and an index may be larger than memory.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.files import crc32_of, shortage
from retrieval.index.ann.inner_products import inner_products
from retrieval.index.ann.vector_index import SHARE_OF_PASSES, exact_is_cheaper, nearest_ids, share_near
from retrieval.index.ann.whole_vectors import Slots, WholeVectors
from retrieval.index.port import OVERFETCH, Mask

INDEX_FILE, VECTORS_FILE, CARD_FILE = "index.faiss", "vectors.f32", "index.json"
SIFTED_MARGIN = 1.5  # of what would be enough if the allowed were spread evenly
EXACT_PER_CODE = 0.5  # vectors from anywhere that are compared in the time of a code in a list
NEAREST = 100  # lots near to a query of which the share that passes a filter is guessed

_faiss: Any = faiss  # its type stubs leave out search parameters and know the C++ signature of selectors
Cosines = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, best first.

    Attributes:
        slots: (n,) which vectors, n <= k; a vector's slot is its place among those that were added.
        cosines: (n,) float64, from full vectors; ties by slot, so whoever adds in the order of ids has ties by id.
    """

    slots: Slots
    cosines: Cosines


class AnnIndex:
    """Unit vectors in an index of some family; open() makes it of what build() wrote. Threads may share it.

    Args:
        index: of FAISS, of the spec's family.
        spec: with the number of its lists.
        vectors: (N, D) to score candidates from; None where the index holds them whole.
    """

    def __init__(self, index: Any, spec: IndexSpec, vectors: Vector | WholeVectors | None) -> None:
        self.spec = spec
        self._index, self._vectors = index, vectors
        self._whole = _stored(index) if vectors is None else vectors  # (N, D), where they lie one after the other
        self._wrapped = isinstance(faiss.downcast_index(index), faiss.IndexPreTransform)
        self._unfiltered: dict[int, Any] = {}  # effort -> parameters, which cost as much to make as a small search

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""
        return int(self._index.d)

    @classmethod
    def open(cls, folder: Path, *, mapped: bool = True, check: bool = True) -> "AnnIndex":
        """Open what build() wrote, read-only.

        Args:
            folder: of the files.
            mapped: leave the index on the disk, where it is read as searches need it; else it is read into memory.
            check: read the index file once to compare its checksum.

        Raises:
            IndexUnavailable: a file is missing, of another size or damaged; the message says which.
        """
        try:
            card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
            spec, shape = IndexSpec.parse(card["spec"]), (int(card["items"]), int(card["dimensions"]))
            _check(folder, card, check)
            index = _faiss.read_index(str(folder / INDEX_FILE), _faiss.IO_FLAG_MMAP_IFC if mapped else 0)
            if (index.ntotal, index.d) != shape:
                raise ValueError(f"{INDEX_FILE} holds {index.ntotal} vectors of {index.d} numbers, not {shape}")
            vectors = None if spec.stores_vectors else mapped_vectors(folder / VECTORS_FILE, shape)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, InvalidInput) as error:
            told = shortage(folder, error) or f"the vector index in {folder} cannot be opened ({error}); build it again"
            raise IndexUnavailable(told) from error
        return cls(index, spec, vectors)

    def search(
        self, query: Vector, k: int, allowed: Mask | None = None, spec: IndexSpec | None = None, *, compare: bool = True
    ) -> Found:
        """The vectors with the highest cosine among the allowed ones.

        A filter is treated as HnswGraph.nearest() does: few lots that pass are all compared, which is exact; else a search without
        the filter shows how many of the lots near to the query pass, and a filtered one is wider by as much as others lie there.

        Args:
            query: (D,) float32 of unit length.
            k: how many are wanted, > 0.
            allowed: (N,) bool; None for all.
            spec: search parameters instead of the index's own; of the same family.
            compare: whether lots that pass are all compared where that is quicker, which is exact.
        """
        asked, size = spec or self.spec, len(self)
        count = size if allowed is None else int(np.count_nonzero(allowed))
        if not count:
            return Found(np.empty(0, dtype=np.int64), np.empty(0))
        wanted = min(k * asked.candidates + OVERFETCH, count)
        if allowed is None or count == size:
            return self._answer(query, k, *self._candidates(query, wanted, self._effort(asked, wanted, 1), None))
        if compare and self._exact_is_cheaper(asked, wanted, count, count / size):
            return self.exact(query, k, allowed)
        if self.spec.family == "pq":
            return self._sifted(query, k, allowed, wanted, size / count)
        return self._filtered(query, k, allowed, asked, wanted, compare)

    def _filtered(self, query: Vector, k: int, allowed: Mask, asked: IndexSpec, wanted: int, compare: bool) -> Found:
        count, size = int(np.count_nonzero(allowed)), len(self)
        share = 1.0
        if asked.effort is not None:
            near = min(max(wanted, NEAREST), size)
            scores, slots = self._candidates(query, near, self._effort(asked, near, 1), None)
            passing, share = allowed[slots], share_near(slots, allowed, count / size)
            if share >= SHARE_OF_PASSES and np.count_nonzero(passing) >= wanted:
                return self._answer(query, k, scores[passing], slots[passing])
            if compare and self._exact_is_cheaper(asked, wanted, count, share):
                return self.exact(query, k, allowed)
        scores, slots = self._candidates(query, wanted, self._effort(asked, wanted, 1 / share), allowed)
        if len(slots) < min(k, count):
            return self.exact(query, k, allowed)
        return self._answer(query, k, scores, slots)

    def _candidates(self, query: Vector, wanted: int, effort: int, allowed: Mask | None) -> tuple[Vector, Slots]:
        """FAISS's own scores and slots, (n,) both, n <= wanted."""
        scores, labels = self._index.search(query[None], wanted, params=self._parameters(effort, allowed))  # (1, wanted) both
        if labels[0, -1] >= 0:
            return scores[0], labels[0]
        some = labels[0] >= 0  # FAISS fills up with -1
        return scores[0][some], labels[0][some]

    def _answer(self, query: Vector, k: int, scores: Vector, slots: Slots) -> Found:
        """The k best candidates, with exact cosines."""
        if self._vectors is None:
            return _best(slots, scores.astype(np.float64), k)
        return _best(slots, _cosines(self._vectors, slots, query), k)

    def exact(self, query: Vector, k: int, allowed: Mask | None = None) -> Found:
        """The same by comparing with every allowed vector, whatever the family."""
        if self._whole is not None:
            slots: Slots = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
            if isinstance(self._whole, WholeVectors):
                scores = self._whole.scores(query, slots)
            else:
                scores = inner_products(self._whole, query, None if allowed is None else slots)
            slots = nearest_ids(slots, scores, k)
            return _best(slots, _cosines(self._whole, slots, query), k)
        selector = None if allowed is None else _selector(allowed)
        inner = _faiss.downcast_index(self._index)
        parameters = _faiss.SearchParametersIVF(nprobe=inner.nlist, sel=selector)  # its lists hold the vectors
        wanted = min(k + OVERFETCH, len(self))
        scores, labels = inner.search(query[None], wanted, params=parameters)
        some = labels[0] >= 0
        return _best(labels[0][some], scores[0][some].astype(np.float64), k)

    def _sifted(self, query: Vector, k: int, allowed: Mask, wanted: int, widened: float) -> Found:
        """The answer of codes that take no selector (IndexPQ): so many are fetched that enough of them are allowed."""
        assert self._vectors is not None
        fetched = int(np.ceil(SIFTED_MARGIN * wanted * widened))
        while 2 * fetched <= len(self):
            slots: Slots = self._index.search(query[None], fetched)[1][0]
            slots = slots[allowed[slots]][:wanted]
            if len(slots) == wanted:
                return _best(slots, _cosines(self._vectors, slots, query), k)
            fetched *= 4
        return self.exact(query, k, allowed)

    def _exact_is_cheaper(self, asked: IndexSpec, wanted: int, count: int, share: float) -> bool:
        """Whether comparing with the lots that pass takes less than a search where such a share passes."""
        if asked.effort == "ef_search":
            return exact_is_cheaper(count, max(asked.beam(len(self)), wanted), share)
        if asked.effort == "nprobe":  # a wider search of lists compares with no more lots that pass, for the others are skipped
            return count <= EXACT_PER_CODE * asked.nprobe / self.spec.nlist * len(self)
        return self.spec.family == "pq" and count <= EXACT_PER_CODE * len(self)  # which takes no selector, and compares all codes

    def _effort(self, asked: IndexSpec, wanted: int, widened: float) -> int:
        """ef_search or nprobe of one search; 0 for a family that has neither."""
        if asked.effort is None:
            return 0
        if asked.effort == "nprobe":
            return min(int(np.ceil(asked.nprobe * widened)), self.spec.nlist)
        return min(int(np.ceil(max(asked.beam(len(self)), wanted) * widened)), len(self))

    def _parameters(self, effort: int, allowed: Mask | None) -> Any:
        if allowed is None and effort in self._unfiltered:
            return self._unfiltered[effort]
        selector = None if allowed is None else _selector(allowed)
        if self.spec.effort == "ef_search":
            made = _faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        elif self.spec.effort == "nprobe":
            made = _faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        else:
            made = _faiss.SearchParameters(sel=selector) if selector is not None else None
        if self._wrapped and made is not None:
            made = _faiss.SearchParametersPreTransform(index_params=made)
        if allowed is None:
            self._unfiltered[effort] = made
        return made


def mapped_vectors(path: Path, shape: tuple[int, int], start: int = 0) -> Vector:
    """(N, D) float32 numbers of a file from a byte on, read as they are needed and never written."""
    mapped = np.memmap(path, dtype="<f4", mode="r", offset=start, shape=shape)
    plain: Vector = np.asarray(mapped)  # quicker to index
    return plain


def _check(folder: Path, card: dict[str, Any], whole: bool) -> None:
    for name, size in card["bytes"].items():
        found = (folder / name).stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found} bytes, not {size}")
    if whole and crc32_of(folder / INDEX_FILE) != card["crc32"]:
        raise ValueError(f"the checksum of {INDEX_FILE} does not hold")


def _stored(index: Any) -> Vector | None:
    """(N, D) the vectors that an index itself holds side by side; None where it keeps them in lists."""
    inner: Any = faiss.downcast_index(index)
    flat: Any = faiss.downcast_index(inner.storage) if hasattr(inner, "hnsw") else inner
    if not hasattr(flat, "get_xb") or not flat.ntotal:
        return None
    view: Vector = _faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    return view


def _selector(allowed: Mask) -> Any:
    return _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _cosines(vectors: Vector | WholeVectors, slots: Slots, query: Vector) -> Cosines:
    """(n,) exact cosines of unit vectors with a unit query."""
    scores: Cosines = vectors[slots].astype(np.float64) @ query.astype(np.float64)
    return scores


def _best(slots: Slots, cosines: Cosines, k: int) -> Found:
    order = np.lexsort((slots, -cosines))[:k]
    return Found(slots[order], cosines[order])
