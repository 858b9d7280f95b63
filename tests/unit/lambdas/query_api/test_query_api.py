"""The HTTP face of search: answers, limits and errors."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient
from lots import TOWER_ID, WORDS, WordEncoder, lot, publish

from lambdas.query_api import strict_route
from lambdas.query_api.app import create_app
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchModels, SearchService

LOTS = [lot("v1", "red vase", category="vases", current_price=10.0), lot("v2", "blue vase", category="vases", current_price=90.0)]


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "index")


@pytest.fixture
def client(store: EmbeddedStore) -> TestClient:
    service = SearchService(store, SearchModels(WordEncoder))
    return TestClient(create_app(lambda: service), raise_server_exceptions=False)


def test_a_search_by_query_string_answers_ranked_lots(client: TestClient, store: EmbeddedStore) -> None:
    publish(store, LOTS)
    answer = client.get("/search", params={"q": "red vase", "k": 1}).json()
    assert [(lot["rank"], lot["item_id"]) for lot in answer["results"]] == [(1, "v1")]
    assert (answer["tower_id"], answer["reranked"], answer["degraded"]) == (TOWER_ID, False, [])
    assert set(answer["timings_ms"]) == {"load", "encode", "retrieve", "total"}


def test_a_search_by_body_is_the_same_search(client: TestClient, store: EmbeddedStore) -> None:
    publish(store, LOTS)
    question: dict[str, Any] = {"q": "vase", "mode": "semantic", "max_price": 50}
    by_body, by_string = client.post("/search", json=question), client.get("/search", params=question)
    assert by_body.json()["results"] == by_string.json()["results"]
    assert [lot["item_id"] for lot in by_body.json()["results"]] == ["v1"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "q: Field required"),
        ({"q": ""}, "q: "),
        ({"q": "   "}, "the query is empty"),
        ({"q": "x" * 10_000}, "at most 512 characters"),
        ({"q": "vase", "k": 101}, "k: "),
        ({"q": "vase", "k": "ten"}, "k: "),
        ({"q": "vase", "offset": -1}, "offset: "),
        ({"q": "vase", "offset": 401}, "offset: "),
        ({"q": "vase", "category": "x" * 1_001}, "category: "),
        ({"q": "vase", "max_price": 1e13}, "max_price: "),
        ({"q": "vase", "mode": "fuzzy"}, "'hybrid', 'semantic' or 'keyword'"),
        ({"q": "vase", "min_price": "nan"}, "min_price: "),
        ({"q": "vase", "min_seller_rating": 6}, "min_seller_rating: "),
        ({"q": "vase", "colour": "red"}, "colour: "),
        ({"q": "vase", "min_price": 9, "max_price": 1}, "swap them"),
        ({"q": "vase", "fusion": "borda"}, "fusion is 'borda'; allowed are rrf, min_max, l2"),
        ({"q": "vase", "fusion": "min_max:much,little"}, "write a kind, or a kind with two weights, such as min_max:0.7,0.3"),
        ({"q": "vase", "fusion": "l2:0,0"}, "give two numbers >= 0, one of them above 0"),
        ({"q": "vase", "fusion": "x" * 65}, "fusion: "),
        ({"q": "vase", "diversity": 1.5}, "diversity: "),
        ({"q": "vase", "most_per_brand": 0}, "most_per_brand: "),
        ({"q": "vase", "most_per_seller": 101}, "most_per_seller: "),
    ],
)
def test_a_bad_question_is_a_problem_that_names_the_field(
    params: dict[str, Any], words: str, client: TestClient, store: EmbeddedStore
) -> None:
    publish(store, LOTS)
    answer = client.get("/search", params=params)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("invalid_query", 400)
    assert words in problem["detail"]


def test_a_body_over_a_megabyte_is_refused_unread(client: TestClient) -> None:
    answer = client.post("/search", content=b" " * 1_000_001, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (413, "body_too_large")


def test_a_body_of_unknown_length_is_refused_unread(client: TestClient) -> None:
    answer = client.post("/search", content=iter([b" "]), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")
    assert "Content-Length" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[1]", b"[]"])
def test_a_body_that_is_not_a_json_object_is_a_problem(body: bytes, client: TestClient) -> None:
    answer = client.post("/search", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")


def operations(client: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method, path.replace("{item_id}", "v1").replace("{buyer_id}", "b-1"), operation


def sent(operation: dict[str, Any]) -> dict[str, Any]:
    """A body that an operation reads, and its type."""
    kinds = list(operation.get("requestBody", {}).get("content", {}))
    return {"content": b"{}", "headers": {"content-type": kinds[0]}} if kinds else {}


def test_a_parameter_that_takes_one_value_is_refused_when_it_is_given_twice(client: TestClient, store: EmbeddedStore) -> None:
    publish(store, LOTS)
    tried = 0
    for method, path, operation in operations(client):
        for parameter in operation.get("parameters", []):
            if parameter["in"] != "query" or parameter["schema"].get("type") == "array":
                continue
            for values in (["1", "2"], ["1", "1"], ["", "1"]):
                params = {"q": "vase"} if path == "/search" else {}
                answer = client.request(method, path, params={**params, parameter["name"]: values}, **sent(operation))
                assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query"), (path, parameter["name"])
                assert answer.json()["detail"] == f"{parameter['name']}: given 2 times; give it once"
                tried += 1
    assert tried > 100


def test_a_parameter_that_no_route_knows_is_refused_by_every_route(client: TestClient, store: EmbeddedStore) -> None:
    publish(store, LOTS)
    for method, path, operation in operations(client):
        answer = client.request(method, path, params={"colour": "red"}, **sent(operation))
        assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query"), path
        assert answer.json()["detail"].startswith("colour: there is no such parameter; ")
    assert "takes category, not_category, brand" in client.get("/search", params={"query": "vase"}).json()["detail"]
    assert "limit: " in client.delete("/buyers/b-1", params={"limit": 5}).json()["detail"], "it would erase more than it names"


def test_several_lots_and_numbers_of_a_vector_are_parameters_that_are_given_several_times(
    client: TestClient, store: EmbeddedStore
) -> None:
    publish(store, LOTS)
    assert client.get("/retrieve", params={"item_id": ["v1", "v2"], "exclude": "none"}).status_code == 200
    assert client.get("/retrieve", params={"vector": [1.0] * (len(WORDS) + 1)}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/search", '{"q": "vase", "q": "lamp"}', "q"),
        ("/search", '{"q": "vase", "category": null, "category": "rings"}', "category"),
        ("/search", '[{"q": "vase"}, {"q": "vase", "k": 1, "k": 1}]', "k"),
        ("/search", '{"q": "vase", "recent_interactions": [{"item_id": "v1", "item_id": "v2"}]}', "item_id"),
        ("/search", '{"q": "vase", "\\u0071": "lamp"}', "q"),
        ("/search", '{"q": "vase", "\\ud83d": 1, "\\ud83d": 2}', "\\ud83d"),
        ("/retrieve", '{"buyer_id": "a", "buyer_id": "b"}', "buyer_id"),
        ("/encode_buyer", '{"events": [], "events": []}', "events"),
    ],
)
def test_a_key_that_a_body_has_twice_is_refused_by_name(
    path: str, body: str, name: str, client: TestClient, store: EmbeddedStore
) -> None:
    publish(store, LOTS)
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")
    assert answer.json()["detail"] == f"'{name}': given 2 times in one object of the body; give it once"


class CountedKey(str):
    """A key that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        CountedKey.compared += 1
        return str.__eq__(self, other)


