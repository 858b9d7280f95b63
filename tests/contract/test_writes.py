"""What every index promises of writes: versions, tombstones, refusals, and a report that leaves nothing out."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from index_lots import DIMENSIONS, EVERYTHING, TOWER_ID, axis, lot

from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport
from retrieval.contracts.items import epoch_ms
from retrieval.index.filters import utc_now
from retrieval.index.port import IndexStore, VectorIndex

Fill = Callable[[Iterable[IndexedItem | Deletion]], VectorIndex]


def title_of(index: VectorIndex, item_id: str) -> str | None:
    """What the index knows of a lot."""
    index.refresh()
    return next((str(c.document["title"]) for c in index.fetch([item_id])), None)


def test_an_upserted_lot_is_found_by_vector_by_word_and_by_id(filled: Fill) -> None:
    index = filled([lot("a", axis(3), title="silver watch", category="Watches", current_price=12.5, bid_count=2)])
    for found in (
        index.semantic(axis(3), 5, EVERYTHING),
        index.keyword("watch", 5, EVERYTHING),
        index.hybrid("watch", axis(3), 5, EVERYTHING),
        index.fetch(["a"]),
    ):
        assert [c.item_id for c in found] == ["a"]
        assert found[0].document["title"] == "silver watch"
        assert found[0].document["current_price"] == 12.5
        assert found[0].document["category"] == "Watches"
        assert "embedding" not in found[0].document
        np.testing.assert_array_equal(found[0].vector, axis(3))
    assert index.count() == 1


def test_a_newer_version_replaces_the_lot_everywhere(filled: Fill) -> None:
    index = filled([lot("a", axis(0), title="clock"), lot("b", axis(5), title="vase")])
    filled([lot("a", axis(9), title="lamp", version=2)])
    assert index.count() == 2
    assert [c.item_id for c in index.semantic(axis(9), 1, EVERYTHING)] == ["a"]
    assert index.semantic(axis(0), 1, EVERYTHING)[0].score < 0.1
    assert index.keyword("clock", 5, EVERYTHING) == []
    assert [c.item_id for c in index.keyword("lamp", 5, EVERYTHING)] == ["a"]


def test_an_older_version_is_stale_and_an_equal_one_overwrites(index: VectorIndex) -> None:
    assert index.upsert([lot("a", version=5, title="five")]) == UpsertReport(indexed=1)
    assert index.upsert([lot("a", version=4, title="four")]) == UpsertReport(stale_ids=("a",))
    assert title_of(index, "a") == "five"
    assert index.upsert([lot("a", version=5, title="five again")]) == UpsertReport(indexed=1)
    assert title_of(index, "a") == "five again"


def test_the_same_part_twice_changes_nothing(filled: Fill) -> None:
    lots = [lot(f"lot-{i}", axis(i, tilt=0.1)) for i in range(10)]
    index = filled(lots)
    before = index.semantic(axis(2), 10, EVERYTHING)
    assert index.upsert(lots) == UpsertReport(indexed=10)
    index.refresh()
    assert index.count() == 10
    assert [(c.item_id, c.score) for c in index.semantic(axis(2), 10, EVERYTHING)] == [(c.item_id, c.score) for c in before]


def test_a_deleted_lot_is_gone_from_every_search(filled: Fill) -> None:
    index = filled([lot("a", title="clock"), lot("b", title="clock")])
    assert index.upsert([Deletion("a", 2)]) == UpsertReport(deleted_ids=("a",))
    index.refresh()
    assert index.count() == 1
    assert index.fetch(["a"]) == []
    assert [c.item_id for c in index.semantic(axis(0), 5, EVERYTHING)] == ["b"]
    assert [c.item_id for c in index.keyword("clock", 5, EVERYTHING)] == ["b"]


def test_an_event_older_than_the_delete_comes_too_late(index: VectorIndex) -> None:
    index.upsert([lot("a", version=1), Deletion("a", 7)])
    assert index.upsert([lot("a", version=6, title="late")]) == UpsertReport(stale_ids=("a",))
    assert title_of(index, "a") is None
    assert index.upsert([lot("a", version=8, title="listed again")]) == UpsertReport(indexed=1)
    assert title_of(index, "a") == "listed again"


def test_a_delete_older_than_the_lot_is_stale(index: VectorIndex) -> None:
    index.upsert([lot("a", version=5, title="five")])
    assert index.upsert([Deletion("a", 4)]) == UpsertReport(stale_ids=("a",))
    assert title_of(index, "a") == "five"


def test_the_delete_of_a_lot_never_seen_counts_and_is_remembered(index: VectorIndex) -> None:
    assert index.upsert([Deletion("a", 3)]) == UpsertReport(deleted_ids=("a",))
    assert index.upsert([lot("a", version=2)]) == UpsertReport(stale_ids=("a",))
    assert title_of(index, "a") is None


def test_a_deletion_outlives_a_restart(index: VectorIndex, store: IndexStore, restart: Callable[[VectorIndex], None]) -> None:
    index.upsert([lot("a", version=1, title="clock"), lot("b", title="clock"), Deletion("a", 7)])
    restart(index)
    index = store.find(TOWER_ID) or index
    assert index.upsert([lot("a", version=6, title="a clock that comes late")]) == UpsertReport(stale_ids=("a",))
    index.refresh()
    assert (index.count(), index.fetch(["a"])) == (1, [])
    for found in (
        index.semantic(axis(0), 5, EVERYTHING),
        index.semantic(axis(0), 5, EVERYTHING, exact=True),
        index.keyword("clock", 5, EVERYTHING),
        index.hybrid("clock", axis(0), 5, EVERYTHING),
    ):
        assert [c.item_id for c in found] == ["b"]
    assert [c.item_id for c in index.top("bid_count", 5, EVERYTHING)] == ["b"]
    assert index.upsert([lot("a", version=8, title="listed again")]) == UpsertReport(indexed=1)
    assert (title_of(index, "a"), index.count()) == ("listed again", 2)


def test_a_version_from_the_future_is_refused(index: VectorIndex) -> None:
    tomorrow_noon = epoch_ms(utc_now() + timedelta(days=1))
    report = index.upsert([lot("a", version=tomorrow_noon), Deletion("b", 2**62), lot("c", version=epoch_ms(utc_now()))])
    assert (report.indexed, [item_id for item_id, _ in report.rejected]) == (1, ["a", "b"])
    assert all("future" in reason and "updated_at" in reason for _, reason in report.rejected)


def test_an_operator_may_write_over_a_newer_version_and_rows_count_from_there_on(index: VectorIndex) -> None:
    index.upsert([lot("frozen", version=900, title="nine hundred"), lot("other", version=3), Deletion("withdrawn", 900)])
    rows = [lot("frozen", version=5, title="five"), lot("other", version=4), lot("withdrawn", version=5), lot("new", version=1)]
    assert index.upsert(rows, overwrite=True) == UpsertReport(indexed=4)
    assert title_of(index, "frozen") == "five"
    assert index.count() == 4
    assert index.upsert([lot("frozen", version=4)]) == UpsertReport(stale_ids=("frozen",))
    report = index.upsert([lot("frozen", version=6, title="six"), Deletion("withdrawn", 6)])
    assert report == UpsertReport(indexed=1, deleted_ids=("withdrawn",))
    assert (title_of(index, "frozen"), title_of(index, "withdrawn")) == ("six", None)


def test_entries_of_one_upsert_are_carried_out_in_order(index: VectorIndex) -> None:
    report = index.upsert([lot("a", version=1), lot("a", version=3, title="three"), lot("a", version=2), Deletion("b", 1)])
    assert report == UpsertReport(indexed=2, stale_ids=("a",), deleted_ids=("b",))
    assert title_of(index, "a") == "three"


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (np.ones(DIMENSIONS - 1, dtype=np.float32) / np.float32(np.sqrt(DIMENSIONS - 1)), "shape"),
        (np.full(DIMENSIONS, np.nan, dtype=np.float32), "finite"),
        (np.full(DIMENSIONS, np.inf, dtype=np.float32), "finite"),
        (np.zeros(DIMENSIONS, dtype=np.float32), "length"),
        (np.full(DIMENSIONS, 1.0, dtype=np.float32), "length"),
    ],
)
def test_an_impossible_vector_is_rejected_with_a_reason_and_the_rest_is_indexed(
    index: VectorIndex, vector: np.ndarray, reason: str
) -> None:
    report = index.upsert([lot("good"), lot("bad", vector), lot("also good")])
    assert (report.indexed, [item_id for item_id, _ in report.rejected]) == (2, ["bad"])
    assert reason in report.rejected[0][1]
    index.refresh()
    assert index.count() == 2


@pytest.mark.parametrize("item_id", ["", "x" * 513, "é" * 257])
def test_an_impossible_id_is_rejected(index: VectorIndex, item_id: str) -> None:
    report = index.upsert([replace(lot("a"), item_id=item_id)])
    assert [bad for bad, _ in report.rejected] == [item_id]


def test_a_document_with_a_price_that_is_no_number_is_rejected(index: VectorIndex) -> None:
    sound = lot("a")
    report = index.upsert([replace(sound, document={**sound.document, "current_price": "cheap"}), lot("b")])
    assert (report.indexed, [bad for bad, _ in report.rejected]) == (1, ["a"])
    assert "current_price" in report.rejected[0][1]


def test_the_report_speaks_of_every_entry(index: VectorIndex) -> None:
    entries: list[IndexedItem | Deletion] = []
    for i in range(1_300):  # more than one request or transaction holds
        entries.append(lot(f"lot-{i % 1_000}", axis(i), version=1_300 - i))
        if i % 100 == 0:
            entries.append(Deletion(f"gone-{i}", 1))
            entries.append(lot(f"bad-{i}", np.zeros(DIMENSIONS, dtype=np.float32)))
    report = index.upsert(iter(entries))
    assert report.total == len(entries)
    assert (report.indexed, report.stale, report.deleted, len(report.rejected)) == (1_000, 300, 13, 13)
    index.refresh()
    assert index.count() == 1_000


def test_no_entries_are_a_report_of_nothing(index: VectorIndex) -> None:
    assert index.upsert([]).total == 0


def test_fetch_answers_in_the_order_of_the_ids_and_leaves_unknown_ones_out(filled: Fill) -> None:
    index = filled([lot("a", axis(1)), lot("b", axis(2)), lot("c", axis(3))])
    found = index.fetch(["c", "unknown", "a"])
    assert [(c.item_id, c.score) for c in found] == [("c", 0.0), ("a", 0.0)]
    np.testing.assert_array_equal(found[0].vector, axis(3))
    assert index.fetch([]) == []


def test_fetch_reads_hundreds_of_lots_at_once(filled: Fill) -> None:
    index = filled([lot(f"lot-{i}", axis(i)) for i in range(1_200)])
    wanted = [f"lot-{i}" for i in reversed(range(1_200))]
    assert [c.item_id for c in index.fetch(wanted)] == wanted


def test_ids_and_texts_in_any_script_with_emoji_and_quotes_come_back_as_they_are(filled: Fill) -> None:
    titles = {
        "日本の花瓶/№ 7": "花瓶 vase",
        "🏺 \"quoted\" 'id'": 'the "golden" 🏺 amphora\'s lid',
        "../..%2F?q=*&x": "Über-Café ½ <b>",
        "{'$ne': null}; DROP TABLE lots;--": "naïve Ωmega",
    }
    index = filled([lot(item_id, axis(i), title=title) for i, (item_id, title) in enumerate(titles.items())])
    assert {c.item_id: c.document["title"] for c in index.fetch(list(titles))} == titles
    assert {c.item_id for c in index.semantic(axis(0), 10, EVERYTHING)} == set(titles)
    assert [c.document["title"] for c in index.keyword("AMPHORA'S", 1, EVERYTHING)] == [titles["🏺 \"quoted\" 'id'"]]
    assert [c.document["title"] for c in index.keyword("café", 1, EVERYTHING)] == ["Über-Café ½ <b>"]
    assert [c.document["title"] for c in index.keyword("花瓶", 1, EVERYTHING)] == ["花瓶 vase"]
