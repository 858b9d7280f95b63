"""What every index promises of states: price, bids, end and status change within a second, apart from rows, vectors and words."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
from index_lots import EVERYTHING, NOW, axis, lot

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.contracts.item_states import StateUpdate, parse_state
from retrieval.contracts.items import epoch_ms
from retrieval.index.filters import Filter
from retrieval.index.port import IndexStore, VectorIndex

Fill = Callable[[Iterable[IndexedItem | Deletion]], VectorIndex]
SOON, LATER = NOW + timedelta(minutes=5), NOW + timedelta(hours=2)


def set_state(index: VectorIndex, item_id: str, version: int = 10, **fields: Any) -> str:
    """The outcome of one update, visible to the next search."""
    (outcome,) = index.update_states([parse_state(item_id, {"version": version, **fields}, NOW)])
    index.refresh()
    return outcome.outcome


def ids(index: VectorIndex, filters: Filter = EVERYTHING) -> dict[str, list[str]]:
    """The lots that each way of searching gives."""
    ways = {
        "semantic": index.semantic(axis(0), 10, filters),
        "exact": index.semantic(axis(0), 10, filters, exact=True),
        "keyword": index.keyword("lot", 10, filters),
        "hybrid": index.hybrid("lot", axis(0), 10, filters),
    }
    return {way: sorted(candidate.item_id for candidate in candidates) for way, candidates in ways.items()}


def all_ways(expected: str) -> dict[str, list[str]]:
    return dict.fromkeys(("semantic", "exact", "keyword", "hybrid"), sorted(expected))


@pytest.fixture
def lots(filled: Fill) -> VectorIndex:
    """Three lots: a ends soon, b has ended, c never ends."""
    ended = NOW - timedelta(minutes=1)
    return filled(
        [
            lot("a", axis(0, 0.1), ends_at=SOON, current_price=10.0, bid_count=2, brand="Omega", description="an old lot"),
            lot("b", axis(0, 0.2), ends_at=ended, current_price=20.0, bid_count=5, brand="Rado"),
            lot("c", axis(0, 0.3), current_price=30.0),
        ]
    )


def test_a_bid_changes_price_and_bids_and_nothing_else(lots: VectorIndex) -> None:
    before = lots.fetch(["a"])[0]
    assert set_state(lots, "a", current_price=12.5, bid_count=3) == "applied"
    after = lots.fetch(["a"])[0]
    assert dict(after.document) == {**before.document, "current_price": 12.5, "bid_count": 3}
    assert (after.vector == before.vector).all()
    found = lots.semantic(axis(0), 10, EVERYTHING)
    assert {c.item_id: c.document["current_price"] for c in found} == {"a": 12.5, "c": 30.0}


def test_a_bid_is_seen_by_filters_in_both_directions(lots: VectorIndex) -> None:
    cheap, dear = Filter(max_price=15, now=NOW), Filter(min_price=25, now=NOW)
    assert ids(lots, cheap) == all_ways("a")
    set_state(lots, "a", current_price=40.0)
    assert ids(lots, cheap) == all_ways("")
    assert ids(lots, dear) == all_ways("ac")
    assert (lots.count(cheap), lots.count(dear)) == (0, 2)


def test_the_most_bids_are_those_of_the_states(lots: VectorIndex) -> None:
    set_state(lots, "c", bid_count=9)
    assert [(c.item_id, c.score) for c in lots.top("bid_count", 2, EVERYTHING)] == [("c", 9.0), ("a", 2.0)]
    set_state(lots, "a", version=11, bid_count=10)
    assert [(c.item_id, c.score) for c in lots.top("bid_count", 1, EVERYTHING)] == [("a", 10.0)]


def test_an_extended_auction_comes_back_and_an_early_end_goes(lots: VectorIndex) -> None:
    assert ids(lots) == all_ways("ac")
    set_state(lots, "b", ends_at=LATER.isoformat())
    assert ids(lots) == all_ways("abc")
    set_state(lots, "a", ends_at=epoch_ms(NOW - timedelta(seconds=1)))
    assert ids(lots) == all_ways("bc")
    assert ids(lots, Filter(now=LATER)) == all_ways("c")


@pytest.mark.parametrize("status", ["withdrawn", "sold", "unsold"])
def test_a_lot_that_is_not_open_is_in_no_answer_and_can_be_read(lots: VectorIndex, status: str) -> None:
    set_state(lots, "c", status=status, sold_price=33.0)
    assert ids(lots) == all_ways("a")
    assert lots.count(EVERYTHING) == 1
    document = lots.fetch(["c"])[0].document
    assert (document["status"], document["sold_price"]) == (status, 33.0)
    set_state(lots, "c", version=11, status="open")
    assert ids(lots) == all_ways("ac")


def test_a_field_that_is_not_named_stays_and_null_clears_it(lots: VectorIndex) -> None:
    set_state(lots, "a", current_price=11.0, reserve_met=True)
    set_state(lots, "a", version=11, ends_at=None)
    document = lots.fetch(["a"])[0].document
    assert (document["current_price"], document["reserve_met"]) == (11.0, True)
    assert "ends_at" not in document
    assert ids(lots, Filter(now=NOW + timedelta(days=9))) == all_ways("ac")


def test_each_field_has_a_version_of_its_own(lots: VectorIndex) -> None:
    assert set_state(lots, "a", version=20, current_price=20.0) == "applied"
    assert set_state(lots, "a", version=15, ends_at=epoch_ms(LATER), current_price=15.0) == "applied"
    assert set_state(lots, "a", version=14, current_price=14.0) == "stale"
    assert set_state(lots, "a", version=20, current_price=20.5) == "applied", "of equal versions the later wins"
    document = lots.fetch(["a"])[0].document
    assert (document["current_price"], document["ends_at"]) == (20.5, epoch_ms(LATER))


def test_a_row_never_undoes_a_newer_state_and_a_newer_row_is_taken(filled: Fill, lots: VectorIndex) -> None:
    set_state(lots, "a", version=50, current_price=50.0, ends_at=epoch_ms(LATER), status="withdrawn")
    filled([lot("a", axis(0, 0.1), version=40, title="a new lot", current_price=40.0, ends_at=SOON)])
    document = lots.fetch(["a"])[0].document
    assert (document["title"], document["current_price"], document["ends_at"]) == ("a new lot", 50.0, epoch_ms(LATER))
    assert ids(lots) == all_ways("c")
    filled([lot("a", axis(0, 0.1), version=60, current_price=60.0)])
    document = lots.fetch(["a"])[0].document
    assert document["current_price"] == 60.0
    assert (document["ends_at"], document["status"]) == (epoch_ms(LATER), "withdrawn"), "which the row does not set"
    assert set_state(lots, "a", version=55, current_price=55.0, status="open") == "applied"
    assert lots.fetch(["a"])[0].document["current_price"] == 60.0
    assert ids(lots) == all_ways("ac")


def test_a_state_may_come_before_its_lot(filled: Fill, lots: VectorIndex) -> None:
    assert set_state(lots, "d", status="withdrawn") == "unknown"
    filled([lot("d", axis(0, 0.4)), lot("e", axis(0, 0.5))])
    assert ids(lots) == all_ways("ace")
    assert set_state(lots, "d", version=11, status="open") == "applied"
    assert ids(lots) == all_ways("acde")


def test_updates_of_one_call_are_carried_out_in_order(lots: VectorIndex) -> None:
    updates = [StateUpdate("a", version, {"bid_count": count}) for version, count in ((10, 3), (12, 5), (11, 4))]
    outcomes = lots.update_states([*updates, StateUpdate("nobody", 1, {"bid_count": 1})])
    assert [one.outcome for one in outcomes] == ["applied", "applied", "stale", "unknown"]
    assert lots.fetch(["a"])[0].document["bid_count"] == 5
    assert lots.update_states([]) == []


def test_states_are_kept_by_the_next_index_and_by_a_restart(
    store: IndexStore, lots: VectorIndex, restart: Callable[[VectorIndex], None]
) -> None:
    set_state(lots, "a", current_price=77.0)
    restart(lots)
    following = store.create("another0tower", 16)
    following.upsert([lot("a", axis(1), current_price=1.0), lot("c", axis(2))])
    following.refresh()
    assert following.fetch(["a"])[0].document["current_price"] == 77.0
    assert following.states(["a", "c"])["a"].versions == {"current_price": 10}
    assert [c.item_id for c in following.semantic(axis(1), 1, Filter(min_price=70, now=NOW))] == ["a"]


def test_a_deleted_lot_leaves_no_way_in_for_its_state(filled: Fill, lots: VectorIndex) -> None:
    filled([Deletion("a", 5)])
    assert set_state(lots, "a", status="open") == "unknown"
    assert ids(lots) == all_ways("c")


def test_the_stamp_changes_when_a_lot_may_have_begun_to_match(lots: VectorIndex) -> None:
    by_price = Filter(min_price=5, now=NOW)
    stamps = [lots.state_stamp(EVERYTHING), lots.state_stamp(by_price)]
    set_state(lots, "a", current_price=11.0)
    assert lots.state_stamp(EVERYTHING) == stamps[0]
    assert lots.state_stamp(by_price) != stamps[1]
    set_state(lots, "b", ends_at=epoch_ms(LATER + timedelta(days=9000)))
    opened = lots.state_stamp(EVERYTHING)
    assert opened != stamps[0]
    set_state(lots, "b", version=11, ends_at=epoch_ms(LATER + timedelta(days=9001)))
    assert lots.state_stamp(EVERYTHING) == opened, "it was open before"
