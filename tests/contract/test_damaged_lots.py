"""A lot that cannot be read is left out, logged and counted; the others are found, and a rebuild brings it back."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from index_lots import DIMENSIONS, TOWER_ID
from judged_lots import ENDED, LISTED, judged_items, write_release
from lots import TOWER_ID as RELEASE_TOWER_ID
from lots import WordEncoder

from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.port import IndexStore, VectorIndex
from retrieval.ingestion import index_release, rebuild_index

WORDS = WordEncoder()
OPEN = Filter(now=LISTED)


def drop_vector(store: IndexStore, index: VectorIndex, item_id: str, request: pytest.FixtureRequest) -> None:
    """Damage what an index stores of a lot, behind its back."""
    if isinstance(store, EmbeddedStore):
        path = request.getfixturevalue("tmp_path") / "index" / index.name / "lots.sqlite"
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE lots SET vector = x'0000' WHERE item_id = ?", (item_id,))
        return
    from opensearchpy import OpenSearch

    client = OpenSearch(request.getfixturevalue("opensearch_url"))
    document = client.get(index=index.name, id=item_id)["_source"]
    client.index(index=index.name, id=item_id, body={**document, "embedding": None}, params={"refresh": "true"})
    client.close()


def test_a_lot_without_a_readable_vector_is_left_out_and_the_others_are_found(
    store: IndexStore, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = write_release(tmp_path / "release")
    index_release(release, store)
    drop_vector(store, store.live(), "lot-0", request)
    reopened = EmbeddedStore(tmp_path / "index") if isinstance(store, EmbeddedStore) else store
    index = reopened.live()
    others = {item.item_id for item in judged_items()} - {"lot-0", ENDED}
    for _ in range(2):
        assert {hit.item_id for hit in index.keyword("vase ring watch lamp", 50, OPEN)} == others
        assert {hit.item_id for hit in index.hybrid("red vase", WORDS.encode(["red vase"])[0], 50, OPEN)} == others
        assert [hit.item_id for hit in index.fetch(["lot-0", "lot-1"])] == ["lot-1"]
    assert index.damaged() == 1
    assert sum("left out" in record.getMessage() for record in caplog.records) == 1
    rebuilt = rebuild_index([release], reopened)
    assert (reopened.live().name, rebuilt.lots) == (rebuilt.index, len(others) + 2)
    assert [hit.item_id for hit in reopened.live().fetch(["lot-0"])] == ["lot-0"]
    assert reopened.live().damaged() == 0


def test_the_tower_of_the_live_index_is_told(store: IndexStore, tmp_path: Path) -> None:
    assert store.live_tower() is None
    store.create(TOWER_ID, DIMENSIONS)
    assert store.live_tower() is None
    index_release(write_release(tmp_path / "release"), store)
    assert store.live_tower() == RELEASE_TOWER_ID


def test_a_rebuild_that_cannot_be_finished_leaves_the_live_index(store: IndexStore, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    index_release(release, store)
    before = store.live().name

    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild_index([release], store, give_up)
    found = store.find(RELEASE_TOWER_ID)
    assert found is not None
    assert (found.name, store.live().name) == (before, before)
