"""What every index store promises: creation, finding, publishing and dropping of indices."""

import pytest
from index_lots import DIMENSIONS, EVERYTHING, TOWER_ID, axis, lot

from retrieval.errors import GavelError, IndexMissing
from retrieval.index.port import IndexStore


def test_a_new_index_names_its_tower_and_dimensions_and_holds_nothing(store: IndexStore) -> None:
    index = store.create(TOWER_ID, DIMENSIONS)
    assert (index.tower_id, index.dimensions, index.count()) == (TOWER_ID, DIMENSIONS, 0)
    assert f"-{TOWER_ID}-" in index.name


def test_nothing_is_live_before_something_is_published(store: IndexStore) -> None:
    store.create(TOWER_ID, DIMENSIONS)
    with pytest.raises(IndexMissing, match="gavel index"):
        store.live()


def test_a_published_index_is_live(store: IndexStore) -> None:
    index = store.create(TOWER_ID, DIMENSIONS)
    index.upsert([lot("a")])
    index.refresh()
    store.publish(index.name)
    live = store.live()
    assert (live.name, live.tower_id, live.dimensions, live.count()) == (index.name, TOWER_ID, DIMENSIONS, 1)


def test_the_alias_moves_and_the_index_before_stays_for_rollback(store: IndexStore) -> None:
    first, second = (store.create(tower_id, DIMENSIONS) for tower_id in (TOWER_ID, "ba9876543210"))
    for index in (first, second):
        index.upsert([lot(f"in {index.tower_id}")])
        index.refresh()
    store.publish(first.name)
    store.publish(second.name)
    assert store.live().name == second.name
    assert [c.item_id for c in first.semantic(axis(0), 5, EVERYTHING)] == [f"in {TOWER_ID}"]
    store.publish(first.name)
    assert store.live().name == first.name


def test_find_prefers_the_live_index_of_a_tower_and_else_takes_the_newest(store: IndexStore) -> None:
    first, second = store.create(TOWER_ID, DIMENSIONS), store.create(TOWER_ID, DIMENSIONS)
    newest = store.find(TOWER_ID)
    assert newest is not None
    assert newest.name == second.name
    store.publish(first.name)
    live = store.find(TOWER_ID)
    assert live is not None
    assert live.name == first.name


def test_find_knows_only_whole_tower_ids(store: IndexStore) -> None:
    store.create(TOWER_ID, DIMENSIONS)
    assert store.find(TOWER_ID[:6]) is None
    assert store.find("ffffffffffff") is None


def test_a_dropped_index_is_gone_and_the_live_one_cannot_be_dropped(store: IndexStore) -> None:
    old, live = store.create(TOWER_ID, DIMENSIONS), store.create("ba9876543210", DIMENSIONS)
    store.publish(live.name)
    store.drop(old.name)
    assert store.find(TOWER_ID) is None
    with pytest.raises(GavelError, match="live"):
        store.drop(live.name)
    assert store.live().name == live.name


def test_an_unknown_index_cannot_be_published(store: IndexStore) -> None:
    live = store.create(TOWER_ID, DIMENSIONS)
    store.publish(live.name)
    with pytest.raises(IndexMissing):
        store.publish(live.name + "0")
    assert store.live().name == live.name
