"""What a search service keeps: encoded queries, and answers for a short while."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from lots import WordEncoder, lot, publish

from retrieval.errors import RankerUnavailable
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter, utc_now
from retrieval.index.fusion import Fusion
from retrieval.search.diversification import Diversity
from retrieval.search.service import SearchLimits, SearchModels, SearchRequest, SearchService

NOW = utc_now()
LOTS = [lot("v1", "red vase", ends_at=NOW + timedelta(hours=1)), lot("v2", "blue vase"), lot("w1", "gold watch")]


class CountingEncoder(WordEncoder):
    """Notes what it is asked to encode."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        return super().encode(texts)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    return store


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


@pytest.fixture
def service(store: EmbeddedStore, encoder: CountingEncoder) -> SearchService:
    return SearchService(store, SearchModels(lambda tower_id: encoder), SearchLimits(cached_answers_s=60))


def at(moment_hours: float = 0, **asked: object) -> SearchRequest:
    filters = Filter(now=NOW + timedelta(hours=moment_hours))
    return SearchRequest(**{"query": "red vase", "filters": filters, **asked})  # type: ignore[arg-type]


def test_a_query_is_encoded_once_however_it_is_spaced(service: SearchService, encoder: CountingEncoder) -> None:
    for query in ("red vase", " red  vase "):
        service.search(at(query=query, k=1))
    service.search(at(query="red vase", k=2))
    assert encoder.asked == [["red vase"]]
    assert service.caches()["embeddings"].hits == 1, "the second was answered from the cache of answers"


def test_several_queries_are_encoded_together_and_each_once(service: SearchService, encoder: CountingEncoder) -> None:
    service.search(at(query="gold watch"))
    service.search_many([at(query=query) for query in ("red vase", "gold watch", "blue vase", "red vase")])
    assert encoder.asked == [["gold watch"], ["red vase", "blue vase"]]


def test_an_answer_is_kept_for_the_same_question_alone(service: SearchService) -> None:
    first = service.search(at())
    again = service.search(at(0.5))
    assert (first.cached, again.cached) == (False, True)
    assert again.results == first.results
    assert set(again.timings_ms) == {"load", "total"}
    for other in (at(k=2), at(mode="keyword"), at(query="vase"), at(offset=1), at(explain=True), at(rerank=False)):
        assert not service.search(other).cached
    for other in (at(fusion=Fusion()), at(fusion=Fusion("min_max", (0.7, 0.3))), at(diversity=Diversity(0.5))):
        assert not service.search(other).cached
    filtered = SearchRequest("red vase", filters=Filter(max_price=5, now=NOW))
    assert not service.search(filtered).cached
    assert (service.caches()["answers"].hits, service.caches()["answers"].misses) == (1, 11)


def test_a_kept_answer_drops_a_lot_that_ended_meanwhile(service: SearchService) -> None:
    assert service.search(at()).results[0].item_id == "v1"
    later = service.search(at(2))
    assert "v1" not in [result.item_id for result in later.results]
    assert not later.cached
    assert service.search(at(2)).cached


def test_an_answer_is_found_under_the_very_words_that_it_was_stored_under(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, [lot("12", "red vase"), lot("\u0661\u0662", "blue vase"), lot("w1", "gold watch 12")])
    service = SearchService(store, SearchModels(WordEncoder), SearchLimits(cached_answers_s=60))
    first = {query: service.search(at(query=query)).results[0].item_id for query in ("12", "\u0661\u0662", "\uff11\uff12")}
    assert first == {"12": "12", "\u0661\u0662": "\u0661\u0662", "\uff11\uff12": first["\uff11\uff12"]}
    assert service.caches()["answers"].hits == 0, "one text, three ids: three questions"
    for query, item_id in first.items():
        again = service.search(at(query=query))
        assert (again.cached, again.results[0].item_id) == (True, item_id)


def test_a_store_of_long_descriptions_fills_no_cache_beyond_its_bytes(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, [lot(f"v{n}", f"red vase {n}", description="\u0627\u0628 " * 20_000) for n in range(60)])
    service = SearchService(store, SearchModels(WordEncoder), SearchLimits(cached_answers_s=60, cached_bytes=300_000))
    for number in range(60):
        answer = service.search(at(query=f"red vase {number}", k=50))
        assert all(result.fields["description_cut"] for result in answer.results)
    answers = service.caches()["answers"]
    assert 0 < answers.bytes <= 300_000
    assert 1 <= answers.entries < 10
    assert len(str(service.item("v1")["description"])) > 50_000


def test_an_answer_that_did_without_something_is_not_kept(store: EmbeddedStore) -> None:
    class Dead:
        def score(self, features: np.ndarray) -> np.ndarray:
            raise RankerUnavailable("no answer")

    service = SearchService(store, SearchModels(WordEncoder, lambda tower_id: Dead()), SearchLimits(cached_answers_s=60))
    for _ in range(2):
        assert (service.search(at()).failed_components, service.search(at()).cached) == (["rerank"], False)


def test_another_index_has_answers_of_its_own(
    service: SearchService, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.search(at())
    publish(store, [lot("n1", "new red vase")])
    monkeypatch.setattr("retrieval.search.live_index.LIVE_CHECK_S", 0.0)
    assert [result.item_id for result in service.search(at()).results] == ["n1"]


def test_without_being_asked_to_a_service_keeps_no_answers(store: EmbeddedStore) -> None:
    service = SearchService(store, SearchModels(WordEncoder))
    assert [service.search(at()).cached for _ in range(2)] == [False, False]
