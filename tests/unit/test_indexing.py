"""Parts and releases on their way into an index, on the embedded one."""

import gzip
import hashlib
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from lots import TOWER_ID, lot

from retrieval.errors import IndexMissing, IndexUnavailable, ReleaseError
from retrieval.index.base import Filter, Tombstone
from retrieval.index.faiss import FaissStore
from retrieval.indexing import ensure_index, index_part, index_release, probe_index, publish_release, read_part, recall_at_10
from retrieval.release import Manifest, Part
from retrieval.schema import bulk_lines

OTHER_TOWER = "f" * 12
TITLES = ("red vase", "gold watch", "silver ring", "blue lamp")


@pytest.fixture
def store(tmp_path):
    return FaissStore(tmp_path / "index")


def lots(count, start=0, **fields):
    return [lot(f"lot-{i}", f"{TITLES[i % 4]} {i}", **fields) for i in range(start, start + count)]


def of_other_tower(entry):
    return replace(entry, document={**entry.document, "tower_id": OTHER_TOWER})


def packed(entries) -> bytes:
    return gzip.compress("".join(line + "\n" for entry in entries for line in bulk_lines(entry)).encode())


def write_release(folder, *parts, tower_id=TOWER_ID, **counts):
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, entries in enumerate(parts):
        data = packed(entries)
        name = f"part-{number:05}.ndjson.gz"
        (folder / name).write_bytes(data)
        rows.append(Part(name, len(entries), len(data), hashlib.sha256(data).hexdigest()))
    embedded = sum(part.items for part in rows)
    manifest = Manifest("release", tower_id, 13, embedded, embedded, 0, 0, rows, **counts)
    manifest.save(folder)
    return manifest


def test_a_part_is_read_as_it_was_written_from_a_file_and_from_a_stream(tmp_path):
    entries = [*lots(3), Tombstone("gone", 4)]
    path = tmp_path / "part-00000.ndjson.gz"
    path.write_bytes(packed(entries))
    for source in (path, io.BytesIO(packed(entries))):
        assert [e.item_id for e in read_part(source)] == ["lot-0", "lot-1", "lot-2", "gone"]


@pytest.mark.parametrize("data", [b"no gzip", packed(lots(2))[:-20], b"", gzip.compress(b"\xff\n"), gzip.compress(b"{}\n")])
def test_a_damaged_part_is_refused(data):
    with pytest.raises(ReleaseError):
        list(read_part(io.BytesIO(data)))


def test_a_part_of_a_new_tower_makes_an_index_that_is_not_live(store):
    report = index_part(lots(5), store)
    assert report.indexed == report.total == 5
    assert store.find(TOWER_ID).count() == 5
    with pytest.raises(IndexMissing):
        store.live()


def test_an_index_that_is_made_before_its_parts_is_the_one_they_come_into(store):
    made = ensure_index(TOWER_ID, 13, store)
    assert ensure_index(TOWER_ID, 13, store).name == made.name
    index_part(lots(3), store)
    assert (store.find(TOWER_ID).name, made.count()) == (made.name, 3)


def test_parts_of_one_tower_come_into_one_index(store):
    index_part(lots(3), store)
    index_part(lots(3, start=3), store)
    assert store.find(TOWER_ID).count() == 6


def test_a_part_of_another_tower_never_touches_the_live_index(store, tmp_path):
    write_release(tmp_path / "r", lots(4))
    live = index_release(tmp_path / "r", store).index
    index_part([of_other_tower(e) for e in lots(2, start=10)], store)
    assert store.live().name == live
    assert store.live().count() == 4
    assert store.find(OTHER_TOWER).count() == 2


def test_a_part_of_two_towers_is_refused(store):
    with pytest.raises(ReleaseError, match=f"lot 'lot-1' is of tower {OTHER_TOWER}, the part began with tower {TOWER_ID}"):
        index_part([lots(1)[0], of_other_tower(lots(2)[1])], store)


def test_a_lot_that_names_no_tower_is_refused(store):
    entry = lots(1)[0]
    with pytest.raises(ReleaseError, match="does not say which tower"):
        index_part([replace(entry, document={"title": "x"})], store)


def test_tombstones_before_and_after_lots_are_carried_out(store):
    index_part(lots(3), store)
    report = index_part([Tombstone("lot-0", 1), lots(4)[3], Tombstone("lot-1", 1)], store)
    assert (report.indexed, report.deleted) == (1, 2)
    assert store.find(TOWER_ID).count() == 2


def test_a_part_of_tombstones_alone_goes_into_the_live_index(store, tmp_path):
    with pytest.raises(IndexMissing):
        index_part([Tombstone("lot-0", 1)], store)
    write_release(tmp_path / "r", lots(4))
    index_release(tmp_path / "r", store)
    assert index_part([Tombstone("lot-0", 1)], store).deleted == 1
    assert store.live().count() == 3


def test_an_empty_part_does_nothing(store):
    assert index_part([], store).total == 0


