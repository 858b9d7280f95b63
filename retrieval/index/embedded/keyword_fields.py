"""Keyword search over several fields of lots: their text, and each field that a boost counts in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.index.embedded.bm25 import Bm25Index, DeltaDocuments, Documents, bm25_scores
from retrieval.text.stemming import stem

Scores = tuple[NDArray[np.float32], NDArray[np.int64]]  # (N,) scores of lots, and the ascending positions of these


@dataclass(frozen=True, slots=True)
class FieldRows:
    """Where the documents of several fields stand among the lots that have a word in any of the fields.

    Attributes:
        positions: (N,) int64, ascending: of the lots.
        rows: for every field, where each of its documents' lots stands in there.
    """

    positions: NDArray[np.int64]
    rows: Sequence[NDArray[np.int64]]

    @classmethod
    def of(cls, fields: Sequence[Documents]) -> "FieldRows":
        """Line the documents of some fields up."""
        known = [field.positions for field in fields]
        positions = known[0] if len(known) == 1 else np.unique(np.concatenate(known))
        return cls(positions, [np.searchsorted(positions, each) for each in known] if len(known) > 1 else [])

    def summed(self, boosts: Sequence[float], of_fields: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(N,) float32 >= 0: the boosted scores of every lot, added up."""
        if not self.rows:
            return of_fields[0]
        total = np.zeros(len(self.positions))
        for boost, rows, of_field in zip(boosts, self.rows, of_fields, strict=True):
            total[rows] += boost * of_field
        summed: NDArray[np.float32] = total.astype(np.float32)
        return summed


class KeywordFields:
    """BM25 over several fields, their scores added up as OpenSearch's `most_fields` does: what searches see, and never changed.

    Args:
        boosts: of the fields, in the order that scores are added in; the first is that of the text, 1.
        mains: an index of each field.
        deltas: what came after it.
        rows: of the mains, where that is known.
    """

    def __init__(
        self,
        boosts: Sequence[float],
        mains: Sequence[Bm25Index],
        deltas: Sequence[DeltaDocuments],
        rows: FieldRows | None = None,
    ) -> None:
        self.mains, self.deltas = mains, deltas
        self.rows = rows or FieldRows.of(mains)
        self._boosts = boosts
        self._new_rows = FieldRows.of(deltas)

    @property
    def lots(self) -> tuple[int, int]:
        """How many lots the mains have and how many the deltas, those that are gone included."""
        return len(self.rows.positions), len(self._new_rows.positions)

    @property
    def last(self) -> int:
        """Position of the last lot that was read."""
        return min(delta.last for delta in self.deltas)

    def knows(self, word: str) -> bool:
        """Whether the text of a lot, or a field that counts, has a word, in whatever ending."""
        stemmed = stem(word, self.mains[0].language)
        parts: list[Documents] = [*self.mains, *self.deltas]
        return any(len(part.find(stemmed)[0]) for part in parts)

    def scores(self, text: str) -> tuple[Scores, Scores]:
        """The lots of the mains and those of the deltas, each with the sum of its boosted BM25 scores."""
        of_fields = [bm25_scores([*pair], text, pair[0].language) for pair in zip(self.mains, self.deltas, strict=True)]
        of_main, of_delta = zip(*of_fields, strict=True)
        main, delta = self.rows.summed(self._boosts, of_main), self._new_rows.summed(self._boosts, of_delta)
        return (main, self.rows.positions), (delta, self._new_rows.positions)
