"""Filtered nearest-neighbour search in any FAISS index type; the filter applies before the search.

HNSW is Malkov and Yashunin (TPAMI 2020). Index types that compress vectors find candidates, which full vectors score again.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import MIN_TO_TRAIN, IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.errors import InvalidInput
from retrieval.files import replacing
from retrieval.index.ann.equal_vectors import PAIR_BYTES, EqualVectors
from retrieval.index.ann.faiss_factory import train_faiss_index
from retrieval.index.ann.full_vectors import BLOCK_ROWS, FullVectors, VectorIds, map_vectors
from retrieval.index.ann.inner_products import inner_products
from retrieval.index.ann.storage import Footer, MappedIndex, RowIds, read_footer, read_row_ids, seal
from retrieval.index.port import OVERFETCH, Mask

_faiss: Any = faiss  # its type stubs leave out search parameters and know the C++ signature of selectors

HNSW = IndexSpec("hnsw")
TIE_MARGIN = 1e-5  # far above the rounding error of a float32 dot product of unit vectors, far below a relevant difference
EXACT_PER_EF_SEARCH = 40  # vectors compared one by one in the time that a graph search takes for each unit of ef_search
EXACT_PER_CODE = 0.5  # vectors at random places compared in the time of one code in a list
ENOUGH_PASS = 0.8  # share of the unfiltered candidates that pass: they are answer enough
SAMPLE_NEAR = 100  # vectors near a query from which the share that passes a filter is estimated
SIFT_MARGIN = 1.5  # times what would be enough if the allowed vectors were spread evenly
ADD_ROWS = 10_000  # coded between two chances to give up
RETRAIN_GROWTH = 4  # times the vectors of the last training
ALIGNED_BYTES = 64  # full vectors begin at a multiple of it in the file

Cosines = NDArray[np.float64]
Candidates = tuple[VectorIds, NDArray[np.float32]]  # (n,) both, with FAISS's own scores


@dataclass(frozen=True, slots=True)
class Neighbours:
    """An answer, best first.

    Attributes:
        vector_ids: (n,), n <= k; a vector's id is its place in the order of addition.
        cosines: (n,) float64, exact; ties by vector id, so adding in the order of item ids breaks ties by item id.
    """

    vector_ids: VectorIds
    cosines: Cosines


class AnnIndex:
    """Unit vectors in one FAISS index; vector id i is the i-th that was added. Threads may share it for searches.

    "hnsw" and "flat" without PCA store the full vectors inside FAISS. All other index types store them beside it, on the disk.

    Too few vectors cannot train an index, so below IndexSpec.min_to_train() all are compared. Later vectors are added to a copy
    and coded like the first, so a merge costs what is new and no training. With four times as many vectors as at training, or
    enough for the first training, the index needs retraining. Over time that is a third of all work, for suitable lists and codes.

    The file holds FAISS's own format, full vectors (N, D) float32 unless FAISS has them, pairs of equal ids, row ids, footer.

    Args:
        dimensions: length of the vectors.
        spec: of any index type.
        folder: where full vectors lie until they are saved; None takes the system's temporary folder.

    Attributes:
        spec: with the number of its lists.

    Raises:
        InvalidInput: the parameters do not suit the dimensions.
    """

    def __init__(self, dimensions: int, spec: IndexSpec = HNSW, folder: Path | None = None) -> None:
        spec.check_fit(dimensions)
        self.spec = self._requested = spec
        self._dimensions, self._folder = dimensions, folder
        self._full: FullVectors | None = None  # beside the index; None if FAISS holds them
        self._index: Any = None  # None until there are enough vectors to train
        self._trained_for = 0
        self._mapped: MappedIndex | None = None  # the file that the index is a view of
        self._equal = EqualVectors()  # of a graph
        self._unfiltered: dict[int, Any] = {}  # effort -> parameters, which cost as much to make as a small search
        if spec.index_type in ("flat", "hnsw") and not spec.pca:
            self._index = train_faiss_index(spec, np.empty((0, dimensions), dtype=np.float32))
        else:
            self._full = FullVectors(dimensions, folder)

    @classmethod
    def wrap(cls, index: Any, spec: IndexSpec, full: FullVectors | None) -> Self:
        """Search in a FAISS index of the spec; `full` are (N, D) vectors to score from, None if FAISS holds them."""
        wrapped = cls(int(index.d), spec)
        wrapped._index, wrapped._full = index, full
        return wrapped

    def __len__(self) -> int:
        return len(self._full) if self._full is not None else int(self._index.ntotal)

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return self._dimensions

    @property
    def is_trained(self) -> bool:
        """True if FAISS searches; False while all vectors are compared."""
        return self._index is not None

    @property
    def needs_retraining(self) -> bool:
        """True if there are four times as many vectors as at training, or enough for the first training."""
        least = self._requested.min_to_train()
        if self._index is None:
            return len(self) >= (least or MIN_TO_TRAIN)
        return self._full is not None and least > 0 and len(self) >= RETRAIN_GROWTH * self._trained_for

    @property
    def vectors(self) -> Vector:
        """(N, D) float32 inside FAISS: its own storage, not a copy; no longer valid after add()."""
        storage: Any = faiss.downcast_index(self._index.storage) if self.spec.index_type == "hnsw" else self._index
        size = int(storage.ntotal)
        if not size:
            return np.empty((0, self._dimensions), dtype=np.float32)
        view: Vector = _faiss.rev_swig_ptr(storage.get_xb(), size * storage.d).reshape(size, storage.d)
        return view

    def copy(self) -> Self:
        """Return the same vectors with an index in memory of its own; of several copies, only one may be added to and stored."""
        copied = type(self)(self._dimensions, self._requested, self._folder)
        copied.spec, copied._trained_for, copied._equal = self.spec, self._trained_for, self._equal.copy()
        if self._full is not None:
            copied._full = self._full.copy()
        if self._index is not None:
            copied._index = self._mapped.copy() if self._mapped else faiss.clone_index(self._index)
        return copied

    def take(self, vector_ids: VectorIds) -> Vector:
        """Return (n, D) float32, a copy of the vectors with these ids."""
        return self._full[vector_ids] if self._full is not None else self.vectors[vector_ids]

    def add(self, vectors: Vector) -> None:
        """Append (N, D) unit vectors. In-memory indexes only: FAISS aborts the process if a memory-mapped index is modified.

        Raises:
            IndexUnavailable: the disk does not take them.
        """
        assert self._mapped is None
        if self._full is not None:
            self._full.add(vectors)
        if self._index is not None:
            self._add_to(self._index, vectors)

    def train(self, before_step: Callable[[], None]) -> None:
        """Train the index on a sample of the added vectors and add all of them, if they are enough; a graph needs no training.

        Args:
            before_step: called before every 10,000 vectors; may give up by raising.
        """
        if self._full is None or len(self) < (self._requested.min_to_train() or MIN_TO_TRAIN):
            return
        spec = self._requested.sized(len(self))
        index, self._equal = train_faiss_index(spec, self._full), EqualVectors()
        for start in range(0, len(self), ADD_ROWS):
            before_step()
            self._add_to(index, self._full.rows(start, start + ADD_ROWS))
        self._index, self.spec, self._trained_for = index, spec, len(self)

    def search(
        self, query: Vector, k: int, allowed: Mask | None = None, spec: IndexSpec | None = None, *, compare: bool = True
    ) -> Neighbours:
        """Find the allowed vectors with the highest cosine.

        Args:
            query: (D,) float32 of unit length.
            k: > 0.
            allowed: (N,) bool; None for all.
            spec: search parameters instead of the index's own; of the same index type.
            compare: True compares all allowed vectors where a filter makes that quicker, which is exact.
        """
        count = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if not count:
            return Neighbours(np.empty(0, dtype=np.int64), np.empty(0))
        candidates = self._candidates(query, k, None if count == len(self) else allowed, spec or self.spec, compare)
        if candidates is None:
            return self.search_exact(query, k, allowed)
        vector_ids, scores = candidates
        return _best(vector_ids, scores.astype(np.float64) if self._full is None else self._cosines(query, vector_ids), k)

    def search_exact(self, query: Vector, k: int, allowed: Mask | None = None) -> Neighbours:
        """Find the same by comparing with every allowed vector."""
        if self._full is not None or self.spec.search_effort != "nprobe":
            vector_ids = self.exact(query, k, np.ones(len(self), dtype=bool) if allowed is None else allowed)
            return _best(vector_ids, self._cosines(query, vector_ids), k)
        lists: Any = faiss.downcast_index(self._index)  # they hold the vectors
        parameters = _faiss.SearchParametersIVF(nprobe=lists.nlist, sel=_selector(allowed))
        vector_ids, scores = _without_padding(*lists.search(query[None], min(k + OVERFETCH, len(self)), params=parameters))
        return _best(vector_ids, scores.astype(np.float64), k)

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> VectorIds:
        """Find the ids with the highest cosine among the allowed ones.

        All allowed vectors are compared where that is quicker, and the answer is exact. Otherwise an unfiltered search shows the
        share of vectors near the query that pass. If most pass, they are the answer. If some pass, a filtered search takes more
        effort, in proportion to the vectors between them. If hardly any pass, comparing is quicker after all: the filter excludes
        what the query is about, and the graph leads there.

        Args:
            query: (D,) float32 of unit length.
            k: > 0.
            allowed: (N,) bool.
            exact_below: up to so many allowed ids are always compared one by one; 0 compares only if FAISS finds fewer than k.

        Returns:
            At least min(k, allowed) ids, in no order; more than k so that ties at the cut can be broken.
        """
        count = int(np.count_nonzero(allowed))
        if self._index is None or (self.spec.index_type == "flat" and self._full is None) or count <= exact_below:
            return self.exact(query, k, allowed)
        if self._full is None:
            candidates = self._candidates(query, k, allowed, self.spec, exact_below > 0)
        else:
            unfiltered = count == len(self)
            candidates = self._candidates(query, k + OVERFETCH, None if unfiltered else allowed, self.spec, exact_below > 0)
        if candidates is None or len(candidates[0]) < min(k, count):
            return self.exact(query, k, allowed)
        return candidates[0] if self._full is None else _top(candidates[0], self._scores(query, candidates[0]), k)

    def exact(self, query: Vector, k: int, allowed: Mask) -> VectorIds:
        """Return the k allowed ids with the highest cosine and all that tie with the last of them, in no order."""
        vector_ids = np.flatnonzero(allowed)
        return vector_ids if len(vector_ids) <= k else _top(vector_ids, self._scores(query, vector_ids), k)

    def write(self, path: Path) -> None:
        """Write the bare index in FAISS's own format, which any program with FAISS reads."""
        faiss.write_index(self._index, str(path))

    def save(self, path: Path, row_ids: RowIds, database_id: str) -> Self:
        """Write all to a file in one step, with a footer that has a checksum.

        Args:
            path: replaced if it is there.
            row_ids: (N,) the database row of each vector id.
            database_id: the database of the rows.

        Returns:
            The same vectors, mapped from the file.
        """
        with replacing(path) as partial:
            partial.touch()
            if self._index is not None:
                self.write(partial)
            meta: dict[str, Any] = {}
            if self._full is not None:
                start = _append_vectors(partial, self._full)
                spec = str(self.spec) if self._index is not None else ""
                meta = {"spec": spec, "vectors_at": start, "trained_for": self._trained_for}
            self._equal.append_to(partial)
            footer = seal(partial, row_ids, database_id, meta | {"equal": len(self._equal)})
            return self._from_file(partial, footer, self._dimensions, self._requested, self._folder)

    @classmethod
    def load(cls, path: Path, dimensions: int, database_id: str, spec: IndexSpec = HNSW) -> tuple[Self, RowIds]:
        """Map what save() wrote for searches only: processes share the memory, and a start reads nothing into it.

        Returns:
            The index and its (N,) row ids.

        Raises:
            OSError: no such file.
            ValueError: damaged, of another database or of another index type.
        """
        footer = read_footer(path, database_id)
        loaded = cls._from_file(path, footer, dimensions, spec, path.parent)
        return loaded, read_row_ids(path, footer)

    @classmethod
    def _from_file(cls, path: Path, footer: Footer, dimensions: int, spec: IndexSpec, folder: Path | None) -> Self:
        opened, meta = cls(dimensions, spec, folder), footer.told
        equal = meta.get("equal", 0)  # missing in old files
        if opened._full is None:
            mapped = MappedIndex(path)
            if not isinstance(mapped.index, faiss.IndexHNSWFlat if spec.index_type == "hnsw" else faiss.IndexFlat):
                raise ValueError("it is of another kind of index")
            if (mapped.index.ntotal, mapped.index.d) != (footer.slots, dimensions):
                shape = f"{mapped.index.ntotal} vectors of {mapped.index.d} dimensions"
                raise ValueError(f"it holds {shape}, not {footer.slots} of {dimensions}")
        else:
            if not {"spec", "vectors_at", "trained_for"} <= meta.keys():
                raise ValueError("it is of another kind of index")
            if footer.payload != meta["vectors_at"] + footer.slots * (4 * dimensions + 8) + PAIR_BYTES * equal:
                raise ValueError(f"it does not hold {footer.slots} vectors of {dimensions} dimensions")
            if footer.slots:
                saved = map_vectors(path, (footer.slots, dimensions), meta["vectors_at"])
                opened._full = FullVectors(dimensions, folder, saved)
            if not meta["spec"]:
                return opened
            try:
                built = IndexSpec.parse(meta["spec"])
            except InvalidInput as error:  # of a newer version
                raise ValueError(str(error)) from error
            if not spec.lies_like(built):
                raise ValueError(f"it is {built}, not {spec}")
            mapped, opened._trained_for = MappedIndex(path), int(meta["trained_for"])
            opened.spec = replace(spec, nlist=built.nlist)  # effort and rescoring are those that were asked for
        opened._index, opened._mapped = mapped.index, mapped
        opened._equal = EqualVectors.read_from(path, footer.payload - 8 * footer.slots, equal)
        return opened

    def _add_to(self, index: Any, vectors: Vector) -> None:
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if isinstance(index, faiss.IndexHNSW):
            self._equal.add_to(index, rows, self.take)
        else:
            index.add(rows)

    def _candidates(self, query: Vector, k: int, allowed: Mask | None, spec: IndexSpec, compare: bool) -> Candidates | None:
        """Return at least min(k, allowed) ids that pass; None if all allowed vectors should be compared. See nearest()."""
        size = len(self)
        count = size if allowed is None else int(np.count_nonzero(allowed))
        target, share = min(k * spec.candidates + OVERFETCH, count), count / max(size, 1)
        if allowed is not None and compare and self._exact_is_cheaper(spec, target, count, share):
            return None
        if allowed is None or count == size:
            return self._search_faiss(query, target, self._effort(spec, target), None)
        if spec.index_type == "pq":
            return self._sift(query, target, allowed, share)
        if spec.search_effort is None:
            share = 1.0
        else:
            whole_graph = self._full is None and spec.search_effort == "ef_search"
            near = self._effort(spec, target) if whole_graph else min(max(target, SAMPLE_NEAR), size)
            vector_ids, scores = self._search_faiss(query, near, self._effort(spec, near), None)
            passing, share = allowed[vector_ids], estimate_pass_share(vector_ids, allowed, share)
            if share >= ENOUGH_PASS and np.count_nonzero(passing) >= target:
                return vector_ids[passing], scores[passing]
            if compare and self._exact_is_cheaper(spec, target, count, share):
                return None
        candidates = self._search_faiss(query, target, self._effort(spec, target, share), allowed)
        return candidates if len(candidates[0]) >= min(k, count) else None

    def _search_faiss(self, query: Vector, k: int, effort: int, allowed: Mask | None) -> Candidates:
        leading = None if allowed is None else self._equal.leading_to(allowed)
        vector_ids, scores = _without_padding(*self._index.search(query[None], k, params=self._parameters(effort, leading)))
        if not len(self._equal):
            return vector_ids, scores
        vector_ids = self._equal.with_equals(vector_ids)
        vector_ids = vector_ids if allowed is None else vector_ids[allowed[vector_ids]]
        return vector_ids, self._scores(query, vector_ids)

    def _sift(self, query: Vector, target: int, allowed: Mask, share: float) -> Candidates | None:
        """Search codes that take no selector (IndexPQ): fetch so many that enough of them are allowed."""
        fetched = math.ceil(SIFT_MARGIN * target / share)
        while 2 * fetched <= len(self):
            scores, labels = self._index.search(query[None], fetched)
            passing = allowed[labels[0]]
            if np.count_nonzero(passing) >= target:
                return labels[0][passing][:target], scores[0][passing][:target]
            fetched *= 4
        return None

    def _scores(self, query: Vector, vector_ids: VectorIds) -> NDArray[np.float32]:
        if self._full is not None:
            return self._full.scores(query, vector_ids)
        vectors = self.vectors
        if 2 * len(vector_ids) > len(vectors):
            return inner_products(vectors, query)[vector_ids]
        return inner_products(vectors, query, vector_ids)

    def _cosines(self, query: Vector, vector_ids: VectorIds) -> Cosines:
        """Return (n,) exact cosines of unit vectors with a unit query."""
        cosines: Cosines = self.take(vector_ids).astype(np.float64) @ query.astype(np.float64)
        return cosines

    def _exact_is_cheaper(self, spec: IndexSpec, target: int, count: int, share: float) -> bool:
        """True if comparing all `count` allowed vectors takes less time than a search where this share passes."""
        if spec.search_effort == "ef_search":
            return count * share <= EXACT_PER_EF_SEARCH * max(spec.ef_search_for(len(self)), target)
        if spec.search_effort == "nprobe":  # a wider search compares with no more allowed vectors, because others are skipped
            return count <= EXACT_PER_CODE * spec.nprobe / self.spec.nlist * len(self)
        return spec.index_type == "pq" and count <= EXACT_PER_CODE * len(self)  # it takes no selector, and compares all codes

    def _effort(self, spec: IndexSpec, target: int, share: float = 1.0) -> int:
        """Return ef_search or nprobe of one search where this share passes; 0 for an index type that has neither."""
        if spec.search_effort is None:
            return 0
        if spec.search_effort == "nprobe":
            return min(math.ceil(spec.nprobe / share), self.spec.nlist)
        return min(math.ceil(max(spec.ef_search_for(len(self)), target) / share), len(self))

    def _parameters(self, effort: int, allowed: Mask | None) -> Any:
        if allowed is None and effort in self._unfiltered:
            return self._unfiltered[effort]
        selector = _selector(allowed)
        if self.spec.search_effort == "ef_search":
            parameters = _faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        elif self.spec.search_effort == "nprobe":
            parameters = _faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        else:
            parameters = _faiss.SearchParameters(sel=selector) if selector is not None else None
        if parameters is not None and isinstance(faiss.downcast_index(self._index), faiss.IndexPreTransform):
            parameters = _faiss.SearchParametersPreTransform(index_params=parameters)
        if allowed is None:
            self._unfiltered[effort] = parameters
        return parameters