def test_the_key_that_is_given_twice_is_found_among_many_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(CountedKey(n), n) for n in [*range(20_000), 19_999]]
    monkeypatch.setattr(CountedKey, "compared", 0)
    with pytest.raises(HTTPException, match="'19999': given 2 times in one object of the body"):
        strict_route.read_unique_keys(pairs)
    assert CountedKey.compared < 10 * len(pairs)


def test_thousands_of_keys_and_parameters_are_refused(client: TestClient, store: EmbeddedStore) -> None:
    publish(store, LOTS)
    keys = ", ".join(f'"{n}": {n}' for n in [*range(20_000), 19_999])
    answer = client.post("/retrieve", content=f"{{{keys}}}", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["detail"][:22]) == (400, "'19999': given 2 times")
    answer = client.get(f"/search?{'q=vase&' * 8_000}")
    assert (answer.status_code, answer.json()["detail"]) == (400, "q: given 8000 times; give it once")


def test_a_field_that_is_misspelt_is_named_beside_the_one_that_is_missing(client: TestClient, store: EmbeddedStore) -> None:
    publish(store, LOTS)
    detail = client.post("/search", json={"query": "vase"}).json()["detail"]
    assert "q: Field required" in detail
    assert "query: " in detail


def test_a_body_without_its_length_is_cut_off_at_a_megabyte(client: TestClient) -> None:
    async def ask() -> list[dict[str, Any]]:
        """As Mangum asks in Lambda: the body comes whole and no header says how long it is."""
        scope = {"type": "http", "method": "POST", "path": "/search", "raw_path": b"/search", "query_string": b"", "root_path": ""}
        headers = [(b"content-type", b"application/json")]
        told: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b" " * 1_000_001, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        await client.app({**scope, "headers": headers, "client": ("192.0.2.7", 0), "server": ("api.example", 443)}, receive, send)
        return told

    start, body = asyncio.run(ask())
    assert (start["status"], json.loads(body["body"])["type"]) == (413, "body_too_large")


