"""Going back: which index was live before, what the checks before a swap refuse, and which old indices are deleted."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from lots import TOWER_ID, lot, publish
from small_releases import OTHER_TOWER, lots, of_other_tower, write_release

from retrieval.contracts.documents import Deletion
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.index.port import IndexStore, VectorIndex, summary_of
from retrieval.ingestion import drop_old_indices, index_release, publish_index, rebuild_index

PAST = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_index_before_is_remembered_and_goes_live_again(store: IndexStore) -> None:
    first, second = publish(store, lots(4)), publish(store, map(of_other_tower, lots(6)), OTHER_TOWER)
    assert store.names() == [second.name, first.name]
    assert store.previous() == first.name
    publish_index(store.open_index(first.name), store)
    assert (store.live().name, store.previous()) == (first.name, second.name)
    store.publish(first.name)  # what is live already changes nothing
    assert store.previous() == second.name
    store.drop(second.name)
    assert store.previous() is None


def test_before_a_second_index_nothing_was_live(store: IndexStore) -> None:
    publish(store, lots(2))
    assert store.previous() is None


def test_summaries_say_tower_lots_open_lots_bytes_and_which_is_live(store: IndexStore) -> None:
    old = publish(store, [*lots(3), lot("over", ends_at=PAST)])
    live = publish(store, map(of_other_tower, lots(5)), OTHER_TOWER)
    summaries = store.list_indices()
    one, other = summary_of(old.name, summaries), summary_of(live.name, summaries)
    assert (one.tower_id, one.items, one.open_items, one.is_live) == (TOWER_ID, 4, 3, False)
    assert (other.tower_id, other.items, other.open_items, other.is_live) == (OTHER_TOWER, 5, 5, True)
    assert min(one.bytes, other.bytes) > 0
    with pytest.raises(InvalidInput, match=rf"there is no index '{old.name[:-3]}\*'; there are: "):
        summary_of(f"{old.name[:-3]}*", summaries)


def test_the_newest_row_is_known(store: IndexStore) -> None:
    moment = datetime(2026, 5, 1, tzinfo=UTC)
    index = publish(store, [lot("a"), lot("b", updated_at=moment), lot("c", updated_at=moment.replace(month=4))])
    assert index.newest_update() == int(moment.timestamp() * 1000)
    assert publish(store, lots(2)).newest_update() is None


def test_a_failed_check_leaves_the_live_index_and_says_why_unless_it_is_forced(store: IndexStore, tmp_path: Path) -> None:
    live = publish(store, lots(8))
    write_release(tmp_path / "next", [of_other_tower(entry) for entry in lots(8)], tower_id=OTHER_TOWER)

    def worse(new: VectorIndex, present: VectorIndex) -> str:
        assert present.name == live.name
        return f"{new.tower_id} is worse"

    with pytest.raises(ReleaseError, match=f"{OTHER_TOWER} is worse; the alias stays. Add --force"):
        index_release(tmp_path / "next", store, check=worse)
    with pytest.raises(ReleaseError, match="is worse"):
        rebuild_index([tmp_path / "next"], store, check=worse)
    (waiting,) = [name for name in store.names() if name != live.name]
    with pytest.raises(ReleaseError, match="is worse"):
        publish_index(store.open_index(waiting), store, check=worse)
    assert store.live().name == live.name
    assert index_release(tmp_path / "next", store, check=worse, force=True).published
    assert store.previous() == live.name


def test_an_index_with_low_recall_goes_live_by_force_alone(store: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    live, other = publish(store, lots(4)), store.create(OTHER_TOWER, 13)
    other.upsert(of_other_tower(entry) for entry in lots(4))
    other.refresh()
    monkeypatch.setattr("retrieval.ingestion.recall_at_10", lambda index, probes: 0.5)
    with pytest.raises(ReleaseError, match=r"finds 0\.500 of the exact ten"):
        publish_index(other, store)
    assert store.live().name == live.name
    publish_index(other, store, force=True)
    assert store.live().name == other.name


def test_without_a_bad_release_its_values_lots_and_deletions_are_undone(store: IndexStore, tmp_path: Path) -> None:
    write_release(tmp_path / "good", lots(6))
    bad = [lot("lot-0", "gold watch", updated_at=PAST), lot("new", "red vase"), Deletion("lot-1", 5)]
    write_release(tmp_path / "bad", bad)
    index_release(tmp_path / "good", store)
    index_release(tmp_path / "bad", store)
    store.live().upsert([Deletion("lot-2", 7)])  # by the API, and so it stays
    store.live().refresh()
    assert store.live().fetch(["lot-0"])[0].document["title"] == "gold watch"
    before = store.live().name
    report = rebuild_index([tmp_path / "good"], store, undo=[tmp_path / "bad"])
    live = store.live()
    assert (live.name, store.previous()) == (report.index, before)
    titles = {item.item_id: item.document["title"] for item in live.fetch(["lot-0", "lot-1", "lot-2", "new"])}
    assert titles == {"lot-0": "red vase 0", "lot-1": "gold watch 1"}


def test_old_indices_are_deleted_but_never_the_one_before_nor_newer_ones(store: IndexStore) -> None:
    a, b, c, d = (publish(store, lots(2)).name for _ in range(4))
    filling = store.create(OTHER_TOWER, 13).name
    assert drop_old_indices(store, 3) == []
    assert drop_old_indices(store, 2) == [a]
    publish_index(store.open_index(b), store)
    publish_index(store.open_index(d), store)  # now b was live before
    assert drop_old_indices(store, 1) == [c]
    assert store.names() == [filling, d, b]