def test_a_replay_of_an_older_part_changes_nothing(store):
    morning = datetime(2026, 11, 21, tzinfo=UTC)
    old, new = lots(3, updated_at=morning), lots(3, updated_at=morning + timedelta(hours=1), current_price=9.0)
    index_part(new, store)
    report = index_part(old, store)
    assert (report.indexed, report.stale) == (0, 3)
    assert [c.document["current_price"] for c in store.find(TOWER_ID).fetch(["lot-0", "lot-1", "lot-2"])] == [9.0] * 3


def test_a_part_must_come_again_when_another_worker_made_a_newer_index_meanwhile(store):
    class TwoAtOnce(FaissStore):
        def create(self, tower_id, dimensions):
            mine = super().create(tower_id, dimensions)
            super().create(tower_id, dimensions)
            return mine

    racing = TwoAtOnce(store._root)
    with pytest.raises(IndexUnavailable, match="send the part again"):
        index_part(lots(3), racing)
    assert index_part(lots(3), racing).indexed == 3
    assert racing.find(TOWER_ID).count() == 3


def test_what_the_index_refuses_is_reported_and_logged(store, caplog):
    entry = lots(2)[1]
    report = index_part([lots(1)[0], replace(entry, vector=np.zeros(13, np.float32))], store)
    assert (report.indexed, [item_id for item_id, _ in report.rejected]) == (1, ["lot-1"])
    assert "refused 1 lots: lot-1: " in caplog.text


def test_a_release_is_indexed_checked_and_made_live(store, tmp_path):
    write_release(tmp_path / "r", lots(300), lots(100, start=300))
    seen = []
    report = index_release(tmp_path / "r", store, lambda done, total: seen.append((done, total)))
    assert (report.lots, report.upserts.indexed, report.published) == (400, 400, True)
    assert report.recall_at_10 >= 0.95
    assert store.live().name == report.index
    assert seen == sorted(seen)
    assert seen[-1] == (400, 400)


def test_indexing_a_release_again_keeps_the_live_index(store, tmp_path):
    write_release(tmp_path / "r", lots(20))
    first = index_release(tmp_path / "r", store)
    again = index_release(tmp_path / "r", store)
    assert (again.index, again.published, again.lots) == (first.index, False, 20)


def test_a_release_of_another_tower_takes_over_and_the_old_index_stays_for_rollback(store, tmp_path):
    write_release(tmp_path / "a", lots(5))
    before = index_release(tmp_path / "a", store)
    write_release(tmp_path / "b", [of_other_tower(e) for e in lots(5)], tower_id=OTHER_TOWER)
    after = index_release(tmp_path / "b", store)
    assert store.live().name == after.index != before.index
    store.publish(before.index)
    assert store.live().tower_id == TOWER_ID


@pytest.mark.parametrize(("held", "published"), [(4, False), (5, True)])
def test_a_release_leaves_the_alias_to_an_index_of_many_more_lots(store, tmp_path, held, published):
    index_release(write_release(tmp_path / "a", lots(10)) and tmp_path / "a", store)
    others = [of_other_tower(entry) for entry in lots(held)]
    manifest = write_release(tmp_path / "b", others, tower_id=OTHER_TOWER)
    index_part(others, store)
    if published:
        assert publish_release(manifest, store, least_share=0.5).published
    else:
        with pytest.raises(ReleaseError, match=r"has 4 lots, the live index .* has 10; below 50% .* the alias stays: rebuild"):
            publish_release(manifest, store, least_share=0.5)
    assert store.live().tower_id == (OTHER_TOWER if published else TOWER_ID)


def test_what_counts_is_the_release_and_not_what_its_index_held_before(store, tmp_path):
    """A night that ends after a rebuild must not swap back to the old tower, whose index is as large as the new one."""
    old = lots(10)
    index_release(write_release(tmp_path / "old", old) and tmp_path / "old", store)
    index_release(
        write_release(tmp_path / "new", [of_other_tower(e) for e in old], tower_id=OTHER_TOWER) and tmp_path / "new", store
    )
    night = write_release(tmp_path / "night", old[:1])
    with pytest.raises(ReleaseError, match=r"has 1 lots"):
        publish_release(night, store, least_share=0.5)
    assert store.live().tower_id == OTHER_TOWER


@pytest.mark.parametrize("lots_held", [1, 0])
def test_a_day_goes_live_by_itself_in_the_index_that_is_live_and_where_none_is(store, tmp_path, lots_held):
    if lots_held:
        index_release(write_release(tmp_path / "a", lots(10)) and tmp_path / "a", store)
    index_part(lots(1), store)
    report = publish_release(write_release(tmp_path / "night", lots(1)), store, least_share=0.5)
    assert report.published == (not lots_held)


def test_a_release_is_not_published_before_all_its_parts_are_indexed(store, tmp_path):
    manifest = write_release(tmp_path / "r", lots(3), lots(3, start=3))
    with pytest.raises(ReleaseError, match="has no lot in any index of tower"):
        publish_release(manifest, store)
    index_part(lots(3), store)
    with pytest.raises(ReleaseError, match="holds 3 of the 6 lots of release release"):
        publish_release(manifest, store)
    with pytest.raises(IndexMissing):
        store.live()
    index_part(lots(3, start=3), store)
    assert publish_release(manifest, store).published


