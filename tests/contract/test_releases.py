"""What both indices answer for a release: receipts item by item, and no alias or end before every part is in."""

import gzip
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from index_lots import DIMENSIONS, TOWER_ID, axis, lot

from retrieval.contracts.documents import Deletion, IndexedItem, bulk_lines
from retrieval.contracts.items import latest_version
from retrieval.contracts.release import INDEX_REJECTS_FILE, IndexedPart, Manifest, Part
from retrieval.errors import IndexMissing, ReleaseError
from retrieval.index.port import IndexStore
from retrieval.ingestion import index_release, ingest_part, publish_release, rebuild_index

OTHER_TOWER = "f" * 12
Entries = Sequence[IndexedItem | Deletion]


def packed(entries: Entries) -> bytes:
    """The bytes of a part."""
    return gzip.compress("".join(f"{line}\n" for entry in entries for line in bulk_lines(entry)).encode(), mtime=0)


def release_of(*parts: Entries, tower_id: str = TOWER_ID) -> Manifest:
    """The manifest of these parts."""
    named = [
        Part(f"part-{n:05}.ndjson.gz", len(part), len(packed(part)), hashlib.sha256(packed(part)).hexdigest())
        for n, part in enumerate(parts)
    ]
    items = sum(map(len, parts))
    return Manifest("night", tower_id, DIMENSIONS, items, items, 0, 0, named)


def take_in(store: IndexStore, number: int, entries: Entries, more: bytes = b"") -> IndexedPart:
    """Index a part, with what else stands in it."""
    return ingest_part(f"part-{number:05}.ndjson.gz", io.BytesIO(packed(entries) + more), store)


def lots(count: int, start: int = 0) -> list[IndexedItem]:
    """Lots along different axes."""
    return [lot(f"lot-{i}", axis(i, tilt=i / 100)) for i in range(start, start + count)]


def test_a_receipt_says_which_items_were_stale_refused_and_withdrawn(store: IndexStore) -> None:
    index = store.create(TOWER_ID, DIMENSIONS)
    index.upsert([lot("lot-0", version=9), lot("lot-1", version=9)])
    refused = replace(lot("lot-9"), vector=np.zeros(DIMENSIONS, np.float32))
    receipt = take_in(store, 0, [*lots(4), refused, Deletion("lot-3", 2)], gzip.compress(b'{oops\n{"item_id": "lot-8"}\n'))
    assert (receipt.indexed, receipt.stale_ids, receipt.deleted_ids) == (2, ("lot-0", "lot-1"), ("lot-3",))
    assert [item_id for item_id, _ in receipt.rejected] == ["lot-8", "lot-9"]
    assert (receipt.index, receipt.tower_id) == (index.name, TOWER_ID)


@pytest.mark.parametrize("live", [True, False])
def test_lots_of_other_releases_do_not_stand_for_a_part(store: IndexStore, live: bool) -> None:
    index = store.create(TOWER_ID, DIMENSIONS)
    index.upsert(lots(60, start=100))
    index.refresh()
    if live:
        store.publish(index.name)
    parts = [lots(20), lots(10, start=20)]
    manifest = release_of(*parts)
    cut = [take_in(store, 0, parts[0]), take_in(store, 1, parts[1][:5])]
    for receipts, fault in (
        ([], "part-00000.ndjson.gz is not indexed yet"),
        (cut, "part-00001.ndjson.gz was read with other bytes"),
    ):
        with pytest.raises(ReleaseError, match=fault):
            publish_release(manifest, store, receipts)
    if not live:
        with pytest.raises(IndexMissing):
            store.live()
    report = publish_release(manifest, store, [cut[0], take_in(store, 1, parts[1])])
    assert (report.index, report.published, report.upserts.indexed) == (index.name, not live, 30)
    assert len(store.live().fetch([f"lot-{i}" for i in range(30)])) == 30


def test_one_lot_of_another_tower_does_not_take_the_alias_unless_it_is_forced(store: IndexStore) -> None:
    index = store.create(TOWER_ID, DIMENSIONS)
    index.upsert(lots(20))
    index.refresh()
    store.publish(index.name)
    one = [replace(lots(1)[0], document={**lots(1)[0].document, "tower_id": OTHER_TOWER})]
    manifest, receipts = release_of(one, tower_id=OTHER_TOWER), [take_in(store, 0, one)]
    with pytest.raises(ReleaseError, match=r"has 1 lots, the live index .* has 20; .*`gavel index --force`"):
        publish_release(manifest, store, receipts)
    assert store.live().tower_id == TOWER_ID
    assert publish_release(manifest, store, receipts, force=True).published
    assert store.live().tower_id == OTHER_TOWER


def written(folder: Path, *parts: Entries, tower_id: str = TOWER_ID) -> Path:
    """A release on the disk."""
    folder.mkdir()
    manifest = release_of(*parts, tower_id=tower_id)
    for part, entries in zip(manifest.parts, parts, strict=True):
        (folder / part.name).write_bytes(packed(entries))
    manifest.save(folder)
    return folder


def of_other_tower(entries: Sequence[IndexedItem]) -> list[IndexedItem]:
    """The same lots, embedded with the other tower."""
    return [replace(entry, document={**entry.document, "tower_id": OTHER_TOWER}) for entry in entries]


