"""Both adapters, each empty and of its own, under one name."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from index_lots import DIMENSIONS, TOWER_ID
from opensearch_stores import opensearch_store

from retrieval.index.base import IndexedItem, IndexStore, Tombstone, VectorIndex
from retrieval.index.faiss import FaissStore

ADAPTERS = ("faiss", "opensearch")


@pytest.fixture(params=ADAPTERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexStore]:
    """An empty store of each adapter in turn."""
    if request.param == "faiss":
        yield FaissStore(tmp_path / "index")
        return
    yield from opensearch_store(request.getfixturevalue("opensearch_url"))


@pytest.fixture
def index(store: IndexStore) -> VectorIndex:
    """An empty index."""
    return store.create(TOWER_ID, DIMENSIONS)


@pytest.fixture
def filled(index: VectorIndex) -> Callable[[Iterable[IndexedItem | Tombstone]], VectorIndex]:
    """Fills the index and makes everything visible."""

    def fill(entries: Iterable[IndexedItem | Tombstone]) -> VectorIndex:
        report = index.upsert(entries)
        assert report.rejected == ()
        index.refresh()
        return index

    return fill
