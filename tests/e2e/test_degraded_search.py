"""A search over a real OpenSearch, parts of which fail, hang or are gone: what is done without, and how long it takes."""

import time
import uuid
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from index_in_front import FETCH, HYBRID, KEYWORD, SEMANTIC, Trouble, in_front_of
from lots import WordEncoder, lot, publish

from gavel.opensearch import node as opensearch_node
from lambdas.query_api.app import create_app
from retrieval import resilience as circuit
from retrieval.errors import IndexUnavailable, TowerError
from retrieval.index.opensearch.store import OpenSearchStore
from retrieval.search.service import SearchLimits, SearchModels, SearchRequest, SearchService

LOTS = [lot("v1", "red vase"), lot("v2", "blue vase"), lot("w1", "gold watch"), lot("w2", "silver watch")]
TIMEOUT_S = 2.0
DEADLINE_S = 5.0


@pytest.fixture
def trouble(opensearch_url: str) -> Iterator[Trouble]:
    with in_front_of(opensearch_url) as made:
        yield made


@pytest.fixture
def store(trouble: Trouble, opensearch_url: str) -> Iterator[OpenSearchStore]:
    """A store that is reached through the proxy; its lots came by the direct way."""
    alias = f"lots-{uuid.uuid4().hex[:8]}"
    direct = OpenSearchStore(opensearch_url, alias=alias)
    index = publish(direct, LOTS)
    yield OpenSearchStore(trouble.url, alias=alias, timeout_s=TIMEOUT_S)
    direct._client.indices.delete(index=index.name)


@pytest.fixture
def service(store: OpenSearchStore, monkeypatch: pytest.MonkeyPatch) -> SearchService:
    monkeypatch.setattr(circuit, "FAILURES", 2)
    monkeypatch.setattr(circuit, "RECOVERY_S", 60.0)
    made = SearchService(store, SearchModels(WordEncoder), SearchLimits(retrieve_timeout_s=TIMEOUT_S, deadline_s=DEADLINE_S))
    made.live()
    return made


def ids(service: SearchService, mode: str = "hybrid") -> list[str]:
    return [r.item_id for r in service.search(SearchRequest("red vase", mode=mode)).results]  # type: ignore[arg-type]


def test_a_keyword_list_that_fails_leaves_the_semantic_one(service: SearchService, trouble: Trouble) -> None:
    semantic = ids(service, "semantic")
    trouble.failing = {KEYWORD}
    answer = service.search(SearchRequest("red vase"))
    assert [r.item_id for r in answer.results] == semantic
    assert answer.failed_components == ["keyword"]


def test_a_semantic_list_that_fails_leaves_the_keyword_one(service: SearchService, trouble: Trouble) -> None:
    keyword = ids(service, "keyword")
    trouble.failing = {SEMANTIC}
    answer = service.search(SearchRequest("red vase"))
    assert [r.item_id for r in answer.results] == keyword
    assert answer.failed_components == ["semantic"]
    assert answer.results[0].similarity == pytest.approx(1, abs=1e-5), "the query was encoded, and lots have their vectors"


def test_when_only_the_hybrid_query_fails_the_two_lists_are_fused_here(service: SearchService, trouble: Trouble) -> None:
    whole = service.search(SearchRequest("red vase"))
    trouble.failing = {HYBRID}
    answer = service.search(SearchRequest("red vase"))
    assert [(r.item_id, r.score) for r in answer.results] == [(r.item_id, r.score) for r in whole.results]
    assert answer.failed_components == []


def test_a_list_that_hangs_costs_its_timeout_a_few_times_and_then_nothing(service: SearchService, trouble: Trouble) -> None:
    trouble.sleeping, trouble.seconds = {SEMANTIC}, 20.0
    for _ in range(circuit.FAILURES):
        start = time.monotonic()
        assert service.search(SearchRequest("red vase")).failed_components == ["semantic"]
        assert time.monotonic() - start < 2 * TIMEOUT_S + 1.5, "the hybrid query and the semantic one"
    assert (service.circuits()["hybrid"], service.circuits()["semantic"]) == ("open", "open")
    asked = len(trouble.requests)
    start = time.monotonic()
    assert service.search(SearchRequest("red vase")).failed_components == ["semantic"]
    assert time.monotonic() - start < 1.0
    assert [SEMANTIC in request for request in trouble.requests[asked:]].count(True) == 0


def test_an_encoder_that_fails_leaves_words(store: OpenSearchStore, service: SearchService) -> None:
    class Broken(WordEncoder):
        def encode(self, texts):  # type: ignore[no-untyped-def]
            raise TowerError("the query tower cannot be run")

    without = SearchService(store, SearchModels(Broken))
    answer = without.search(SearchRequest("red vase"))
    assert [r.item_id for r in answer.results] == ids(service, "keyword")
    assert answer.failed_components == ["semantic"]
    assert {r.similarity for r in answer.results} == {None}
    with pytest.raises(TowerError, match="mode=keyword"):
        without.search(SearchRequest("red vase", mode="semantic"))


def test_a_hanging_index_is_a_503_within_the_deadline_and_soon_at_once(service: SearchService, trouble: Trouble) -> None:
    client = TestClient(create_app(lambda: service))
    trouble.sleeping, trouble.seconds = {"/"}, 30.0
    took = []
    for _ in range(circuit.FAILURES + 1):
        start = time.monotonic()
        answer = client.get("/search", params={"q": "red vase"})
        took.append(time.monotonic() - start)
        assert (answer.status_code, answer.json()["type"]) == (503, "index_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert max(took) < DEADLINE_S + TIMEOUT_S + 1
    assert took[-1] < TIMEOUT_S + 0.5, "every circuit is open; the alias alone may have been looked at"


def test_a_buyer_that_cannot_be_looked_up_is_done_without(service: SearchService, trouble: Trouble) -> None:
    client = TestClient(create_app(lambda: service))
    trouble.failing = {FETCH}
    acts = [{"item_id": "v2", "event_type": "view", "timestamp": "2026-11-21T20:00:00Z"}]
    answer = client.post("/search", json={"q": "red vase", "recent_interactions": acts}).json()
    assert (answer["results"][0]["item_id"], answer["degraded"]) == ("v1", ["buyer"])
    assert client.post("/encode_buyer", json={"events": acts}).status_code == 503


@pytest.mark.usefixtures("needs_java")
def test_a_node_that_is_stopped_and_comes_back(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    port = opensearch_node.free_port()
    monkeypatch.setattr(circuit, "RECOVERY_S", 0.2)
    try:
        url = opensearch_node.start(tmp_path, port, heap="512m").url
        store = OpenSearchStore(url)
        publish(store, LOTS)
        service = SearchService(store, SearchModels(WordEncoder), SearchLimits(retrieve_timeout_s=10, deadline_s=30))
        before = ids(service)
        opensearch_node.stop(tmp_path)
        for mode in ("hybrid", "semantic", "keyword"):
            with pytest.raises(IndexUnavailable):
                service.search(SearchRequest("red vase", mode=mode))  # type: ignore[arg-type]
        opensearch_node.start(tmp_path, port, heap="512m")
        time.sleep(0.3)
        assert ids(service) == before
    finally:
        opensearch_node.stop(tmp_path)