def test_a_lot_that_comes_twice_in_a_release_is_counted_once(store, tmp_path):
    write_release(tmp_path / "r", lots(3), lots(1, updated_at=datetime(2026, 11, 21, tzinfo=UTC)), items_superseded=1)
    report = index_release(tmp_path / "r", store)
    assert (report.lots, report.upserts.indexed) == (3, 4)


def test_a_release_that_the_index_refuses_in_part_names_the_reason(store, tmp_path):
    write_release(tmp_path / "r", [lots(1)[0], replace(lots(2)[1], vector=np.ones(13, np.float32))])
    with pytest.raises(ReleaseError, match=r"holds 1 of the 2 lots .* it refused lot-1: .*length"):
        index_release(tmp_path / "r", store)


def test_a_damaged_or_missing_part_stops_a_release_before_anything_is_written(store, tmp_path):
    write_release(tmp_path / "r", lots(3), lots(3, start=3))
    (tmp_path / "r" / "part-00001.ndjson.gz").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"part-00001\.ndjson\.gz is damaged"):
        index_release(tmp_path / "r", store)
    assert store.find(TOWER_ID) is None


class Blunt:
    """An index whose approximate search finds the exact hits but for the last few."""

    def __init__(self, index, missing):
        self._index, self._missing = index, missing

    def __getattr__(self, name):
        return getattr(self._index, name)

    def semantic(self, vector, k, where, *, exact=False):
        found = self._index.semantic(vector, k, where, exact=True)
        return found if exact else found[: len(found) - self._missing]


def test_recall_is_the_share_of_the_exact_ten_that_is_found(store):
    entries = lots(40)
    index_part(entries, store)
    index = store.find(TOWER_ID)
    probes = [entry.vector for entry in entries[:8]]
    assert recall_at_10(Blunt(index, 0), probes) == 1.0
    assert recall_at_10(Blunt(index, 3), probes) == pytest.approx(0.7)
    assert recall_at_10(index, []) == 1.0


def test_recall_is_whole_where_every_auction_has_ended(store):
    index_part(lots(3, ends_at=datetime(2020, 1, 1, tzinfo=UTC)), store)
    assert recall_at_10(store.find(TOWER_ID), [lots(1)[0].vector]) == 1.0
    assert store.find(TOWER_ID).semantic(lots(1)[0].vector, 10, Filter()) == []


def test_an_index_that_finds_too_little_is_not_published(store, tmp_path, monkeypatch):
    manifest = write_release(tmp_path / "r", lots(40))
    index_part(lots(40), store)
    monkeypatch.setattr(store, "find", lambda tower_id: Blunt(FaissStore.find(store, tower_id), 1))
    with pytest.raises(ReleaseError, match=r"finds 0\.900 of the exact ten nearest .*, 0\.95 is the least: .*not published"):
        publish_release(manifest, store)
    with pytest.raises(IndexMissing):
        store.live()


def test_a_release_that_finds_itself_does_not_pass_for_an_index_that_lost_the_others(store, tmp_path, monkeypatch):
    index_release(write_release(tmp_path / "a", lots(40)) and tmp_path / "a", store)
    late = lots(1, start=100)

    class Forgetful(Blunt):
        def semantic(self, vector, k, where, *, exact=False):
            found = self._index.semantic(vector, k, where, exact=True)
            return found if exact or (vector == late[0].vector).all() else []

    find = store.find
    monkeypatch.setattr(store, "find", lambda tower_id: Forgetful(find(tower_id), 0))
    manifest = write_release(tmp_path / "b", late)
    index_part(late, store)
    with pytest.raises(ReleaseError, match=r"of lots drawn from all of it, .* `gavel index --rebuild`.*it is live already"):
        publish_release(manifest, store)


def test_equal_lots_are_one_probe(store):
    copies = [replace(lots(1)[0], item_id=f"copy-{i}") for i in range(60)]
    index_part([*copies, *lots(3)], store)
    index = store.find(TOWER_ID)
    asked = []

    class Watched(Blunt):
        def semantic(self, vector, k, where, *, exact=False):
            asked.append(vector.tobytes())
            return self._index.semantic(vector, k, where, exact=exact)

    assert probe_index(Watched(index, 0)) == 1.0
    assert len(asked) == 2 * len(set(asked)) == 2 * len({entry.vector.tobytes() for entry in lots(3)})


def test_a_release_without_lots_is_refused_with_the_way_out(store, tmp_path):
    Manifest("night", TOWER_ID, 13, 2, 0, 2, 0, []).save(tmp_path)
    with pytest.raises(ReleaseError, match=r"holds no lot: 2 of its 2 rows were rejected; see rejects\.ndjson .* `gavel embed`"):
        index_release(tmp_path, store)
    with pytest.raises(IndexMissing):
        store.live()
