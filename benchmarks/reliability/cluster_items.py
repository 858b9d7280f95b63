"""Items and questions of the cluster benchmark, with the correct answers of exact search in one embedded index."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ann.clustered import clustered, clustered_queries
from retrieval.contracts.documents import IndexedItem, Vector, document_of, vector_from_json, vector_to_json
from retrieval.contracts.items import Item
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.port import Candidate, VectorIndex

K = 10
TOWER = "c1u57e4"
NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
WORDS, CATEGORIES, BRANDS = 2_000, 20, 50
ENDED = 0.1  # share of the lots whose auction has ended


@dataclass(frozen=True, slots=True)
class Question:
    """A query by vector and by words, and its correct answers.

    Attributes:
        vector: (D,) float32 query vector.
        text: query of two words.
        filters: filters of both searches.
        nearest: ids of the K lots with the highest cosines, best first.
        scores: cosines of these lots.
        by_words: ids of the K lots with the highest BM25 scores, best first.
    """

    vector: Vector
    text: str
    filters: Filter
    nearest: Sequence[str]
    scores: Sequence[float]
    by_words: Sequence[str]


def make_lots(count: int, dimensions: int, seed: int = 7) -> list[IndexedItem]:
    """Return items with titles of rare and frequent words, categories, brands, prices and ratings; some auctions have ended."""
    rng = np.random.default_rng(seed)
    vectors = np.concatenate(list(clustered(count, dimensions, seed)))
    return [_lot(number, vector, rng) for number, vector in enumerate(vectors)]


def _lot(number: int, vector: Vector, rng: np.random.Generator) -> IndexedItem:
    ends = NOW + timedelta(days=-1 if rng.random() < ENDED else 30)
    item = Item(
        item_id=f"lot-{number:07}",
        title=" ".join(_word(rng) for _ in range(rng.integers(3, 9))),
        category=f"category-{rng.integers(CATEGORIES)}",
        brand=f"brand-{rng.integers(BRANDS)}",
        current_price=round(float(rng.lognormal(4, 1)), 2),
        seller_rating=round(float(rng.uniform(1, 5)), 1),
        ends_at=ends,
    )
    document = document_of(item, has_image=False, tower_id=TOWER, release_id="cluster")
    return IndexedItem(item.item_id, 1, document, vector_from_json(vector_to_json(vector)))


def _word(rng: np.random.Generator) -> str:
    """Return a random word. A few words are very frequent."""
    return f"w{min(int(rng.pareto(0.8)), WORDS - 1)}"


def ask(folder: Path, lots: Sequence[IndexedItem], count: int, seed: int = 7) -> list[Question]:
    """Return questions with and without filters, answered by exact search in an unsharded index.

    Args:
        folder: folder for the embedded index.
        lots: items of the index.
        count: number of questions.
        seed: seed of the random questions.
    """
    store, rng = EmbeddedStore(folder), np.random.default_rng([seed, 1])
    index = fill(store.create(TOWER, len(lots[0].vector)), lots)
    vectors = clustered_queries(count, index.dimensions, seed, of=len(lots))
    questions = [
        _question(index, vector, _filter(number, rng), f"{_word(rng)} {_word(rng)}") for number, vector in enumerate(vectors)
    ]
    index.close()
    return questions


def fill(index: VectorIndex, lots: Sequence[IndexedItem]) -> VectorIndex:
    """Write lots into an index, make them visible, and return the index."""
    report = index.upsert(lots)
    assert report.indexed == len(lots), report
    index.refresh()
    return index


def _question(index: VectorIndex, vector: Vector, filters: Filter, text: str) -> Question:
    nearest = index.semantic(vector, K, filters, exact=True)
    return Question(vector, text, filters, ids(nearest), [c.score for c in nearest], ids(index.keyword(text, K, filters)))


def ids(candidates: Sequence[Candidate]) -> list[str]:
    """Return the ids of candidates, in order."""
    return [candidate.item_id for candidate in candidates]


def _filter(number: int, rng: np.random.Generator) -> Filter:
    """Return a filter for the `number`-th question: none, one of each kind, or several at once, in turns."""
    kinds: list[dict[str, Any]] = [
        {},
        {"categories": (f"category-{rng.integers(CATEGORIES)}",)},
        {"brands": (f"brand-{rng.integers(BRANDS)}",)},
        {"min_price": 20.0, "max_price": float(rng.uniform(30, 200))},
        {"min_seller_rating": float(rng.uniform(2, 4.5))},
        {"categories": (f"category-{rng.integers(CATEGORIES)}",), "max_price": 80.0},
    ]
    return Filter(now=NOW, **kinds[number % len(kinds)])
