"""Parts and releases on their way into an index, on the embedded one."""

import gzip
import hashlib
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from lots import TOWER_ID
from small_releases import OTHER_TOWER, lots, of_other_tower, packed, write_release

from retrieval.contracts.documents import Deletion, bulk_lines
from retrieval.contracts.items import latest_version
from retrieval.contracts.parts import read_part
from retrieval.contracts.release import INDEX_REJECTS_FILE, IndexedPart, Manifest, Part
from retrieval.errors import IndexMissing, IndexUnavailable, ReleaseError
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.ingestion import ensure_index, index_part, index_release, ingest_part, probe_index, publish_release, recall_at_10


@pytest.fixture
def store(tmp_path):
    return EmbeddedStore(tmp_path / "index")


def take_in(folder, store, manifest, *numbers):
    """Index parts of a release, all if no number is given; their receipts."""
    parts = [manifest.parts[n] for n in numbers] if numbers else manifest.parts
    return [ingest_part(part.name, folder / part.name, store) for part in parts]


def write_lines(folder, *lines, items, name="part-00000.ndjson.gz"):
    """A release of one part of these lines, whatever they hold; its manifest names the bytes."""
    folder.mkdir(parents=True)
    data = gzip.compress(b"".join(line if isinstance(line, bytes) else line.encode() for line in lines), mtime=0)
    (folder / name).write_bytes(data)
    part = Part(name, items, len(data), hashlib.sha256(data).hexdigest())
    manifest = Manifest("release", TOWER_ID, 13, items, items, 0, 0, [part])
    manifest.save(folder)
    return manifest


def lines_of(*entries):
    return "".join(line + "\n" for entry in entries for line in bulk_lines(entry))


def test_a_part_is_read_as_it_was_written_from_a_file_and_from_a_stream(tmp_path):
    entries = [*lots(3), Deletion("gone", 4)]
    path = tmp_path / "part-00000.ndjson.gz"
    path.write_bytes(packed(entries))
    for source in (path, io.BytesIO(packed(entries))):
        assert [e.item_id for e in read_part(source)] == ["lot-0", "lot-1", "lot-2", "gone"]


@pytest.mark.parametrize(
    "data",
    [b"no gzip", packed(lots(2))[:-20], b"", gzip.compress(b"\xff\n", mtime=0), gzip.compress(b"{}\n", mtime=0)],
    ids=["no gzip", "cut", "empty", "no text", "no action"],
)
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
    report = index_part([Deletion("lot-0", 1), lots(4)[3], Deletion("lot-1", 1)], store)
    assert (report.indexed, report.deleted) == (1, 2)
    assert store.find(TOWER_ID).count() == 2


def test_a_part_of_tombstones_alone_goes_into_the_live_index(store, tmp_path):
    with pytest.raises(IndexMissing):
        index_part([Deletion("lot-0", 1)], store)
    write_release(tmp_path / "r", lots(4))
    index_release(tmp_path / "r", store)
    assert index_part([Deletion("lot-0", 1)], store).deleted == 1
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
    class TwoAtOnce(EmbeddedStore):
        def create(self, tower_id, dimensions):
            mine = super().create(tower_id, dimensions)
            super().create(tower_id, dimensions)
            return mine

    racing = TwoAtOnce(store._root)
    with pytest.raises(IndexUnavailable, match="send the part again"):
        index_part(lots(3), racing)
    assert index_part(lots(3), racing).indexed == 3
    assert racing.find(TOWER_ID).count() == 3


def test_what_the_index_refuses_is_reported_and_logged(store, tmp_path, caplog):
    manifest = write_release(tmp_path / "r", [lots(1)[0], replace(lots(2)[1], vector=np.zeros(13, np.float32))])
    (receipt,) = take_in(tmp_path / "r", store, manifest)
    assert (receipt.indexed, [item_id for item_id, _ in receipt.rejected]) == (1, ["lot-1"])
    assert "part-00000.ndjson.gz: 1 items refused: 'lot-1': " in caplog.text


