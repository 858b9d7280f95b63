"""An embedded index of less than whole vectors: any family that is trained or rounds its numbers, scored again from the disk."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from retrieval.config.index_spec import MIN_TO_TRAIN, IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.errors import InvalidInput
from retrieval.files import replacing
from retrieval.index.ann.build import trained
from retrieval.index.ann.equal_vectors import PAIR_BYTES, EqualVectors
from retrieval.index.ann.families import AnnIndex, mapped_vectors
from retrieval.index.ann.storage import Footer, MappedIndex, Positions, checked, positions_in, seal
from retrieval.index.ann.vector_index import nearest_ids
from retrieval.index.ann.whole_vectors import BLOCK_ROWS, Slots, WholeVectors
from retrieval.index.port import OVERFETCH, Mask

ROWS_A_STRIDE = 10_000  # coded between two chances to give up
OUTGROWN = 4  # times the vectors that it was trained for
ALIGNED_BYTES = 64  # where whole vectors begin in the file


class CodedVectors:
    """Unit vectors in an index of any family, and whole in a file beside it; the vector at slot i was the i-th to be added.

    Few vectors cannot train an index: as long as there are fewer than IndexSpec.least_to_train() says, all are compared. What
    comes later is added to a copy of the index and coded as the first were, so a merge costs what is new and no training. Once
    there are four times as many vectors as it was trained for, or enough for the first time, it is `outgrown` and to be built
    again: a third of all work, over time, for lists and codes that suit what is there.

    In its file FAISS's own format comes first, then the whole vectors (N, D) float32, pairs of equal slots, positions, footer.

    Args:
        dimensions: length of the vectors.
        spec: of any family.
        folder: where whole vectors lie until they are saved.

    Raises:
        InvalidInput: the parameters do not suit the dimensions.
    """

    def __init__(self, dimensions: int, spec: IndexSpec, folder: Path) -> None:
        spec.check_fit(dimensions)
        self._spec, self._folder = spec, folder
        self._least = spec.min_to_train() or MIN_TO_TRAIN
        self._vectors = WholeVectors(dimensions, folder)
        self._ann: AnnIndex | None = None
        self._index: Any = None  # what _ann searches
        self._trained_for = 0
        self._mapped: MappedIndex | None = None  # what the index is a view of
        self._equal = EqualVectors()  # of a graph

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return self._vectors.shape[1]

    @property
    def outgrown(self) -> bool:
        """Whether there are so many vectors that the index ought to be trained again."""
        if self._index is None:
            return len(self) >= self._least
        return self._spec.min_to_train() > 0 and len(self) >= OUTGROWN * self._trained_for

    def copy(self) -> Self:
        """The same vectors, the index in memory of its own; of several copies of one, one may be added to and kept."""
        made = type(self)(self.dimensions, self._spec, self._folder)
        made._vectors, made._trained_for, made._equal = self._vectors.copy(), self._trained_for, self._equal.copy()
        if self._ann is not None:
            made._search_in(self._mapped.copy() if self._mapped else faiss.clone_index(self._index), self._ann.spec)
        return made

    def add(self, vectors: Vector) -> None:
        """Add (n, D) unit vectors at the next slots; to one that is not mapped.

        Raises:
            IndexUnavailable: the disk does not take them.
        """
        assert self._mapped is None
        self._vectors.add(vectors)
        if self._index is not None:
            self._add_to(self._index, vectors)

    def train(self, before_stride: Callable[[], None]) -> None:
        """Make the index of the vectors that are there, on a sample of them, where they are enough.

        Args:
            before_stride: called every so many vectors; may give up by raising.
        """
        if len(self) < self._least:
            return
        sized = self._spec.sized(len(self))
        index, self._equal = trained(sized, self._vectors), EqualVectors()
        for start in range(0, len(self), ROWS_A_STRIDE):
            before_stride()
            self._add_to(index, self._vectors.rows(start, start + ROWS_A_STRIDE))
        self._trained_for = len(self)
        self._search_in(index, sized)

    def take(self, slots: Slots) -> Vector:
        """(n, D) float32, a copy of the vectors at some slots."""
        return self._vectors[slots]

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> Slots:
        """The slots with the highest cosine among the allowed ones, as HnswGraph.nearest; candidates are scored again before."""
        count = int(np.count_nonzero(allowed))
        if self._ann is None or count <= exact_below:
            return self.exact(query, k, allowed)
        every = count == len(self)
        leading = None if every else self._equal.leading_to(allowed)
        found = self._equal.with_equals(self._ann.search(query, k + OVERFETCH, leading, compare=exact_below > 0).slots)
        found = found[allowed[found]]
        return found if len(found) >= min(k, count) else self.exact(query, k, allowed)

    def exact(self, query: Vector, k: int, allowed: Mask) -> Slots:
        """The k allowed slots with the highest cosine and all that tie with the last of them, in no order."""
        slots = np.flatnonzero(allowed)
        return slots if len(slots) <= k else nearest_ids(slots, self._vectors.scores(query, slots), k)

    def save(self, path: Path, positions: Positions, database_id: str) -> Self:
        """Write all to a file in one step (HnswGraph.save); the same vectors, mapped from it."""
        with replacing(path) as partial:
            partial.touch()
            if self._index is not None:
                faiss.write_index(self._index, str(partial))
            start = self._write_vectors(partial)
            self._equal.append_to(partial)
            spec = str(self._ann.spec) if self._ann else ""
            told = {"spec": spec, "vectors_at": start, "trained_for": self._trained_for, "equal": len(self._equal)}
            return self._in_file(partial, seal(partial, positions, database_id, told), self.dimensions, self._spec, self._folder)

    @classmethod
    def load(cls, path: Path, dimensions: int, database_id: str, spec: IndexSpec) -> tuple[Self, Positions]:
        """Map what save() wrote (HnswGraph.load).

        Raises:
            OSError: no such file.
            ValueError: damaged, of another database or of another family.
        """
        footer = checked(path, database_id)
        loaded = cls._in_file(path, footer, dimensions, spec, path.parent)
        return loaded, positions_in(path, footer)

    @classmethod
    def _in_file(cls, path: Path, footer: Footer, dimensions: int, spec: IndexSpec, folder: Path) -> Self:
        made, told = cls(dimensions, spec, folder), footer.told
        if not {"spec", "vectors_at", "trained_for"} <= told.keys():
            raise ValueError("it is of another kind of index")
        equal = told.get("equal", 0)  # not in files of before
        if footer.payload != told["vectors_at"] + footer.slots * (4 * dimensions + 8) + PAIR_BYTES * equal:
            raise ValueError(f"it does not hold {footer.slots} vectors of {dimensions} dimensions")
        if footer.slots:
            saved = mapped_vectors(path, (footer.slots, dimensions), told["vectors_at"])
            made._vectors = WholeVectors(dimensions, folder, saved)
        if told["spec"]:
            try:
                built = IndexSpec.parse(told["spec"])
            except InvalidInput as error:  # of a newer version
                raise ValueError(str(error)) from error
            if not spec.lies_like(built):
                raise ValueError(f"it is {built}, not {spec}")
            made._mapped, made._trained_for = MappedIndex(path), int(told["trained_for"])
            made._search_in(made._mapped.index, built)
            made._equal = EqualVectors.read_from(path, footer.payload - 8 * footer.slots, equal)
        return made

    def _add_to(self, index: Any, vectors: Vector) -> None:
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if isinstance(index, faiss.IndexHNSW):
            self._equal.add_to(index, rows, self.take)
        else:
            index.add(rows)

    def _search_in(self, index: Any, built: IndexSpec) -> None:
        """Search in FAISS's index from now on, with the effort and the rescoring of the spec that was asked for."""
        self._index = index
        self._ann = AnnIndex(index, replace(self._spec, nlist=built.nlist), self._vectors)

    def _write_vectors(self, path: Path) -> int:
        """Append the whole vectors to a file; where they begin."""
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = size + -size % ALIGNED_BYTES
            file.write(bytes(start - size))
            for first in range(0, len(self), BLOCK_ROWS):
                file.write(self._vectors.rows(first, first + BLOCK_ROWS).astype("<f4", copy=False).tobytes())
        return start