def test_half_a_character_is_a_bad_question_and_no_crash(client: TestClient, store: EmbeddedStore) -> None:
    publish(store, LOTS)
    answer = client.post("/search", content=b'{"q": "vase \\ud83d"}', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")


def test_without_an_index_the_api_is_unavailable_and_says_when_to_come_again(client: TestClient) -> None:
    for path in ("/search?q=vase", "/health"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (503, "index_unavailable")
        assert int(answer.headers["retry-after"]) > 0


def test_health_names_the_live_index(client: TestClient, store: EmbeddedStore) -> None:
    index = publish(store, LOTS)
    told = client.get("/health").json()
    assert {name: told[name] for name in ("status", "index", "tower_id", "items")} == {
        "status": "ok",
        "index": index.name,
        "tower_id": TOWER_ID,
        "items": 2,
    }


def test_an_unknown_path_is_a_problem_too(client: TestClient) -> None:
    answer = client.get("/nowhere")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["type"] == "not_found"


def test_another_method_is_a_problem_that_names_the_allowed_ones(client: TestClient) -> None:
    answer = client.put("/health")
    assert (answer.status_code, answer.json()["type"], answer.headers["allow"]) == (405, "method_not_allowed", "GET")


def test_the_api_describes_itself(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/search",
        "/search/image",
        "/health",
        "/items/{item_id}",
        "/items/{item_id}/similar",
        "/encode_query",
        "/encode_buyer",
        "/retrieve",
        "/buyers/{buyer_id}",
    }
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            own = {"404"} if "item_id" in path else {"403"} if method == "delete" else set()
            own |= {"413", "415"} if method == "post" else set()
            own -= {"415"} if path == "/search/image" else set()
            assert set(operation["responses"]) == {"200", "400", "429", "503"} | own
            problems = {status: answer["content"] for status, answer in operation["responses"].items() if status != "200"}
            assert all("examples" in content["application/problem+json"] for content in problems.values())
    for body in ("SearchBody", "QueryText", "BuyerEvents", "RetrieveBody"):
        assert "example" in described["components"]["schemas"][body]
    assert "ValidationError" not in json.dumps(described)


def test_a_page_of_a_listed_origin_may_read_answers_and_no_other(store: EmbeddedStore) -> None:
    publish(store, LOTS)
    app = create_app(lambda: SearchService(store, SearchModels(WordEncoder)), ["https://shop.example"])
    listed, other = (
        TestClient(app).get("/search", params={"q": "vase"}, headers={"Origin": origin})
        for origin in ("https://shop.example", "https://other.example")
    )
    assert listed.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in other.headers
