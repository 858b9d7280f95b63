"""Filters over HTTP: the same names in an address and in a body, several values of a name, and what is refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from lots import WordEncoder, lot, publish

from lambdas.query_api.app import create_app
from retrieval.contracts.documents import IndexedItem
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchModels, SearchService

TOMORROW, LATER = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) + timedelta(days=9)
LOTS = [
    lot("a", "vase", category="Art > Vases", brand="Kosta", seller="anna", bid_count=3, current_price=10.0, ends_at=TOMORROW),
    lot("b", "vase", category="Art", brand="Orrefors", seller="bo", attributes={"colour": "red", "size": 42}),
    lot("c", "vase", category="Rings", listed_at=datetime(2026, 1, 1, tzinfo=UTC), attributes={"colour": "blue", "size": 40}),
    lot("d", "vase", seller="bo", bid_count=9, ends_at=LATER),
]
MOMENT = (TOMORROW + timedelta(days=1)).isoformat()
ALLOWED: list[tuple[dict[str, Any], str]] = [
    ({"category": "art"}, "a b"),
    ({"category": ["Art>Vases", "rings"]}, "a c"),
    ({"not_category": "art"}, "c d"),
    ({"brand": ["KOSTA", "orrefors"]}, "a b"),
    ({"not_brand": ["kosta", "orrefors"]}, "c d"),
    ({"seller": ["anna", "bo"]}, "a b d"),
    ({"seller": "bo", "not_category": ["art"]}, "d"),
    ({"not_seller": "bo"}, "a c"),
    ({"min_bids": 1, "max_bids": 3}, "a"),
    ({"has_photo": False}, "d"),
    ({"has_photo": True, "min_price": 1}, "a"),
    ({"listed_after": "2025-12-31T00:00:00Z"}, "c"),
    ({"ends_after": MOMENT}, "b c d"),
    ({"ends_before": MOMENT}, "a"),
    ({"attr.colour": "red"}, "b"),
    ({"attr.Colour": ["red", "blue"], "attr.size": "41..43"}, "b"),
    ({"attr.size": "42"}, "b"),
    ({"attribute": ["colour:blue"]}, "c"),
    ({"not_attr.colour": ["red"]}, "a c d"),
    ({"not_attribute": ["size:41.."], "attr.size": "..100"}, "c"),
]


def shop(root: Path, *lots: IndexedItem) -> TestClient:
    store = EmbeddedStore(root / "index")
    publish(store, [replace(one, document={**one.document, "has_image": one.item_id != "d"}) for one in lots])
    service = SearchService(store, SearchModels(WordEncoder))
    return TestClient(create_app(lambda: service), raise_server_exceptions=False)


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return shop(tmp_path, *LOTS)


def ids(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return " ".join(sorted(item["item_id"] for item in answer.json()["results"]))


@pytest.mark.parametrize(("filters", "expected"), ALLOWED)
def test_address_and_body_name_the_same_filters(client: TestClient, filters: dict[str, Any], expected: str) -> None:
    written = {name: str(value).lower() if isinstance(value, bool) else value for name, value in filters.items()}
    assert ids(client.get("/search", params={"q": "vase", **written})) == expected
    assert ids(client.post("/search", json={"q": "vase", **filters})) == expected
    by_vector = client.post(
        "/retrieve", json={"vector": client.post("/encode_query", json={"q": "vase"}).json()["query_embedding"], **filters}
    )
    assert ids(by_vector) == expected


def test_attributes_of_a_body_may_be_numbers_and_join_the_other_conditions(client: TestClient) -> None:
    assert ids(client.post("/search", json={"q": "vase", "attr.size": 42})) == "b"
    assert ids(client.post("/search", json={"q": "vase", "attr.size": [42, 40], "attributes": {"colour": "blue"}})) == "c"
    assert ids(client.post("/search", json={"q": "vase", "blocked_categories": ["rings"], "not_seller": "anna"})) == "b d"
    assert ids(client.post("/search", json={"q": "vase", "category": None})) == "a b c d"


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"has_photo": "perhaps"}, "has_photo"),
        ({"min_bids": -1}, "min_bids"),
        ({"min_bids": 5, "max_bids": 1}, "min_bids 5 is above max_bids 1; swap them"),
        ({"ends_after": "tomorrow"}, "ends_after"),
        ({"ends_after": MOMENT, "ends_before": TOMORROW.isoformat()}, "later than ends_before"),
        ({"category": [str(number) for number in range(101)]}, "category"),
        ({"attr.": "red"}, "write NAME:VALUE"),
        ({"attr.colour": ""}, "write NAME:VALUE"),
        ({"attrcolour": "red"}, "attrcolour"),
    ],
)
def test_a_bad_filter_is_refused_by_its_name(client: TestClient, filters: dict[str, Any], message: str) -> None:
    for answer in (client.get("/search", params={"q": "vase", **filters}), client.post("/search", json={"q": "vase", **filters})):
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["detail"]


def test_a_body_refuses_an_attribute_that_is_neither_text_nor_number(client: TestClient) -> None:
    for value in (True, None, {"min": 1}, [[1]]):
        answer = client.post("/search", json={"q": "vase", "attr.size": value})
        assert (answer.status_code, "attr.size" in answer.json()["detail"]) == (400, True), answer.text


def test_a_parameter_of_one_value_given_twice_is_refused_by_every_route(client: TestClient) -> None:
    tried = 0
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] != "query":
                    continue
                name, tried = parameter["name"], tried + 1
                address = f"{path.replace('{item_id}', 'a').replace('{buyer_id}', 'b')}?{name}=1&{name}=2"
                answer = client.request(method.upper(), address)
                takes_several = parameter["schema"].get("type") == "array"
                assert (f"{name}: given 2 times; give it once" in answer.text) != takes_several, (address, answer.text)
    assert tried > 60
