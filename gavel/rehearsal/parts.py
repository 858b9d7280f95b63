"""Embedding parts of any size, to measure how soon they are searchable."""

import gzip
from collections.abc import Sequence

import numpy as np

from retrieval.contracts.documents import IndexedItem, bulk_lines, document_of
from retrieval.contracts.items import Item
from retrieval.contracts.tower_card import TowerCard


def make_part(titles: Sequence[str], tower: TowerCard, release_id: str) -> bytes:
    """Return a gzip part of items with these titles and random vectors, as the embedding job writes parts."""
    rng = np.random.default_rng(len(titles))
    vectors = rng.standard_normal((len(titles), tower.dimensions), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lines: list[str] = []
    for number, (title, vector) in enumerate(zip(titles, vectors, strict=True)):
        item = Item(item_id=f"{release_id}-{number}", title=title)
        document = document_of(item, has_image=False, tower_id=tower.tower_id, release_id=release_id)
        lines += bulk_lines(IndexedItem(item.item_id, item.version, document, vector))
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), compresslevel=1)
