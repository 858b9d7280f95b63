"""Filtered nearest-neighbour search in any index type of IndexSpec; it finds k vectors whenever a filter allows k.

Index types that compress vectors only find candidates, which are scored again with full vectors. HNSW is by Malkov and Yashunin
(TPAMI 2020).
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

_faiss: Any = faiss  # untyped, because FAISS's stubs lack search parameters and have C++ signatures of selectors

HNSW = IndexSpec("hnsw")
TIE_MARGIN = 1e-5  # far above the rounding error of a float32 dot product of unit vectors, far below a relevant difference
EXACT_PER_EF_SEARCH = 40  # vectors that are compared exactly in the time of a graph search per unit of ef_search
EXACT_PER_CODE = 0.5  # vectors at random places that are compared exactly in the time of one code in a list
ENOUGH_PASS = 0.8  # if at least this share of the unfiltered candidates is allowed, these are the answer
SAMPLE_NEAR = 100  # vectors near a query from which the share of allowed vectors is estimated
SIFT_MARGIN = 1.5  # candidates fetched, as a multiple of those needed if allowed vectors were spread evenly
ADD_ROWS = 10_000  # vectors that train() adds between two calls of before_step
RETRAIN_GROWTH = 4  # retraining is due with so many times the vectors of the last training
ALIGNED_BYTES = 64  # full vectors begin at a multiple of this in the file

Cosines = NDArray[np.float64]
Candidates = tuple[VectorIds, NDArray[np.float32]]  # (n,) ids and (n,) scores, as FAISS computes them


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The result of a search: n <= k vectors by descending cosine, ties by vector id.

    If vectors are added in the order of their item ids, ties are so broken by item id.

    Attributes:
        vector_ids: (n,) ids of the vectors, from 0 in the order in which they were added.
        cosines: (n,) float64, exact cosines with the query.
    """

    vector_ids: VectorIds
    cosines: Cosines


