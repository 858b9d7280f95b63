"""The lots with the most bids and the newest ones, as every index orders them."""

from collections.abc import Callable, Iterable
from datetime import timedelta

import numpy as np
import pytest
from index_lots import EVERYTHING, NOW, lot

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.index.filters import Filter
from retrieval.index.port import Candidate, VectorIndex

Fill = Callable[[Iterable[IndexedItem | Deletion]], VectorIndex]


def ids(found: list[Candidate]) -> list[str]:
    return [candidate.item_id for candidate in found]


def test_the_most_bid_on_come_first_and_equal_ones_by_id(filled: Fill) -> None:
    index = filled([lot("b", bid_count=3), lot("d", bid_count=70), lot("a", bid_count=3), lot("c", bid_count=2**31 - 1), lot("e")])
    found = index.top("bid_count", 10, EVERYTHING)
    assert [(c.item_id, c.score) for c in found] == [("c", 2**31 - 1), ("d", 70), ("a", 3), ("b", 3), ("e", 0)]
    assert ids(index.top("bid_count", 3, EVERYTHING)) == ["c", "d", "a"]
    assert found[0].document["bid_count"] == 2**31 - 1
    assert np.allclose(found[0].vector, lot("c").vector)


def test_the_newest_come_first_and_a_lot_of_no_date_does_not_come(filled: Fill) -> None:
    moments = {"old": timedelta(days=3), "new": timedelta(minutes=1), "newest": timedelta(minutes=1) - timedelta(milliseconds=1)}
    index = filled([lot("undated"), *(lot(item_id, listed_at=NOW - ago) for item_id, ago in moments.items())])
    assert ids(index.top("listed_at", 10, EVERYTHING)) == ["newest", "new", "old"]


def test_of_many_equal_ones_the_first_by_id_come(filled: Fill) -> None:
    index = filled([lot(f"lot-{n:03}", listed_at=NOW) for n in reversed(range(300))])
    assert ids(index.top("listed_at", 4, EVERYTHING)) == ["lot-000", "lot-001", "lot-002", "lot-003"]


def test_ended_auctions_and_lots_that_a_filter_refuses_do_not_come(filled: Fill) -> None:
    index = filled(
        [
            lot("ended", bid_count=9, ends_at=NOW),
            lot("dear", bid_count=8, current_price=100.0, category="vases"),
            lot("cheap", bid_count=7, current_price=10.0, category="vases"),
            lot("other", bid_count=6, current_price=10.0, category="rings"),
        ]
    )
    assert ids(index.top("bid_count", 10, EVERYTHING)) == ["dear", "cheap", "other"]
    assert ids(index.top("bid_count", 10, Filter(categories=("Vases",), max_price=50, now=NOW))) == ["cheap"]


def test_a_new_version_of_a_lot_is_ordered_by_its_new_number(filled: Fill) -> None:
    index = filled([lot("a", bid_count=1), lot("b", bid_count=5)])
    index.upsert([lot("a", bid_count=9, version=2), Deletion("b", 2)])
    index.refresh()
    assert [(c.item_id, c.score) for c in index.top("bid_count", 10, EVERYTHING)] == [("a", 9)]


@pytest.mark.parametrize("k", [0, -1])
def test_nothing_asked_for_is_nothing_answered(k: int, filled: Fill) -> None:
    assert filled([lot("a", bid_count=1)]).top("bid_count", k, EVERYTHING) == []
