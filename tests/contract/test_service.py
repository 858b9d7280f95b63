"""Search as a whole over each adapter: pages that fit together, lots named by their id, filters of single lots."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from lots import WordEncoder, lot, publish

from retrieval.buyers.sqlite_history import BuyerEvents
from retrieval.contracts.events import Interaction
from retrieval.index.filters import BlockList, Filter, matches, utc_now
from retrieval.index.port import IndexStore
from retrieval.search.service import Mode, SearchLimits, SearchModels, SearchRequest, SearchService

NOW = utc_now()
COLOURS = ("red", "blue", "gold", "silver", "old", "new", "round", "luxury")
LOTS = [
    lot(f"lot-{n:03}", f"{COLOURS[n % 8]} {COLOURS[n // 8 % 8]} vase", current_price=float(n), category="Vases" if n % 2 else "")
    for n in range(120)
]


class BackwardsRanker:
    """Prefers what the first stage put last."""

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.arange(len(features), dtype=np.float32)


def service(store: IndexStore, candidates: int = 20) -> SearchService:
    return SearchService(
        store,
        SearchModels(WordEncoder, lambda tower_id: BackwardsRanker()),
        SearchLimits(rerank_candidates=candidates, deadline_s=60),
    )


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
def test_pages_of_any_size_are_cut_from_one_list(mode: Mode, store: IndexStore) -> None:
    publish(store, LOTS)
    searching = service(store)
    lists = []
    for k in (7, 20, 33, 100):
        found: list[str] = []
        offset: int | None = 0
        while offset is not None:
            answer = searching.search(SearchRequest("red gold vase", k=k, mode=mode, offset=offset))
            assert [result.rank for result in answer.results] == list(range(offset + 1, offset + 1 + len(answer.results)))
            found += [result.item_id for result in answer.results]
            offset = answer.next_offset
        lists.append(found)
    assert all(found == lists[0] for found in lists)
    assert len(set(lists[0])) == len(lists[0]) == 120


def test_an_item_id_finds_its_lot_first_and_once(store: IndexStore) -> None:
    publish(store, LOTS)
    for mode in ("hybrid", "semantic", "keyword"):
        found = [r.item_id for r in service(store).search(SearchRequest("lot-077", k=30, mode=mode)).results]
        assert found[0] == "lot-077"
        assert found.count("lot-077") == 1


def test_similar_lots_and_buyers_come_from_stored_vectors(store: IndexStore) -> None:
    publish(store, LOTS)
    similar = service(store).similar("lot-000", k=5).results
    assert (len(similar), similar[0].item_id) == (5, "lot-064"), "the one of the same words"
    assert similar[0].similarity == pytest.approx(1, abs=1e-5)


FILTERS = [
    Filter(now=NOW),
    Filter(categories=("VASES",), now=NOW),
    Filter(categories=("ΣΊΣΥΦΟΣ",), now=NOW),
    Filter(brands=("",), now=NOW),
    Filter(min_price=0.1, now=NOW),
    Filter(max_price=0.1, now=NOW),
    Filter(min_seller_rating=4.1, now=NOW),
    Filter(blocked=BlockList(frozenset({"plain"}), frozenset({"Ann"}), frozenset({"ΣΊΣΥΦΟΣ"})), now=NOW),
    Filter(blocked=BlockList(brands=frozenset({"MEISSEN"})), now=NOW),
]


@pytest.mark.parametrize("filters", FILTERS, ids=[f"filter-{n}" for n in range(len(FILTERS))])
def test_a_single_lot_passes_a_filter_where_the_index_lets_it_pass(filters: Filter, store: IndexStore) -> None:
    lots = [
        lot("plain", "red vase"),
        lot("cheap", "red vase", current_price=0.1, category="vases", seller="Ann"),
        lot("dear", "red vase", current_price=9e11, category="Σίσυφος"),
        lot("rated", "red vase", seller_rating=4.1, brand="Meissen"),
        lot("ended", "red vase", ends_at=NOW),
        lot("ending", "red vase", ends_at=NOW + timedelta(milliseconds=1)),
    ]
    index = publish(store, lots)
    found = {c.item_id for c in index.keyword("vase", 10, filters)}
    assert {entry.item_id for entry in lots if matches(filters, entry.document)} == found


def test_acts_on_lots_that_the_index_does_not_have_are_no_history(store: IndexStore, tmp_path: Path) -> None:
    publish(store, LOTS)
    buyers = BuyerEvents(tmp_path / "buyers.sqlite", 90)
    searching = SearchService(store, SearchModels(WordEncoder), SearchLimits(deadline_s=60), buyer_store=buyers)
    acts = [Interaction("b-1", item_id, "view", NOW) for item_id in ("lot-001", "invented", "lot-002", "invented")]
    assert searching.record_interactions(acts) == ["invented"]
    assert {act.item_id for act in buyers.recent("b-1")} == {"lot-001", "lot-002"}


def test_before_the_first_release_acts_are_no_history_and_no_error(store: IndexStore, tmp_path: Path) -> None:
    buyers = BuyerEvents(tmp_path / "buyers.sqlite", 90)
    searching = SearchService(store, SearchModels(WordEncoder), buyer_store=buyers)
    assert searching.record_interactions([Interaction("b-1", "lot-001", "view", NOW)]) == []
    assert buyers.recent("b-1") == []
