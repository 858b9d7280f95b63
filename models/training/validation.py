"""Validation metrics of towers during training, by exact search over the validation corpus."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from catalog.folder import CatalogFolder
from models.data.encoding_cache import PhotoEncodings, TextTable, encode_frozen, text_inputs
from models.data.images import normalise, to_unit
from models.data.tables import ItemTable, PhotoTable, TokenTable
from models.towers.config import TowerConfig
from models.towers.features import Features
from models.towers.item_features import item_row
from models.towers.two_towers import Photos, TwoTowers
from retrieval.contracts.attributes import attribute_text
from retrieval.contracts.items import query_text
from retrieval.evaluation.metrics import RELEVANT_GRADE

BATCH = 128
DEPTH = 50  # ranks that count
DISCOUNTS = 1 / np.log2(np.arange(2, 12))
MAX_SCORES = 1 << 25  # scores that are ranked at once, so that memory does not grow with the number of queries


@dataclass(frozen=True)
class ValidationMetrics:
    """Means over the validation queries that have a relevant item, each in [0, 1].

    Attributes:
        recall_at_10: share of a query's relevant items (grade >= 2) that are among its first 10 results.
        recall_at_50: share of a query's relevant items that are among its first 50 results.
        ndcg_at_10: normalised discounted gain of the first 10, with the grade as gain (Järvelin and Kekäläinen 2002).
    """

    recall_at_10: float
    recall_at_50: float
    ndcg_at_10: float

    @property
    def quality(self) -> float:
        """Mean of recall@50 and nDCG@10, because nDCG@10 still differs between towers with the same high recall."""
        return (self.recall_at_50 + self.ndcg_at_10) / 2


@dataclass(frozen=True)
class QueryMetrics:
    """The metrics of each of J judged queries, as in ValidationMetrics.

    Attributes:
        recall_at_10: (J,) float64.
        recall_at_50: (J,) float64.
        ndcg_at_10: (J,) float64.
    """

    recall_at_10: NDArray[np.float64]
    recall_at_50: NDArray[np.float64]
    ndcg_at_10: NDArray[np.float64]

    @property
    def quality(self) -> NDArray[np.float64]:
        """Mean of recall@50 and nDCG@10 of each query."""
        return (self.recall_at_50 + self.ndcg_at_10) / 2

    def mean(self) -> ValidationMetrics:
        """Return the means over the queries; all zero without a query."""
        if not len(self.ndcg_at_10):
            return ValidationMetrics(0.0, 0.0, 0.0)
        return ValidationMetrics(**{each.name: float(getattr(self, each.name).mean()) for each in fields(self)})


def ranking_metrics(scores: NDArray[np.float32], grades: NDArray[np.int64]) -> ValidationMetrics:
    """Return the metrics of a score matrix.

    Args:
        scores: (Q, N), higher is better; ties keep the order of the items.
        grades: (Q, N) grades, 0 to 3.

    Returns:
        Means over the queries with a grade >= 2; all zero without such a query.
    """
    return query_metrics(
        top_rows(scores), [{int(row): int(graded[row]) for row in graded.nonzero()[0]} for graded in grades]
    ).mean()


def top_rows(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the columns (Q, 50) of the highest scores (Q, N), best first; ties keep their order."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]


def query_metrics(results: Sequence[Sequence[int]] | NDArray[np.int64], grades: Sequence[Mapping[int, int]]) -> QueryMetrics:
    """Return the metrics of each query with a grade >= 2.

    Args:
        results: rows of the items that each of Q queries finds, best first; only the first 50 count.
        grades: item row -> grade, 0 to 3, of each of the Q queries.
    """
    values = [
        _metrics_of(rows, graded)
        for rows, graded in zip(results, grades, strict=True)
        if max(graded.values(), default=0) >= RELEVANT_GRADE
    ]
    return QueryMetrics(*np.array(values, dtype=np.float64).reshape(-1, 3).T)


def _metrics_of(rows: Sequence[int] | NDArray[np.int64], graded: Mapping[int, int]) -> tuple[float, float, float]:
    gains = np.array([graded.get(int(row), 0) for row in rows[:DEPTH]], dtype=np.int64)
    relevant = sum(grade >= RELEVANT_GRADE for grade in graded.values())
    best = np.array(sorted(graded.values(), reverse=True)[:10])
    recalls = [int((gains[:depth] >= RELEVANT_GRADE).sum()) / relevant for depth in (10, DEPTH)]
    return recalls[0], recalls[1], float((gains[:10] * DISCOUNTS[: len(gains)]).sum() / (best * DISCOUNTS[: len(best)]).sum())


class Validation:
    """The validation queries, corpus and judgments, ready to measure towers.

    Attributes:
        config: configuration of the towers.
        query_texts: cleaned texts of the Q queries.
        item_words: text and words of the attributes of each of the N items, which a keyword search reads.
        is_pseudo: True if the queries were made from the items' own words.
    """

    def __init__(self, catalog: CatalogFolder, tokenizer: Tokenizer, config: TowerConfig, cache: Path, split: str = "val") -> None:
        items, qrels = ItemTable.read(catalog.item_files(split), keep_records=True), catalog.qrels(split)
        rows = {item_id: row for row, item_id in enumerate(items.ids)}
        self.config, self._cache = config, cache
        self._features = Features.of(config.features, [item_row(item) for item in items.records]) if config.features else None
        self._items: TextTable = TokenTable.build(tokenizer, items.texts, config.max_length)
        self._photos: PhotoTable | PhotoEncodings | None = None
        if config.use_image:
            self._photos = PhotoTable.load(items.photos, config.image_size, cache)
        self._queries: TextTable = TokenTable.build(
            tokenizer, [query_text(text) for text in qrels.queries.values()], config.max_length
        )
        graded = (qrels.grades.get(query_id, {}) for query_id in qrels.queries)
        self._grades = [{rows[item_id]: grade for item_id, grade in grades.items() if item_id in rows} for grades in graded]
        self.query_texts = [query_text(text) for text in qrels.queries.values()]
        self.item_words = [(text, attribute_text(item.attributes)) for text, item in zip(items.texts, items.records, strict=True)]
        self.is_pseudo = split in catalog.pseudo_splits

    def encode_frozen(self, towers: TwoTowers, device: torch.device) -> None:
        """Replace the inputs of frozen encoders by their encodings, so that no measurement encodes them again."""
        self._items, self._queries, self._photos = encode_frozen(
            towers, self._items, self._queries, self._photos, self.config, self._cache, device
        )

    @torch.inference_mode()
    def search(self, towers: TwoTowers) -> NDArray[np.int64]:
        """Search the corpus exactly and return rows (Q, 50) of items, best first; the towers are in training mode afterwards."""
        towers.eval()
        device = towers.logit_scale.device
        items = _in_order(self._items.lengths, lambda rows: self._encode_items(towers, rows, device))
        queries = _in_order(
            self._queries.lengths,
            lambda rows: towers.query_tower.encode(text_inputs(self._queries, rows, device)).float().cpu().numpy(),
        )
        towers.train()
        size = max(1, MAX_SCORES // max(1, len(items)))
        return np.concatenate([top_rows(queries[at : at + size] @ items.T) for at in range(0, max(1, len(queries)), size)])

    def measure(self, towers: TwoTowers) -> ValidationMetrics:
        """Return the metrics of search()."""
        return self.metrics(self.search(towers)).mean()

    def metrics(self, results: Sequence[Sequence[int]] | NDArray[np.int64]) -> QueryMetrics:
        """Return the metrics of the judged queries, given the rows of the items that each query finds, best first."""
        return query_metrics(results, self._grades)

    def _encode_items(self, towers: TwoTowers, rows: NDArray[np.int64], device: torch.device) -> NDArray[np.float32]:
        features = self._features.take(torch.from_numpy(rows)).to(device) if self._features else None
        photos = self._show(rows, device) if self._photos else None
        vectors: Tensor = towers.item_tower(text_inputs(self._items, rows, device), photos, features)
        return vectors.float().cpu().numpy()

    def _show(self, rows: NDArray[np.int64], device: torch.device) -> Photos:
        assert self._photos is not None
        has_image = self._photos.has_image[rows]
        present = torch.from_numpy(has_image).to(device)
        if isinstance(self._photos, PhotoEncodings):
            return Photos(torch.from_numpy(self._photos.vectors[rows[has_image]]).to(device), present)
        pixels = torch.from_numpy(np.ascontiguousarray(self._photos.pixels[rows[has_image]])).to(device)
        return Photos(normalise(to_unit(pixels), self.config.image_mean, self.config.image_std), present)


def _in_order(lengths: NDArray[np.int64], encode: Callable[[NDArray[np.int64]], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Encode texts of like length together, to save padding, and return the vectors in the order of the texts."""
    order = np.argsort(lengths, kind="stable")
    vectors = np.concatenate([encode(order[start : start + BATCH]) for start in range(0, len(order), BATCH)])
    return vectors[np.argsort(order, kind="stable")]
