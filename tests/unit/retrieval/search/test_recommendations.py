"""Lots for a buyer at the port of the core: re-ranked, varied, capped, blocked, by expected value, from cached buyer vectors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lots import TOWER_ID, WORDS, WordEncoder, lot, publish

from retrieval.buyers.sqlite_history import BuyerEvents
from retrieval.contracts.events import Interaction
from retrieval.errors import InvalidQuery, RankerUnavailable
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import BlockList, Filter
from retrieval.ranker.features import FEATURES
from retrieval.ranker.port import Ranker
from retrieval.search import live_index
from retrieval.search.diversification import Diversity
from retrieval.search.expected_value import preference_chances
from retrieval.search.recommendations import RankingOptions
from retrieval.search.service import SearchAnswer, SearchLimits, SearchModels, SearchService

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
VIEWED = [Interaction("", "seen", "view", NOW)]
NEAREST = RankingOptions(rerank=False)
LOTS = [
    lot("seen", "red vase"),
    lot("v1", "red red vase", current_price=10.0, seller="Ann", category="Vases", brand="Acme", bid_count=3),
    lot("v2", "red vase vase", current_price=20.0, seller="Ann", category="vases", brand="acme", bid_count=2),
    lot("v3", "old red vase", current_price=900.0, seller="Ann", category="vases", bid_count=1),
    lot("v4", "blue vase", seller="Bob", category="vases", listed_at=NOW),
    lot("w1", "gold watch", current_price=50.0, seller="Bob", category="watches", listed_at=NOW - timedelta(days=1)),
]


class Scores:
    """A re-ranker with given scores, the last of them for every further candidate; it notes the features."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.seen = scores, list[np.ndarray]()

    def score(self, features: np.ndarray) -> np.ndarray:
        self.seen.append(features)
        return np.array([self.scores[min(n, len(self.scores) - 1)] for n in range(len(features))], dtype=np.float32)


class Dead:
    """A re-ranker that does not answer."""

    def score(self, features: np.ndarray) -> np.ndarray:
        raise RankerUnavailable("no answer")


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    return store


def service(store: EmbeddedStore, ranker: Ranker | None = None, **limits: Any) -> SearchService:
    return SearchService(store, SearchModels(WordEncoder, lambda tower_id: ranker), SearchLimits(**limits))


def ids(answer: SearchAnswer) -> list[str]:
    return [result.item_id for result in answer.results]


def test_lots_for_a_buyer_are_re_ranked_and_say_so(store: EmbeddedStore) -> None:
    ranker = Scores(1, 2, 3, 4, 5)
    nearest = service(store).nearest_to_buyer(VIEWED, 5)
    answer = service(store, ranker).nearest_to_buyer(VIEWED, 5)
    assert (nearest.reranked, answer.reranked, answer.failed_components) == (False, True, [])
    assert ids(answer) == ids(nearest)[::-1]
    assert [result.score for result in answer.results] == [5, 4, 3, 2, 1]
    assert {r.item_id: r.similarity for r in answer.results} == {r.item_id: r.similarity for r in nearest.results}
    assert "rerank" in answer.timings_ms
    assert ids(service(store, ranker).nearest_to_buyer(VIEWED, 2)) == ids(answer)[:2], "all candidates are re-ranked, not k of them"
    assert ids(service(store, ranker).nearest_to_buyer(VIEWED, 5, options=NEAREST)) == ids(nearest)


def test_the_re_ranker_sees_the_buyer_as_the_query_and_no_words(store: EmbeddedStore) -> None:
    ranker = Scores(0)
    answer = service(store, ranker).nearest_to_buyer(VIEWED, 5)
    columns = dict(zip(FEATURES, ranker.seen[0].T, strict=True))
    similarities = [result.similarity for result in answer.results]
    assert columns["similarity"].tolist() == pytest.approx(similarities, abs=1e-5)
    assert columns["buyer_affinity"].tolist() == pytest.approx(similarities, abs=1e-5)
    assert columns["semantic_rank"].tolist() == [1, 2, 3, 4, 5]
    assert set(columns["query_words"]) == set(columns["title_overlap"]) == {0}
    assert np.isnan(columns["keyword_rank"]).all()


def test_a_vector_is_answered_as_the_buyer_that_it_was_made_of(store: EmbeddedStore) -> None:
    searching = service(store, Scores(1, 2, 3, 4, 5, 6))
    vector = searching.encode_buyer(VIEWED).buyer.vector.tolist()
    answer = searching.nearest(vector, 6)
    assert answer.reranked
    assert [(r.item_id, r.score) for r in answer.results] == [
        (r.item_id, r.score) for r in searching.nearest_to_buyer(VIEWED, 6, exclude="none").results
    ]


