"""The keyword snapshots of an embedded index: one of the lots' text, and one of each field that a boost counts in."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.index.bm25 import Bm25Index
from retrieval.index.lot_store import LotSnapshot
from retrieval.schema import TEXT_FIELD
from retrieval.tuning import FieldBoosts

logger = logging.getLogger(__name__)

PREFIX = "bm25-"  # bm25-<generation> holds the text, bm25-<generation>-<field> a boosted field


class KeywordFields:
    """BM25 over several fields, their scores added up as OpenSearch's `most_fields` does.

    Attributes:
        positions: (N,) int64, ascending: the lots that have a word in any of the fields.
    """

    def __init__(self, fields: Sequence[tuple[float, Bm25Index]]) -> None:
        """Take (boost, index) of every field, in the order that scores are added in."""
        self._fields = fields
        known = [index.positions for _, index in fields]
        self.positions: NDArray[np.int64] = known[0] if len(known) == 1 else np.unique(np.concatenate(known))
        self._rows = [np.searchsorted(self.positions, positions) for positions in known]

    def knows(self, word: str) -> bool:
        """Whether the text of a lot, or a field that counts, has a word, in whatever ending."""
        return any(index.knows(word) for _, index in self._fields)

    def scores(self, text: str) -> NDArray[np.float32]:
        """(N,) float32 >= 0: the sum of every lot's boosted BM25 scores."""
        if len(self._fields) == 1:
            return self._fields[0][1].scores(text)
        total = np.zeros(len(self.positions))  # (N,)
        for (boost, index), rows in zip(self._fields, self._rows, strict=True):
            total[rows] += boost * index.scores(text)
        summed: NDArray[np.float32] = total.astype(np.float32)
        return summed

    @classmethod
    def load(cls, folder: Path, generation: int, boosts: FieldBoosts, language: str) -> "KeywordFields | None":
        """Read the snapshots of a generation of a language; None where one of them is missing or damaged, and all must be built."""
        try:
            fields = _weights(boosts)
            return cls([(boost, Bm25Index.load(_path(folder, generation, field), language)) for field, boost in fields.items()])
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("the keyword snapshot of %s is not usable (%s); it is built again", folder, error)
            return None

    @classmethod
    def build(cls, snapshot: LotSnapshot, folder: Path, boosts: FieldBoosts, language: str) -> "KeywordFields":
        """Index the words of a database's lots, and keep that in the folder in the place of older generations."""
        generation = snapshot.generation()
        built = {field: Bm25Index.build(snapshot.texts(field), language) for field in _weights(boosts)}
        try:
            for older in folder.glob(f"{PREFIX}*"):
                if older.name.split("-")[1] != str(generation):
                    shutil.rmtree(older, ignore_errors=True)
            for field, index in built.items():
                index.save(_path(folder, generation, field))
        except OSError as error:
            logger.warning("the keyword snapshot of %s could not be written (%s)", folder, error)
        return cls([(boost, built[field]) for field, boost in _weights(boosts).items()])


def _weights(boosts: FieldBoosts) -> dict[str, float]:
    return {TEXT_FIELD: 1.0, **boosts.given}


def _path(folder: Path, generation: int, field: str) -> Path:
    return folder / (f"{PREFIX}{generation}" if field == TEXT_FIELD else f"{PREFIX}{generation}-{field}")