def test_the_receipt_of_a_part_says_what_became_of_each_item(store, tmp_path):
    later = datetime(2026, 11, 22, tzinfo=UTC)
    index_part(lots(2, updated_at=later), store)
    entries = [*lots(4), Deletion("lot-3", latest_version()), replace(lots(5)[4], vector=np.zeros(13, np.float32))]
    manifest = write_release(tmp_path / "r", entries)
    (receipt,) = take_in(tmp_path / "r", store, manifest)
    assert (receipt.part, receipt.sha256) == (manifest.parts[0].name, manifest.parts[0].sha256)
    assert (receipt.index, receipt.tower_id) == (store.find(TOWER_ID).name, TOWER_ID)
    assert receipt.counts == {"indexed": 2, "stale": 2, "refused": 1, "withdrawn": 1}
    assert (receipt.stale_ids, receipt.deleted_ids) == (("lot-0", "lot-1"), ("lot-3",))
    assert [item_id for item_id, _ in receipt.rejected] == ["lot-4"]
    back = IndexedPart.from_json(receipt.to_json())
    assert back.fault(manifest.parts[0], receipt.index) is None
    assert back.counts == receipt.counts


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"counts": {}, "colour": 1}', '{"counts": {}, "rejected": [3]}'])
def test_what_is_no_receipt_is_refused(text):
    with pytest.raises(ReleaseError, match=r"not the receipt of a part: "):
        IndexedPart.from_json(text)


