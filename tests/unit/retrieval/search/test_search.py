"""A search, from the buyer's words to the ranked lots, over a real embedded index."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lots import TOWER_ID, WordEncoder, lot, publish

from retrieval.errors import FeatureMismatch, IndexMissing, IndexUnavailable, InvalidQuery, RankerUnavailable, TowerMismatch
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.filters import Filter, utc_now
from retrieval.ranker.port import Ranker
from retrieval.search.service import Mode, SearchLimits, SearchModels, SearchRequest, SearchService

LOTS = [
    lot("v1", "red vase", category="vases", current_price=10.0, seller_rating=4.5),
    lot("v2", "blue vase", category="vases", current_price=90.0, seller_rating=3.0),
    lot("w1", "gold watch", category="watches", current_price=500.0),
    lot("w2", "old silver watch", category="watches", ends_at=utc_now() - timedelta(minutes=1)),
]


class PriceRanker:
    """Prefers what the first stage put last."""

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.arange(len(features), dtype=np.float32)


class DeadRanker:
    def score(self, features: np.ndarray) -> np.ndarray:
        raise RankerUnavailable("no answer within 50 ms")


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    return store


def service(store: EmbeddedStore, ranker: Ranker | None = None, **options: object) -> SearchService:
    models = SearchModels(lambda tower_id: WordEncoder(), lambda tower_id: ranker)
    return SearchService(store, models, SearchLimits(**options))  # type: ignore[arg-type]


def ids(store: EmbeddedStore, query: str, **request: object) -> list[str]:
    return [r.item_id for r in service(store).search(SearchRequest(query, **request)).results]  # type: ignore[arg-type]


def test_the_lot_that_says_all_of_it_comes_first(store: EmbeddedStore) -> None:
    assert ids(store, "red vase")[0] == "v1"


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
def test_an_ended_auction_never_comes_back(mode: str, store: EmbeddedStore) -> None:
    assert "w2" not in ids(store, "old silver watch", mode=mode)


def test_filters_hold_in_every_mode(store: EmbeddedStore) -> None:
    for mode in ("hybrid", "semantic", "keyword"):
        assert ids(store, "vase", mode=mode, filters=Filter(max_price=50)) == ["v1"]


def test_keyword_mode_finds_only_lots_that_share_a_word(store: EmbeddedStore) -> None:
    assert set(ids(store, "gold watch", mode="keyword")) == {"w1"}


def test_k_limits_the_answer_and_ranks_count_from_one(store: EmbeddedStore) -> None:
    answer = service(store).search(SearchRequest("vase", k=2))
    assert [r.rank for r in answer.results] == [1, 2]


def test_an_answer_names_its_tower_its_timings_and_that_nothing_reranked_it(store: EmbeddedStore) -> None:
    answer = service(store).search(SearchRequest("vase"))
    assert (answer.tower_id, answer.reranked, answer.failed_components) == (TOWER_ID, False, [])
    assert set(answer.timings_ms) == {"load", "encode", "retrieve", "total"}
    assert answer.timings_ms["total"] >= answer.timings_ms["encode"] + answer.timings_ms["retrieve"]


def test_the_reranker_gives_the_order_when_there_is_one(store: EmbeddedStore) -> None:
    first_stage = ids(store, "vase")
    answer = service(store, PriceRanker()).search(SearchRequest("vase"))
    assert [r.item_id for r in answer.results] == first_stage[::-1]
    assert answer.reranked
    assert "rerank" in answer.timings_ms


def test_a_request_can_do_without_the_reranker(store: EmbeddedStore) -> None:
    answer = service(store, PriceRanker()).search(SearchRequest("vase", rerank=False))
    assert ([r.item_id for r in answer.results], answer.reranked) == (ids(store, "vase"), False)


def test_a_failing_reranker_leaves_the_first_stage_order_and_says_so(store: EmbeddedStore) -> None:
    answer = service(store, DeadRanker()).search(SearchRequest("vase"))
    assert [r.item_id for r in answer.results] == ids(store, "vase")
    assert (answer.reranked, answer.failed_components) == (False, ["rerank"])


def test_a_reranker_that_cannot_be_loaded_is_done_without_as_well(store: EmbeddedStore) -> None:
    def damaged(tower_id: str) -> Ranker:
        raise RankerUnavailable("r.ubj is not a readable booster")

    answer = SearchService(store, SearchModels(WordEncoder, damaged)).search(SearchRequest("vase"))
    assert [r.item_id for r in answer.results] == ids(store, "vase")
    assert (answer.reranked, answer.failed_components) == (False, ["rerank"])


def test_a_reranker_of_other_features_is_refused(store: EmbeddedStore) -> None:
    def other(tower_id: str) -> Ranker:
        raise FeatureMismatch("r.ubj was trained on other features")

    with pytest.raises(FeatureMismatch):
        SearchService(store, SearchModels(WordEncoder, other)).search(SearchRequest("vase"))


def test_similarity_and_the_score_of_a_semantic_search_are_one_number(store: EmbeddedStore) -> None:
    for result in service(store).search(SearchRequest("old red watch", mode="semantic")).results:
        assert result.similarity == result.score


def test_similarity_is_the_cosine_whatever_the_mode(store: EmbeddedStore) -> None:
    vector = WordEncoder().encode(["red vase"])[0]
    for mode in ("hybrid", "semantic", "keyword"):
        result = service(store).search(SearchRequest("red vase", mode=mode)).results[0]  # type: ignore[arg-type]
        assert result.similarity == pytest.approx(float(vector @ LOTS[0].vector), abs=1e-5)


def test_a_buyer_sees_the_lot_and_not_its_vector(store: EmbeddedStore) -> None:
    fields = service(store).search(SearchRequest("red vase")).results[0].fields
    assert fields["title"] == "red vase"
    assert not {"embedding", "text", "tower_id", "release_id"} & set(fields)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (SearchRequest(""), "empty"),
        (SearchRequest(" \n\t "), "empty"),
        (SearchRequest("x" * 10_000), "10000 characters, at most 512"),
        (SearchRequest("\ufdfa" * 100), "1800 characters, at most 512"),  # one character that NFKC writes out as four words
        (SearchRequest("red\udcff vase"), "half a character"),
        (SearchRequest("vase", filters=Filter(brands=("\ud83d",))), "half a character"),
        (SearchRequest("vase", k=0), "k is 0"),
        (SearchRequest("vase", k=101), "k is 101; allowed are 1 to 100"),
        (SearchRequest("vase", mode="fuzzy"), "hybrid, semantic, keyword"),  # type: ignore[arg-type]
        (SearchRequest("vase", filters=Filter(min_price=-1)), "min_price is -1"),
        (SearchRequest("vase", filters=Filter(max_price=float("nan"))), "max_price is nan"),
        (SearchRequest("vase", filters=Filter(max_price=1e39)), "numbers from 0 to 1000000000000"),
        (SearchRequest("vase", filters=Filter(min_seller_rating=5.1)), "numbers from 0 to 5"),
        (SearchRequest("vase", filters=Filter(min_price=9, max_price=1)), "swap them"),
    ],
)
def test_a_request_out_of_its_limits_is_refused_by_name(request_: SearchRequest, words: str, store: EmbeddedStore) -> None:
    with pytest.raises(InvalidQuery, match=words):
        service(store).search(request_)


def test_an_index_of_another_tower_than_the_pinned_one_is_refused(store: EmbeddedStore) -> None:
    pinned = SearchService(store, SearchModels(lambda tower_id: WordEncoder(tower_id), tower_id="000000000000"))
    with pytest.raises(TowerMismatch, match=f"built with tower {TOWER_ID}, the query with 000000000000"):
        pinned.search(SearchRequest("vase"))


def test_without_an_index_the_answer_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="gavel index"):
        service(EmbeddedStore(tmp_path / "empty")).search(SearchRequest("vase"))


def test_a_swapped_alias_is_seen_without_a_restart(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    running = service(store)
    running.search(SearchRequest("lamp"))
    publish(store, [lot("l1", "new lamp")])
    monkeypatch.setattr("retrieval.search.live_index.LIVE_CHECK_S", 0.0)
    assert [r.item_id for r in running.search(SearchRequest("lamp")).results] == ["l1"]


def test_models_are_loaded_once_a_tower_and_not_once_a_search(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.search.live_index.LIVE_CHECK_S", 0.0)
    loaded: list[str] = []

    def load(tower_id: str) -> WordEncoder:
        loaded.append(tower_id)
        return WordEncoder(tower_id)

    running = SearchService(store, SearchModels(load))
    for _ in range(3):
        running.search(SearchRequest("vase"))
    assert loaded == [TOWER_ID]


class TellingRanker(PriceRanker):
    """Says that its scores are made of the first feature, and of what it expects."""

    def explain(self, features: np.ndarray) -> np.ndarray:
        told = np.zeros((len(features), features.shape[1] + 1), dtype=np.float32)
        told[:, 0] = self.score(features) - 0.5
        told[:, -1] = 0.5
        return told


def test_an_explanation_has_the_contributions_of_a_reranker_that_tells(store: EmbeddedStore) -> None:
    first_stage = ids(store, "vase")
    for result in service(store, TellingRanker()).search(SearchRequest("vase", explain=True)).results:
        told = result.explanation
        assert told is not None
        assert told.contributions is not None
        assert sum(told.contributions.values()) == pytest.approx(result.score)
        assert told.contributions["expected"] == 0.5
        assert first_stage[told.first_stage_rank - 1] == result.item_id  # type: ignore[operator]


@pytest.mark.parametrize("ranker", [PriceRanker(), DeadRanker()])
def test_an_explanation_without_contributions_has_its_features_nevertheless(ranker: Ranker, store: EmbeddedStore) -> None:
    for result in service(store, ranker).search(SearchRequest("vase", explain=True)).results:
        assert result.explanation is not None
        assert result.explanation.contributions is None
        assert result.explanation.features is not None
        assert result.explanation.features["similarity"] == pytest.approx(result.similarity, abs=1e-5)


def test_time_that_is_used_up_costs_the_reranking(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.deadline.Deadline.left", lambda self: 0.0)
    monkeypatch.setattr("retrieval.deadline.Deadline.limit", lambda self, seconds: seconds)
    answer = service(store, PriceRanker()).search(SearchRequest("vase"))
    assert ([r.item_id for r in answer.results], answer.failed_components) == (ids(store, "vase"), ["rerank"])


def test_a_search_without_any_time_does_not_begin(store: EmbeddedStore) -> None:
    with pytest.raises(IndexUnavailable, match="GAVEL_DEADLINE_S"):
        service(store, deadline_s=1e-9).search(SearchRequest("vase"))


@pytest.mark.parametrize(
    ("mode", "calls"), [("hybrid", ["hybrid"]), ("semantic", ["semantic", "keyword"]), ("keyword", ["keyword", "semantic"])]
)
def test_an_explanation_asks_the_index_for_the_list_alone_that_the_mode_leaves_out(
    mode: Mode, calls: list[str], store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("hybrid", "semantic", "keyword"):
        original = getattr(EmbeddedIndex, name)

        def counted(*args: Any, name: str = name, original: Any = original, **given: Any) -> Any:
            called.append(name)
            return original(*args, **given)

        monkeypatch.setattr(EmbeddedIndex, name, counted)
    answer = service(store).search(SearchRequest("red vase", mode=mode, explain=True))
    first = answer.results[0].explanation
    assert called == calls
    assert first is not None
    assert (first.semantic_rank, first.keyword_rank) == (1, 1)
    assert first.bm25 is not None
