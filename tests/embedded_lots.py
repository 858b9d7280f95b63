"""Small lots for tests of the embedded index."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.filters import Filter

D = 8
NOW = datetime(2026, 11, 21, tzinfo=UTC)
ALL = Filter(now=NOW)


def vector(seed: int) -> Vector:
    """A random unit vector."""
    numbers = np.random.default_rng(seed).standard_normal(D)
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def lot(number: int, version: int = 1, text: str = "a watch", **fields: object) -> IndexedItem:
    """Lot number N with the N-th vector."""
    item_id = f"lot-{number:05}"
    return IndexedItem(item_id, version, {"item_id": item_id, "title": text, "text": text, **fields}, vector(number))


def live_index(folder: Path) -> EmbeddedIndex:
    """Publish an index of 1,500 lots, all of them in the graph."""
    store = EmbeddedStore(folder)
    made = store.create("tower", D)
    made.upsert(lot(number) for number in range(1_500))
    store.publish(made.name)
    return made