def test_without_its_re_ranker_the_answer_is_in_the_order_of_nearness(store: EmbeddedStore) -> None:
    answer = service(store, Dead()).nearest_to_buyer(VIEWED, 5)
    assert (answer.reranked, answer.failed_components) == (False, ["rerank"])
    assert ids(answer) == ids(service(store).nearest_to_buyer(VIEWED, 5))


def test_similar_lots_are_not_re_ranked(store: EmbeddedStore) -> None:
    assert not service(store, Scores(1, 2, 3)).similar("seen").reranked


@pytest.mark.parametrize(
    ("blocked", "expected"),
    [
        (BlockList(items=frozenset({"v1", "gone"})), {"v2", "v3", "v4", "w1"}),
        (BlockList(sellers=frozenset({"Ann"})), {"v4", "w1"}),
        (BlockList(categories=frozenset({"VASES"})), {"w1"}),
        (BlockList(brands=frozenset({"ACME"}), sellers=frozenset({"Bob"})), {"v3"}),
    ],
)
def test_what_a_buyer_blocked_never_comes(blocked: BlockList, expected: set[str], store: EmbeddedStore) -> None:
    filters = Filter(blocked=blocked)
    searching = service(store, Scores(1))
    assert set(ids(searching.nearest_to_buyer(VIEWED, 10, filters))) == expected
    assert set(ids(searching.similar("seen", 10, filters))) == expected
    popular = searching.nearest_to_buyer([], 10, filters, buyer_id="new")
    assert popular.source == "popular_and_fresh"
    assert set(ids(popular)) == expected


def test_a_block_list_has_a_limit(store: EmbeddedStore) -> None:
    filters = Filter(blocked=BlockList(items=frozenset(map(str, range(1_001)))))
    with pytest.raises(InvalidQuery, match="1001 items are blocked; allowed are 1000"):
        service(store).nearest_to_buyer(VIEWED, 10, filters)


@pytest.mark.parametrize(
    ("diversity", "field", "most"),
    [
        (Diversity(most_per_seller=1, drop_surplus=True), "seller", 1),
        (Diversity(most_per_category=2, drop_surplus=True), "category", 2),
        (Diversity(0.5, most_per_brand=1, drop_surplus=True), "brand", 1),
    ],
)
@pytest.mark.parametrize("buyer_id", ["", "new"])
def test_no_more_of_one_label_come_than_the_cap_lets(
    diversity: Diversity, field: str, most: int, buyer_id: str, store: EmbeddedStore
) -> None:
    seen = [] if buyer_id else VIEWED
    answer = service(store).nearest_to_buyer(seen, 10, buyer_id=buyer_id, options=RankingOptions(diversity=diversity))
    counts = Counter(str(result.fields[field]).lower() for result in answer.results if field in result.fields)
    assert max(counts.values()) == most
    uncapped = service(store).nearest_to_buyer(seen, 10, buyer_id=buyer_id)
    assert {r.item_id for r in uncapped.results if field not in r.fields} <= set(ids(answer)), "without the label there is no cap"


