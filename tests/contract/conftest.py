"""Both adapters, each empty and of its own, under one name."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from index_lots import DIMENSIONS, TOWER_ID
from opensearch_stores import opensearch_store
from opensearchpy import OpenSearch

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.port import IndexStore, VectorIndex

ADAPTERS = ("faiss", "opensearch")


@pytest.fixture(params=ADAPTERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexStore]:
    """An empty store of each adapter in turn."""
    if request.param == "faiss":
        yield EmbeddedStore(tmp_path / "index")
        return
    yield from opensearch_store(request.getfixturevalue("opensearch_url"))


@pytest.fixture
def index(store: IndexStore) -> VectorIndex:
    """An empty index."""
    return store.create(TOWER_ID, DIMENSIONS)


@pytest.fixture
def filled(index: VectorIndex) -> Callable[[Iterable[IndexedItem | Deletion]], VectorIndex]:
    """Fills the index and makes everything visible."""

    def fill(entries: Iterable[IndexedItem | Deletion]) -> VectorIndex:
        report = index.upsert(entries)
        assert report.rejected == ()
        index.refresh()
        return index

    return fill


@pytest.fixture
def restart(request: pytest.FixtureRequest) -> Callable[[VectorIndex], None]:
    """Closes an index and opens it again, as the restart of its process or node does: what stood in memory alone is forgotten."""

    def reopen(index: VectorIndex) -> None:
        index.close()
        if not isinstance(index, EmbeddedIndex):
            indices = OpenSearch(request.getfixturevalue("opensearch_url"), timeout=60).indices
            indices.flush(index=index.name)
            indices.close(index=index.name)
            indices.open(index=index.name, params={"wait_for_active_shards": "1"})

    return reopen