def test_a_withdrawn_lot_stays_withdrawn_when_another_tower_takes_the_alias_and_when_the_first_takes_it_back(
    store: IndexStore, tmp_path: Path
) -> None:
    first = written(tmp_path / "first", lots(20))
    other = written(tmp_path / "other", of_other_tower(lots(20)), tower_id=OTHER_TOWER)
    index_release(first, store)
    store.live().upsert([Deletion("lot-5", 2)])
    store.live().refresh()
    report = index_release(other, store)
    assert (report.published, report.lots, report.upserts.deleted_ids) == (True, 19, ("lot-5",))
    store.live().upsert([Deletion("lot-7", 2)])
    store.live().refresh()
    assert (index_release(first, store).lots, store.live().tower_id) == (18, TOWER_ID)
    assert store.live().fetch(["lot-5", "lot-7"]) == []


def test_lots_that_have_ended_or_are_withdrawn_do_not_take_the_alias_unless_that_is_forced(
    store: IndexStore, tmp_path: Path
) -> None:
    live = index_release(written(tmp_path / "open", lots(20)), store).index
    ended = [lot(f"lot-{i}", axis(i), version=2, ends_at=datetime(2020, 1, 1, tzinfo=UTC)) for i in range(20)]
    over = written(tmp_path / "over", of_other_tower(ended), tower_id=OTHER_TOWER)
    with pytest.raises(ReleaseError, match=r"would hold 0 open lots, the live one has 20; .* --force"):
        index_release(over, store)
    with pytest.raises(ReleaseError, match=r"would hold 0 open lots"):
        rebuild_index([written(tmp_path / "again", ended)], store)
    gone = store.create("e" * 12, DIMENSIONS)
    gone.upsert([Deletion(f"lot-{i}", 9) for i in range(20)])
    late = [replace(entry, document={**entry.document, "tower_id": "e" * 12}) for entry in lots(20)]
    with pytest.raises(ReleaseError, match=r"would hold 0 open lots"):
        index_release(written(tmp_path / "late", late, tower_id="e" * 12), store)
    assert store.live().name == live
    assert index_release(over, store, force=True).published


def test_an_index_without_a_lot_does_not_go_live(store: IndexStore) -> None:
    store.create(TOWER_ID, DIMENSIONS)
    with pytest.raises(ReleaseError, match=r"would hold 0 open lots, the live one has 0"):
        publish_release(release_of(), store, [])
    with pytest.raises(IndexMissing):
        store.live()


def test_a_withdrawn_lot_stays_withdrawn_when_the_index_is_built_again(store: IndexStore, tmp_path: Path) -> None:
    night = written(tmp_path / "night", [lot(f"lot-{i}", axis(i), version=5) for i in range(8)])
    index_release(night, store)
    store.live().upsert([Deletion("lot-1", 6), Deletion("lot-2", 6)])
    store.live().upsert([lot("lot-2", axis(2), version=7)])
    later = written(tmp_path / "later", [lot("lot-2", axis(2), version=7)])
    store.live().refresh()
    assert list(store.live().deletions()) == [Deletion("lot-1", 6)]
    for folders in ([night, later], [later, night]):  # the second is built from what the first remembers
        report = rebuild_index(folders, store)
        assert (report.lots, report.upserts.deleted_ids) == (7, ("lot-1",))
        assert [found.item_id for found in store.live().fetch(["lot-0", "lot-1", "lot-2"])] == ["lot-0", "lot-2"]


def test_rows_that_were_written_over_newer_ones_are_so_again_when_the_index_is_built_again(
    store: IndexStore, tmp_path: Path
) -> None:
    wrong = written(tmp_path / "wrong", [lot(f"lot-{i}", axis(i), version=9, title="wrong") for i in range(4)])
    right = written(tmp_path / "right", [lot("lot-1", axis(1), version=3, title="right")])
    for overwrite, title in ((False, "wrong"), (True, "right")):
        rebuild_index([wrong, right], store, overwrite=overwrite)
        assert [found.document["title"] for found in store.live().fetch(["lot-1"])] == [title]


FUTURE = latest_version() + 86_400_000


def test_releases_that_are_refused_leave_the_live_index_unless_it_is_forced(store: IndexStore, tmp_path: Path) -> None:
    sound = written(tmp_path / "sound", lots(20))
    live = index_release(sound, store).index
    frozen = written(tmp_path / "frozen", [replace(entry, version=FUTURE) for entry in lots(30)])
    with pytest.raises(ReleaseError, match=r"would hold 0 open lots, the live one has 20; .* 30 items were refused: .* --force"):
        rebuild_index([frozen], store)
    with pytest.raises(ReleaseError, match=r"10 of the 50 items of the releases were refused: .* `gavel index --rebuild --force`"):
        rebuild_index([sound, frozen], store)  # of the others sound rows are there
    assert (store.live().name, store.live().count()) == (live, 20)
    assert len((frozen / INDEX_REJECTS_FILE).read_text().splitlines()) == 30
    assert rebuild_index([sound, frozen], store, force=True).lots == 20
    assert rebuild_index([sound, written(tmp_path / "again", lots(10, start=20)), frozen], store).lots == 30


def test_an_index_is_not_built_again_from_far_fewer_lots_unless_it_is_forced(store: IndexStore, tmp_path: Path) -> None:
    live = index_release(written(tmp_path / "shop", lots(20)), store).index
    night = written(tmp_path / "night", lots(9))
    with pytest.raises(ReleaseError, match=r"would hold 9 open lots, the live one has 20; .* --force"):
        rebuild_index([night], store)
    assert store.live().name == live
    assert rebuild_index([night], store, force=True).lots == 9