BAD_LINES = {
    "no JSON": '{oops}\n{"embedding": [1.0]}\n',
    "bytes that are no text": b'{"index": {"_id": "x", "version": 1}}\n\xff\xfe\n',
    "a number that is none": '{"index": {"_id": "x", "version": 1}}\n{"embedding": [NaN], "tower_id": "t"}\n',
    "half a character": '{"index": {"_id": "\\ud83d", "version": 1}}\n{"embedding": [1.0], "tower_id": "a1b2c3d4e5f6"}\n',
    "no document": '{"index": {"_id": "x", "version": 1}}\n',
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_bad_line_costs_its_own_item_alone_and_is_told(store, tmp_path, bad, at):
    pieces = [lines_of(*lots(8)), lines_of(*lots(8, start=8))]
    pieces.insert(at, bad)
    write_lines(tmp_path / "r", *pieces, items=17)
    report = index_release(tmp_path / "r", store)
    assert (report.lots, report.published, report.upserts.counts["refused"]) == (16, True, 1)
    (told,) = [json.loads(line) for line in (tmp_path / "r" / INDEX_REJECTS_FILE).read_text().splitlines()]
    assert told["part"] == "part-00000.ndjson.gz"
    assert told["reason"]


def test_the_rejects_of_a_release_go_once_it_has_none(store, tmp_path):
    write_lines(tmp_path / "r", lines_of(*lots(9)), "{oops\n", items=10)
    index_release(tmp_path / "r", store)
    assert (tmp_path / "r" / INDEX_REJECTS_FILE).exists()
    write_release(tmp_path / "r", lots(10))
    index_release(tmp_path / "r", store)
    assert not (tmp_path / "r" / INDEX_REJECTS_FILE).exists()


def test_one_odd_vector_at_the_head_does_not_decide_the_length_of_an_index(store):
    odd = replace(lots(1)[0], vector=np.ones(1, np.float32))
    report = index_part([odd, *lots(6)[1:]], store)
    assert (store.find(TOWER_ID).dimensions, report.indexed) == (13, 5)
    assert [item_id for item_id, _ in report.rejected] == ["lot-0"]


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
    receipts = take_in(tmp_path / "b", store, manifest)
    if published:
        assert publish_release(manifest, store, receipts).published
    else:
        with pytest.raises(ReleaseError, match=r"has 4 lots, the live index .* has 10; below 50% .* the alias stays: rebuild"):
            publish_release(manifest, store, receipts)
    assert store.live().tower_id == (OTHER_TOWER if published else TOWER_ID)


def test_one_lot_of_another_tower_does_not_take_a_shop_down_unless_it_is_forced(store, tmp_path):
    index_release(write_release(tmp_path / "shop", lots(40)) and tmp_path / "shop", store)
    write_release(tmp_path / "one", [of_other_tower(lots(1)[0])], tower_id=OTHER_TOWER)
    with pytest.raises(ReleaseError, match=r"has 1 lots, the live index .* has 40; .*`gavel index --force`"):
        index_release(tmp_path / "one", store)
    assert (store.live().tower_id, store.live().count()) == (TOWER_ID, 40)
    assert store.find(OTHER_TOWER) is None, "no index stays that would never go live"
    report = index_release(tmp_path / "one", store, force=True)
    assert (report.published, store.live().tower_id, store.live().count()) == (True, OTHER_TOWER, 1)


def test_what_counts_is_the_release_and_not_what_its_index_held_before(store, tmp_path):
    """A night that ends after a rebuild must not swap back to the old tower, whose index is as large as the new one."""
    old = lots(10)
    index_release(write_release(tmp_path / "old", old) and tmp_path / "old", store)
    index_release(
        write_release(tmp_path / "new", [of_other_tower(e) for e in old], tower_id=OTHER_TOWER) and tmp_path / "new", store
    )
    night = write_release(tmp_path / "night", old[:1])
    with pytest.raises(ReleaseError, match=r"has 1 lots"):
        publish_release(night, store, take_in(tmp_path / "night", store, night))
    assert store.live().tower_id == OTHER_TOWER


@pytest.mark.parametrize("lots_held", [1, 0])
def test_a_day_goes_live_by_itself_in_the_index_that_is_live_and_where_none_is(store, tmp_path, lots_held):
    if lots_held:
        index_release(write_release(tmp_path / "a", lots(10)) and tmp_path / "a", store)
    night = write_release(tmp_path / "night", lots(1))
    report = publish_release(night, store, take_in(tmp_path / "night", store, night))
    assert report.published == (not lots_held)


@pytest.mark.parametrize("live", [False, True])
def test_a_release_is_not_done_before_all_its_parts_are_indexed(store, tmp_path, live):
    """Enough lots of other releases prove nothing, in a live index or another one."""
    if live:
        index_release(write_release(tmp_path / "before", lots(20, start=50)) and tmp_path / "before", store)
    else:
        index_part(lots(20, start=50), store)
    manifest = write_release(tmp_path / "r", lots(3), lots(3, start=3))
    with pytest.raises(
        ReleaseError, match=r"does not hold 2 of the 2 parts of release release: part-00000\S+ is not indexed yet; part"
    ):
        publish_release(manifest, store, [])
    first = take_in(tmp_path / "r", store, manifest, 0)
    with pytest.raises(ReleaseError, match=r"1 of the 2 parts of release release: part-00001\S+ is not indexed yet; index these"):
        publish_release(manifest, store, first)
    if not live:
        with pytest.raises(IndexMissing):
            store.live()
    assert publish_release(manifest, store, first + take_in(tmp_path / "r", store, manifest, 1)).lots == 26


def test_a_release_whose_tower_has_no_index_says_so(store, tmp_path):
    with pytest.raises(ReleaseError, match="has no lot in any index of tower"):
        publish_release(write_release(tmp_path / "r", lots(3)), store, [])


def test_a_part_that_was_cut_to_a_shorter_whole_one_is_not_the_part_of_the_manifest(store, tmp_path):
    manifest = write_release(tmp_path / "r", lots(20))
    (tmp_path / "r" / "part-00000.ndjson.gz").write_bytes(packed(lots(10)))
    receipts = take_in(tmp_path / "r", store, manifest)
    assert receipts[0].indexed == 10
    with pytest.raises(ReleaseError, match=r"part-00000\S+ was read with other bytes than its manifest names"):
        publish_release(manifest, store, receipts)


def test_a_part_that_went_into_another_index_does_not_count(store, tmp_path):
    manifest = write_release(tmp_path / "r", lots(20))
    receipts = take_in(tmp_path / "r", store, manifest)
    store.create(TOWER_ID, 13)  # an index of the same tower, which takes over
    with pytest.raises(ReleaseError, match=rf"part-00000\S+ was indexed into {receipts[0].index}"):
        publish_release(manifest, store, receipts)
    with pytest.raises(IndexMissing):
        store.live()


def test_a_part_with_another_number_of_items_than_its_manifest_says_is_not_whole(store, tmp_path):
    for said in (9, 11):
        folder = tmp_path / str(said)
        manifest = write_lines(folder, lines_of(*lots(10)), items=said)
        with pytest.raises(ReleaseError, match=rf"has 10 items, its manifest says {said}"):
            publish_release(manifest, store, take_in(folder, store, manifest))


@pytest.mark.parametrize(
    ("items", "refused", "done"), [(20, 1, True), (20, 3, True), (20, 4, False), (2, 2, False), (600, 6, True), (600, 7, False)]
)
def test_a_release_of_which_too_much_was_refused_is_not_done_unless_it_is_forced(store, tmp_path, items, refused, done):
    bad = [replace(entry, vector=np.zeros(13, np.float32)) for entry in lots(refused)]
    write_release(tmp_path / "r", [*bad, *lots(items - refused, start=refused)])
    if not done:
        with pytest.raises(ReleaseError, match=rf"{refused} of the {items} items .* were refused: 'lot-0': .*{INDEX_REJECTS_FILE}"):
            index_release(tmp_path / "r", store)
        with pytest.raises(IndexMissing):
            store.live()
    assert index_release(tmp_path / "r", store, force=not done).lots == items - refused
    assert len((tmp_path / "r" / INDEX_REJECTS_FILE).read_text().splitlines()) == refused


def test_a_lot_that_comes_twice_in_a_release_is_counted_once(store, tmp_path):
    write_release(tmp_path / "r", lots(3), lots(1, updated_at=datetime(2026, 11, 21, tzinfo=UTC)), items_superseded=1)
    report = index_release(tmp_path / "r", store)
    assert (report.lots, report.upserts.indexed) == (3, 4)


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

    def semantic(self, vector, k, filters, *, exact=False):
        found = self._index.semantic(vector, k, filters, exact=True)
        return found if exact else found[: len(found) - self._missing]


class Elsewhere(Blunt):
    """An index whose approximate search finds other lots than the exact one, at distances that are `apart` longer."""

    def semantic(self, vector, k, filters, *, exact=False):
        found = self._index.semantic(vector, k, filters, exact=True)
        return found if exact else [replace(hit, item_id=f"{hit.item_id}-copy", score=hit.score - self._missing) for hit in found]


def test_recall_compares_distances_so_that_equal_vectors_fail_nobody(store):
    entries = lots(40)
    index_part(entries, store)
    probes = [entry.vector for entry in entries[:8]]
    assert recall_at_10(Elsewhere(store.find(TOWER_ID), 1e-4), probes) == 1.0
    assert recall_at_10(Elsewhere(store.find(TOWER_ID), 0.5), probes) < 0.5


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
    receipts = take_in(tmp_path / "r", store, manifest)
    monkeypatch.setattr(store, "find", lambda tower_id: Blunt(EmbeddedStore.find(store, tower_id), 1))
    with pytest.raises(ReleaseError, match=r"finds 0\.900 of the exact ten nearest .*, 0\.95 is the least: .*not published"):
        publish_release(manifest, store, receipts)
    with pytest.raises(IndexMissing):
        store.live()


def test_a_release_that_finds_itself_does_not_pass_for_an_index_that_lost_the_others(store, tmp_path, monkeypatch):
    index_release(write_release(tmp_path / "a", lots(40)) and tmp_path / "a", store)
    late = lots(1, start=100)

    class Forgetful(Blunt):
        def semantic(self, vector, k, filters, *, exact=False):
            found = self._index.semantic(vector, k, filters, exact=True)
            return found if exact or (vector == late[0].vector).all() else []

    find = store.find
    monkeypatch.setattr(store, "find", lambda tower_id: Forgetful(find(tower_id), 0))
    manifest = write_release(tmp_path / "b", late)
    receipts = take_in(tmp_path / "b", store, manifest)
    with pytest.raises(ReleaseError, match=r"of lots drawn from all of it, .* `gavel index --rebuild`.*it is live already"):
        publish_release(manifest, store, receipts)


def test_equal_lots_are_one_probe(store):
    copies = [replace(lots(1)[0], item_id=f"copy-{i}") for i in range(60)]
    index_part([*copies, *lots(3)], store)
    index = store.find(TOWER_ID)
    asked = []

    class Watched(Blunt):
        def semantic(self, vector, k, filters, *, exact=False):
            asked.append(vector.tobytes())
            return self._index.semantic(vector, k, filters, exact=exact)

    assert probe_index(Watched(index, 0)) == 1.0
    assert len(asked) == 2 * len(set(asked)) == 2 * len({entry.vector.tobytes() for entry in lots(3)})


def test_a_release_without_lots_is_refused_with_the_way_out(store, tmp_path):
    Manifest("night", TOWER_ID, 13, 2, 0, 2, 0, []).save(tmp_path)
    with pytest.raises(ReleaseError, match=r"holds no lot: 2 of its 2 rows were rejected; see rejects\.ndjson .* `gavel embed`"):
        index_release(tmp_path, store)
    with pytest.raises(IndexMissing):
        store.live()
