"""Lots for index tests: every test spells out only what it is about."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from retrieval.contracts.documents import IndexedItem, Vector, document_of, vector_from_json, vector_to_json
from retrieval.contracts.items import Item
from retrieval.index.filters import Filter

TOWER_ID = "0123456789ab"
DIMENSIONS = 16
NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
EVERYTHING = Filter(now=NOW)


def unit(numbers: Sequence[float]) -> Vector:
    """These numbers at unit length, (D,) float32, as an embedding part would hand them on."""
    vector = np.asarray(numbers, dtype=np.float64)
    return vector_from_json(vector_to_json(vector / np.linalg.norm(vector)))


def axis(number: int, tilt: float = 0.0) -> Vector:
    """The unit vector along an axis, turned a little towards the next one."""
    vector = np.zeros(DIMENSIONS)
    vector[number % DIMENSIONS] = 1.0
    vector[(number + 1) % DIMENSIONS] += tilt
    return unit(vector.tolist())


def clustered(count: int, dimensions: int, seed: int, clusters: int = 60, spread: float = 0.6) -> list[Vector]:
    """Unit vectors in clusters, as embeddings of real lots lie."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((clusters, dimensions))
    rows = centres[generator.integers(clusters, size=count)] + spread * generator.standard_normal((count, dimensions))
    return [unit(row.tolist()) for row in rows]


def lot(item_id: str, vector: Vector | None = None, *, version: int = 1, title: str = "a lot", **fields: Any) -> IndexedItem:
    """A lot that never ends, along the first axis if nothing else is said."""
    item = Item(item_id=item_id, title=title, **fields)
    document = document_of(item, has_image=False, tower_id=TOWER_ID, release_id="test")
    return IndexedItem(item_id, version, document, axis(0) if vector is None else vector)
