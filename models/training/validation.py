"""Validation metrics of towers during training, by exact search over the validation corpus."""

from collections.abc import Callable
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
from models.towers.item_features import item_row
from models.towers.two_towers import Photos, TwoTowers
from retrieval.contracts.items import query_text
from retrieval.evaluation.metrics import RELEVANT_GRADE

BATCH = 128
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


def ranking_metrics(scores: NDArray[np.float32], grades: NDArray[np.int64]) -> ValidationMetrics:
    """Return the metrics of a score matrix.

    Args:
        scores: (Q, N), higher is better; ties keep the order of the items.
        grades: (Q, N) grades, 0 to 3.

    Returns:
        Means over the queries with a grade >= 2; all zero without such a query.
    """
    judged = (grades >= RELEVANT_GRADE).any(axis=1)
    if not judged.any():
        return ValidationMetrics(0.0, 0.0, 0.0)
    scores, grades = scores[judged], grades[judged]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :50]
    ranked = np.take_along_axis(grades, order, axis=1)  # (Q, 50)
    relevant = (grades >= RELEVANT_GRADE).sum(axis=1)
    hits = (ranked >= RELEVANT_GRADE).cumsum(axis=1)
    discount = 1 / np.log2(np.arange(2, 12))
    best = -np.sort(-grades, axis=1)[:, :10]
    gain = (ranked[:, :10] * discount[: ranked[:, :10].shape[1]]).sum(axis=1)
    ideal = (best * discount[: best.shape[1]]).sum(axis=1)
    return ValidationMetrics(
        recall_at_10=float((hits[:, min(10, hits.shape[1]) - 1] / relevant).mean()),
        recall_at_50=float((hits[:, -1] / relevant).mean()),
        ndcg_at_10=float((gain / ideal).mean()),
    )


class Validation:
    """The validation queries, corpus and judgments, ready to measure towers."""

    def __init__(self, catalog: CatalogFolder, tokenizer: Tokenizer, config: TowerConfig, cache: Path, split: str = "val") -> None:
        items, qrels = ItemTable.read(catalog.item_files(split), keep_records=config.features is not None), catalog.qrels(split)
        rows = {item_id: row for row, item_id in enumerate(items.ids)}
        self.config, self._cache = config, cache
        self._features = config.features.encode([item_row(item) for item in items.records]) if config.features else None
        self._items: TextTable = TokenTable.build(tokenizer, items.texts, config.max_length)
        self._photos: PhotoTable | PhotoEncodings | None = None
        if config.use_image:
            self._photos = PhotoTable.load(items.photos, config.image_size, cache)
        self._queries: TextTable = TokenTable.build(
            tokenizer, [query_text(text) for text in qrels.queries.values()], config.max_length
        )
        graded = (qrels.grades.get(query_id, {}) for query_id in qrels.queries)
        self._grades = [{rows[item_id]: grade for item_id, grade in grades.items() if item_id in rows} for grades in graded]

    def encode_frozen(self, towers: TwoTowers, device: torch.device) -> None:
        """Replace the inputs of frozen encoders by their encodings, so that no measurement encodes them again."""
        self._items, self._queries, self._photos = encode_frozen(
            towers, self._items, self._queries, self._photos, self.config, self._cache, device
        )

    @torch.inference_mode()
    def measure(self, towers: TwoTowers) -> ValidationMetrics:
        """Search the corpus exactly with every query and return the metrics; the towers are in training mode afterwards."""
        towers.eval()
        device = towers.logit_scale.device
        items = _in_order(self._items.lengths, lambda rows: self._encode_items(towers, rows, device))
        queries = _in_order(
            self._queries.lengths,
            lambda rows: towers.query_tower.encode(text_inputs(self._queries, rows, device)).float().cpu().numpy(),
        )
        towers.train()
        return self._rank(queries, items)

    def _rank(self, queries: NDArray[np.float32], items: NDArray[np.float32]) -> ValidationMetrics:
        """Return the metrics of (Q, D) queries over (N, D) items, computed for some queries at a time."""
        size = max(1, MAX_SCORES // max(1, len(items)))
        weights, parts = [], []
        for start in range(0, max(1, len(queries)), size):
            grades = np.zeros((min(size, len(queries) - start), len(items)), dtype=np.int64)
            for row, graded in enumerate(self._grades[start : start + size]):
                grades[row, list(graded)] = list(graded.values())
            parts.append(ranking_metrics(queries[start : start + size] @ items.T, grades))
            weights.append(int((grades >= RELEVANT_GRADE).any(axis=1).sum()))
        if len(parts) == 1 or not sum(weights):
            return parts[0]
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(ValidationMetrics)}
        return ValidationMetrics(**{name: float(np.average(values, weights=weights)) for name, values in columns.items()})

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
