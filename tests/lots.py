"""What tests build lots with: say only what the test is about."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import IndexedItem, document_of
from retrieval.contracts.items import Item
from retrieval.index.port import IndexStore, VectorIndex

TOWER_ID = "a1b2c3d4e5f6"
WORDS = ("vase", "watch", "ring", "lamp", "red", "blue", "gold", "silver", "round", "old", "new", "luxury")


class WordEncoder:
    """A query tower that a reader can follow: one direction a known word, plus one that every text shares."""

    def __init__(self, tower_id: str = TOWER_ID) -> None:
        self.tower_id = tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, 13) float32 of unit length."""
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> NDArray[np.float32]:
        words = re.findall(r"\w+", text.lower())
        counts = np.array([0.1, *(words.count(word) for word in WORDS)], dtype=np.float32)
        return counts / np.linalg.norm(counts)


def lot(item_id: str, title: str = "a lot", *, has_image: bool = True, **fields: Any) -> IndexedItem:
    """A lot embedded by its title alone."""
    item = Item(item_id=item_id, title=title, **fields)
    document = document_of(item, has_image=has_image, tower_id=TOWER_ID, release_id="test")
    return IndexedItem(item_id, item.version, document, WordEncoder().encode([title])[0])


def publish(store: IndexStore, lots: Iterable[IndexedItem], tower_id: str = TOWER_ID) -> VectorIndex:
    """Index lots and make them live."""
    entries = list(lots)
    index = store.create(tower_id, len(WORDS) + 1)
    report = index.upsert(entries)
    assert report.indexed == len(entries), report
    index.refresh()
    store.publish(index.name)
    return index