class AnnIndex:
    """Unit vectors in one FAISS index. Vector ids are 0, 1, … in the order of addition. Threads may share it for searches.

    "hnsw" and "flat" without PCA store the full vectors inside FAISS. All other index types store them in a file beside FAISS.

    With fewer vectors than IndexSpec.min_to_train(), the index is not trained, and searches compare with every vector. Vectors that
    are added after the training are coded with the lists and codes of that training. The index needs retraining once it has four
    times as many vectors as at training, or enough for the first training. Retraining is about a third of all work over time.

    The saved file holds, in this order: FAISS's own format, full vectors (N, D) float32 unless FAISS stores them, pairs of equal
    ids, row ids, and a footer.

    Args:
        dimensions: length of the vectors.
        spec: spec of the index.
        folder: folder of the full vectors until they are saved; None takes the system's temporary folder.

    Attributes:
        spec: spec of the index, after training with its number of lists.

    Raises:
        InvalidInput: the parameters do not suit the dimensions.
    """

    def __init__(self, dimensions: int, spec: IndexSpec = HNSW, folder: Path | None = None) -> None:
        spec.check_fit(dimensions)
        self.spec = self._requested = spec
        self._dimensions, self._folder = dimensions, folder
        self._full: FullVectors | None = None  # the full vectors; None if FAISS stores them
        self._index: Any = None  # None until there are enough vectors to train
        self._trained_for = 0
        self._mapped: MappedIndex | None = None  # the file that the index is mapped from
        self._equal = EqualVectors()  # used only by graphs
        self._unfiltered: dict[int, Any] = {}  # effort -> search parameters, cached because making them costs as much as a search
        if spec.index_type in ("flat", "hnsw") and not spec.pca:
            self._index = train_faiss_index(spec, np.empty((0, dimensions), dtype=np.float32))
        else:
            self._full = FullVectors(dimensions, folder)

    @classmethod
    def wrap(cls, index: Any, spec: IndexSpec, full: FullVectors | None) -> Self:
        """Return an AnnIndex over a FAISS index that is built already.

        Args:
            index: FAISS index of the spec.
            spec: spec of the index.
            full: full (N, D) vectors; None if FAISS stores them.
        """
        wrapped = cls(int(index.d), spec)
        wrapped._index, wrapped._full = index, full
        return wrapped

    def __len__(self) -> int:
        return len(self._full) if self._full is not None else int(self._index.ntotal)

    @property
    def dimensions(self) -> int:
        """Return the length of the vectors."""
        return self._dimensions

    @property
    def is_trained(self) -> bool:
        """True if searches use FAISS; False while they compare with every vector, because there are too few to train."""
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
        """Return the (N, D) float32 vectors inside FAISS, without a copy. The array is invalid after add()."""
        storage: Any = faiss.downcast_index(self._index.storage) if self.spec.index_type == "hnsw" else self._index
        size = int(storage.ntotal)
        if not size:
            return np.empty((0, self._dimensions), dtype=np.float32)
        view: Vector = _faiss.rev_swig_ptr(storage.get_xb(), size * storage.d).reshape(size, storage.d)
        return view

    def copy(self) -> Self:
        """Return a copy with a FAISS index of its own in memory. Of several copies, only one may be added to and saved."""
        copied = type(self)(self._dimensions, self._requested, self._folder)
        copied.spec, copied._trained_for, copied._equal = self.spec, self._trained_for, self._equal.copy()
        if self._full is not None:
            copied._full = self._full.copy()
        if self._index is not None:
            copied._index = self._mapped.copy() if self._mapped else faiss.clone_index(self._index)
        return copied

    def take(self, vector_ids: VectorIds) -> Vector:
        """Return a copy of the vectors with these n ids, (n, D) float32."""
        return self._full[vector_ids] if self._full is not None else self.vectors[vector_ids]

    def add(self, vectors: Vector) -> None:
        """Append (N, D) unit vectors. In-memory indexes only: FAISS aborts the process if a memory-mapped index is modified.

        Raises:
            IndexUnavailable: the vectors cannot be written to the disk.
        """
        assert self._mapped is None
        if self._full is not None:
            self._full.add(vectors)
        if self._index is not None:
            self._add_to(self._index, vectors)

    def train(self, before_step: Callable[[], None]) -> None:
        """Train the index on a sample of the vectors, and add all vectors to it; do nothing with too few vectors.

        A "flat" or "hnsw" index without PCA needs no training.

        Args:
            before_step: function that is called before every 10,000 vectors; it may raise to give up.
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
        """Return the allowed vectors with the highest cosine.

        Args:
            query: (D,) float32 of unit length.
            k: maximum number of vectors, > 0.
            allowed: (N,) bool mask of the allowed vectors; None allows all.
            spec: spec of the same index type, whose search parameters are used; None takes those of the index.
            compare: True compares with every allowed vector, which is exact, if the filter makes that quicker.
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
        """Return the allowed vectors with the highest cosine, like search(), but by comparing with every allowed vector."""
        if self._full is not None or self.spec.search_effort != "nprobe":
            vector_ids = self.exact(query, k, np.ones(len(self), dtype=bool) if allowed is None else allowed)
            return _best(vector_ids, self._cosines(query, vector_ids), k)
        lists: Any = faiss.downcast_index(self._index)  # the lists store the vectors, so a search of all lists is exact
        parameters = _faiss.SearchParametersIVF(nprobe=lists.nlist, sel=_selector(allowed))
        vector_ids, scores = _without_padding(*lists.search(query[None], min(k + OVERFETCH, len(self)), params=parameters))
        return _best(vector_ids, scores.astype(np.float64), k)

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> VectorIds:
        """Return the allowed ids with the highest cosine.

        If few vectors are allowed, comparing with all of them is quicker, and exact. Otherwise an unfiltered search estimates the
        share of allowed vectors near the query:

        - Most are allowed: those that were found are the answer.
        - Some are allowed: a filtered search follows, with the effort divided by that share.
        - Hardly any are allowed: comparing with all allowed vectors is quicker after all.

        Args:
            query: (D,) float32 of unit length.
            k: number of ids, > 0.
            allowed: (N,) bool mask of the allowed vectors.
            exact_below: if at most so many vectors are allowed, all are compared; 0 compares only if FAISS finds fewer than k.

        Returns:
            At least min(k, number of allowed vectors) ids, in no order. There may be more, so that ties at the cut can be broken.
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
        """Return the k allowed ids with the highest cosine, and all ids that tie with the last of these, in no order."""
        vector_ids = np.flatnonzero(allowed)
        return vector_ids if len(vector_ids) <= k else _top(vector_ids, self._scores(query, vector_ids), k)

    def write(self, path: Path) -> None:
        """Write only the FAISS index, in FAISS's own format, which other programs can read."""
        faiss.write_index(self._index, str(path))

    def save(self, path: Path, row_ids: RowIds, database_id: str) -> Self:
        """Write everything to one file in one step, with a footer that has a checksum.

        Args:
            path: path of the file; an existing file is replaced.
            row_ids: (N,) row id in the database of each vector.
            database_id: id of the database.

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
        """Map a file of save(), for searches only. Processes share its memory, and nothing is copied into memory at a start.

        Args:
            path: path of the file.
            dimensions: required length of the vectors.
            database_id: required id of the database.
            spec: spec to search with, see IndexSpec.lies_like().

        Returns:
            The index and its (N,) row ids.

        Raises:
            OSError: there is no such file.
            ValueError: the file is damaged, or of another database or index type.
        """
        footer = read_footer(path, database_id)
        loaded = cls._from_file(path, footer, dimensions, spec, path.parent)
        return loaded, read_row_ids(path, footer)

    @classmethod
    def _from_file(cls, path: Path, footer: Footer, dimensions: int, spec: IndexSpec, folder: Path | None) -> Self:
        opened, meta = cls(dimensions, spec, folder), footer.told
        equal = meta.get("equal", 0)  # files of older versions have no such number
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
            except InvalidInput as error:  # a newer version wrote the file
                raise ValueError(str(error)) from error
            if not spec.lies_like(built):
                raise ValueError(f"it is {built}, not {spec}")
            mapped, opened._trained_for = MappedIndex(path), int(meta["trained_for"])
            opened.spec = replace(spec, nlist=built.nlist)  # search parameters are those of `spec`
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
        """Return at least min(k, number of allowed vectors) allowed ids with scores, see nearest().

        Return None if all allowed vectors should be compared instead.
        """
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
        """Search an index that takes no selector (IndexPQ): fetch more and more candidates until `target` of them are allowed.

        Return None if that would take more than half of all vectors.
        """
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
        """Return (n,) float64 exact cosines of these vectors with a query of unit length."""
        cosines: Cosines = self.take(vector_ids).astype(np.float64) @ query.astype(np.float64)
        return cosines

    def _exact_is_cheaper(self, spec: IndexSpec, target: int, count: int, share: float) -> bool:
        """True if comparing with all `count` allowed vectors takes less time than a search.

        Args:
            spec: spec with the search parameters.
            target: number of candidates to find.
            count: number of allowed vectors.
            share: share of allowed vectors near the query, in (0, 1].
        """
        if spec.search_effort == "ef_search":
            return count * share <= EXACT_PER_EF_SEARCH * max(spec.ef_search_for(len(self)), target)
        if spec.search_effort == "nprobe":  # the share does not matter, because lists skip vectors that are not allowed
            return count <= EXACT_PER_CODE * spec.nprobe / self.spec.nlist * len(self)
        return spec.index_type == "pq" and count <= EXACT_PER_CODE * len(self)  # pq takes no selector and compares with all codes

    def _effort(self, spec: IndexSpec, target: int, share: float = 1.0) -> int:
        """Return ef_search or nprobe of one search; 0 for an index type that has neither.

        Args:
            spec: spec with the search parameters.
            target: number of candidates to find.
            share: share of allowed vectors near the query, in (0, 1]; the effort is divided by it.
        """
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
    """Estimate the share of allowed vectors near a query.

    The share of all vectors counts like one further vector, so that the estimate is never 0.

    Args:
        near: (n,) ids that an unfiltered search found.
        allowed: (N,) bool mask of the allowed vectors.
        share: share of allowed vectors among all, in (0, 1].

    Returns:
        The estimate, in (0, 1].
    """
    return float((np.count_nonzero(allowed[near]) + share) / (len(near) + 1))


def _selector(allowed: Mask | None) -> Any:
    return None if allowed is None else _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _without_padding(scores: NDArray[np.float32], labels: VectorIds) -> Candidates:
    """Return the (n,) ids and scores in FAISS's (1, k) answer to one query, without its padding by the id -1."""
    if labels[0, -1] >= 0:
        return labels[0], scores[0]
    padded = labels[0] < 0
    return labels[0][~padded], scores[0][~padded]


def _top(vector_ids: VectorIds, scores: NDArray[np.float32], k: int) -> VectorIds:
    """Return the ids of the k highest of (N,) scores, and all ids that tie with the last of these, in no order."""
    if len(vector_ids) <= k:
        return vector_ids
    top: VectorIds = vector_ids[scores >= np.partition(scores, -k)[-k] - TIE_MARGIN]
    return top


def _best(vector_ids: VectorIds, cosines: Cosines, k: int) -> Neighbours:
    order = np.lexsort((vector_ids, -cosines))[:k]
    return Neighbours(vector_ids[order], cosines[order])


def _append_vectors(path: Path, vectors: FullVectors) -> int:
    """Append full vectors to a file, and return the offset in bytes where they begin."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = size + -size % ALIGNED_BYTES
        file.write(bytes(start - size))
        for first in range(0, len(vectors), BLOCK_ROWS):
            file.write(vectors.rows(first, first + BLOCK_ROWS).astype("<f4", copy=False).tobytes())
    return start