def estimate_pass_share(near: VectorIds, allowed: Mask, share: float) -> float:
    """Estimate the share of vectors near a query that pass a filter, from the nearest ones and a little from all.

    Args:
        near: (n,) ids that an unfiltered search finds.
        allowed: (N,) bool.
        share: of all vectors, in (0, 1].

    Returns:
        In (0, 1].
    """
    return float((np.count_nonzero(allowed[near]) + share) / (len(near) + 1))


def _selector(allowed: Mask | None) -> Any:
    return None if allowed is None else _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _without_padding(scores: NDArray[np.float32], labels: VectorIds) -> Candidates:
    """Return (n,) ids and scores of one query's (1, k) answer without FAISS's padding of -1."""
    if labels[0, -1] >= 0:
        return labels[0], scores[0]
    padded = labels[0] < 0
    return labels[0][~padded], scores[0][~padded]


def _top(vector_ids: VectorIds, scores: NDArray[np.float32], k: int) -> VectorIds:
    """Return the ids of the k highest of (N,) scores, and of all ties with the last of them; unordered."""
    if len(vector_ids) <= k:
        return vector_ids
    top: VectorIds = vector_ids[scores >= np.partition(scores, -k)[-k] - TIE_MARGIN]
    return top


def _best(vector_ids: VectorIds, cosines: Cosines, k: int) -> Neighbours:
    order = np.lexsort((vector_ids, -cosines))[:k]
    return Neighbours(vector_ids[order], cosines[order])


def _append_vectors(path: Path, vectors: FullVectors) -> int:
    """Append full vectors to a file; return the byte where they begin."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = size + -size % ALIGNED_BYTES
        file.write(bytes(start - size))
        for first in range(0, len(vectors), BLOCK_ROWS):
            file.write(vectors.rows(first, first + BLOCK_ROWS).astype("<f4", copy=False).tobytes())
    return start