def test_a_cap_is_filled_from_further_candidates(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    lots = [lot(f"a{n:02}", "red vase", seller="Ann") for n in range(30)]
    publish(store, [lot("seen", "red vase"), *lots, lot("z1", "blue vase", seller="Bob"), lot("z2", "gold ring", seller="Cem")])
    capped = RankingOptions(diversity=Diversity(most_per_seller=1, drop_surplus=True))
    assert ids(service(store, rerank_candidates=5).nearest_to_buyer(VIEWED, 3, options=capped)) == ["a00", "z1", "z2"]


def test_diversity_moves_lots_that_are_alike_apart(store: EmbeddedStore) -> None:
    plain = ids(service(store).nearest_to_buyer(VIEWED, 3))
    varied = ids(service(store).nearest_to_buyer(VIEWED, 3, options=RankingOptions(diversity=Diversity(0.9, drop_surplus=True))))
    assert varied[0] == plain[0]
    assert "w1" in varied
    assert "w1" not in plain


def test_expected_value_is_chance_times_price(store: EmbeddedStore) -> None:
    scores = (2.0, 1.0, 0.0, -1.0, -2.0)
    by_chance = service(store, Scores(*scores)).nearest_to_buyer(VIEWED, 5)
    answer = service(store, Scores(*scores)).nearest_to_buyer(VIEWED, 5, options=RankingOptions(rank_by="expected_value"))
    assert (by_chance.ranked_by, answer.ranked_by, answer.reranked) == ("relevance", "expected_value", True)
    expected = {r.item_id: float(r.fields.get("current_price", 0)) / (1 + np.exp(-r.score)) for r in by_chance.results}
    assert {r.item_id: r.score for r in answer.results} == pytest.approx(expected)
    assert ids(answer) == sorted(expected, key=lambda item_id: -expected[item_id])
    assert ids(answer)[-1] == "v4", "it has no price"


@pytest.mark.parametrize("shift", [-1e6, 0.0, 1e6])
def test_a_chance_depends_on_the_scores_of_one_list_alone(shift: float) -> None:
    chances = preference_chances(np.array([-1.0, 0.0, 1.0]) + shift)
    assert chances.tolist() == pytest.approx([0.26894, 0.5, 0.73106], abs=1e-4)


@pytest.mark.parametrize("ranker", [None, Dead()])
def test_without_chances_the_answer_is_by_relevance_and_says_so(ranker: Ranker | None, store: EmbeddedStore) -> None:
    answer = service(store, ranker).nearest_to_buyer(VIEWED, 5, options=RankingOptions(rank_by="expected_value"))
    assert (answer.ranked_by, answer.failed_components) == ("relevance", ["rerank"])
    assert ids(answer) == ids(service(store).nearest_to_buyer(VIEWED, 5))
    with pytest.raises(InvalidQuery, match="leave rerank=false out"):
        RankingOptions(rerank=False, rank_by="expected_value")
    with pytest.raises(InvalidQuery, match="allowed are relevance, expected_value"):
        RankingOptions(rank_by="price")  # type: ignore[arg-type]


class CountingTower:
    """Averages, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, vectors: np.ndarray, weights: np.ndarray, ages_days: np.ndarray) -> np.ndarray:
        self.calls += 1
        return np.asarray(weights @ vectors)


def acts(*item_ids: str, end: datetime = NOW) -> Sequence[Interaction]:
    return [Interaction("", item_id, "view", end - timedelta(hours=n)) for n, item_id in enumerate(item_ids)]


def test_the_vector_of_a_buyer_is_cached_until_they_do_more(store: EmbeddedStore) -> None:
    tower = CountingTower()
    searching = SearchService(store, SearchModels(WordEncoder, load_buyer_tower=lambda _: tower))
    first = searching.nearest_to_buyer(acts("v1", "w1"), 3)
    assert ids(searching.nearest_to_buyer(acts("v1", "w1", end=NOW + timedelta(days=1)), 3)) == ids(first)
    searching.encode_buyer(acts("v1", "w1"))
    assert tower.calls == 1
    assert (searching.caches()["buyers"].hits, searching.caches()["buyers"].entries) == (2, 1)
    searching.encode_buyer(acts("w1", "v1"))
    searching.encode_buyer([replace(one, event_type="bid") for one in acts("v1", "w1")])
    assert tower.calls == 3
    searching.encode_buyer(acts("v1", "gone"))
    assert searching.encode_buyer(acts("v1", "gone")).buyer.unknown_items == ["gone"]
    assert tower.calls == 5, "an unknown lot may be indexed any moment"


def test_a_new_index_has_buyers_of_its_own(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_index, "LIVE_CHECK_S", -1.0)  # the alias is read by every search
    searching = service(store)
    before = searching.encode_buyer(VIEWED).buyer.vector
    publish(store, [lot("seen", "gold watch")])
    assert not np.allclose(searching.encode_buyer(VIEWED).buyer.vector, before)


def test_a_buyer_is_encoded_from_stored_and_sent_interactions(store: EmbeddedStore, tmp_path: Path) -> None:
    buyers = BuyerEvents(tmp_path / "buyers.sqlite", 90, clock=lambda: NOW)
    buyers.append([Interaction("b", "w1", "view", NOW)])
    searching = SearchService(store, SearchModels(WordEncoder), buyer_store=buyers)
    encoding = searching.encode_buyer(VIEWED, buyer_id="b")
    assert (encoding.tower_id, encoding.failed_components) == (TOWER_ID, [])
    assert sorted(encoding.buyer.known_items) == ["seen", "w1"]
    assert encoding.buyer.vector.shape == (len(WORDS) + 1,)
    assert searching.encode_buyer([], buyer_id="b").buyer.known_items == ["w1"]
    with pytest.raises(InvalidQuery, match="nothing is known of this buyer"):
        searching.encode_buyer([], buyer_id="nobody")
