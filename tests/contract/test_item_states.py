"""States by HTTP: a bidding system sets price, bids, end and status of lots, one by one or a thousand at a time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from index_lots import axis, lot

from lambdas.query_api.app import create_app
from lambdas.query_api.item_states import item_states_router
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.live_index import SearchModels
from retrieval.search.service import SearchService

TOKEN = "correct horse"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class OneDirection:
    """An encoder that gives every query the first axis."""

    tower_id = "0123456789ab"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.stack([axis(0) for _ in texts])


@pytest.fixture
def service(tmp_path: Path) -> SearchService:
    store = EmbeddedStore(tmp_path)
    index = store.create(OneDirection.tower_id, 16)
    soon = datetime.now(UTC) + timedelta(hours=1)
    index.upsert(
        lot(item_id, axis(0, tilt / 10), ends_at=soon, current_price=10.0) for tilt, item_id in enumerate(("v1", "a/b", "v3"))
    )
    store.publish(index.name)
    return SearchService(store, SearchModels(lambda tower_id: OneDirection()))


@pytest.fixture
def client(service: SearchService) -> Iterator[TestClient]:
    app = create_app(lambda: service)
    app.include_router(item_states_router(lambda: service.live().index, TOKEN, service.forget_answers))
    with TestClient(app, headers=BEARER) as client:
        yield client


def found(client: TestClient, **parameters: Any) -> list[str]:
    answer = client.get("/search", params={"q": "lot", **parameters})
    return sorted(result["item_id"] for result in answer.json()["results"])


def test_a_bid_is_in_the_next_answer_and_in_the_lot_with_its_version(client: TestClient) -> None:
    assert found(client, max_price=15) == ["a/b", "v1", "v3"]
    answer = client.patch("/items/v1/state", json={"version": 7, "current_price": 20.5, "bid_count": 3})
    assert (answer.status_code, answer.json()) == (200, {"item_id": "v1", "outcome": "applied"})
    assert found(client, max_price=15) == ["a/b", "v3"]
    details = client.get("/items/v1").json()
    assert (details["fields"]["current_price"], details["fields"]["bid_count"]) == (20.5, 3)
    assert details["state_versions"] == {"current_price": 7, "bid_count": 7}
    assert client.get("/items/v3").json()["state_versions"] == {}


def test_an_id_may_hold_a_slash(client: TestClient) -> None:
    assert client.patch("/items/a%2Fb/state", json={"status": "withdrawn"}).json()["outcome"] == "applied"
    assert found(client) == ["v1", "v3"]


def test_every_state_of_a_list_has_its_outcome(client: TestClient) -> None:
    client.patch("/items/v3/state", json={"version": 9, "bid_count": 9})
    body: list[dict[str, Any]] = [
        {"item_id": "v1", "version": 1, "current_price": 11},
        {"item_id": "v3", "version": 8, "bid_count": 8},
        {"item_id": "nobody", "bid_count": 1},
        {"item_id": "v1", "prize": 3},
        {"bid_count": 1},
        {"item_id": "v1", "ends_at": "tomorrow"},
    ]
    results = client.post("/items/state", json=body).json()["results"]
    assert [result["outcome"] for result in results] == ["applied", "stale", "unknown", "refused", "refused", "refused"]
    assert "did you mean" in results[3]["reason"]
    assert "item_id is missing" in results[4]["reason"]
    assert "ends_at" in results[5]["reason"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "names no field"),
        ({"version": 3}, "names no field"),
        ({"current_price": -1}, "current_price"),
        ({"bid_count": 1.5}, "whole number"),
        ({"status": "gone"}, "open, withdrawn, sold, unsold"),
        ({"reserve_met": "yes"}, "true or false"),
        ({"ends_at": " "}, "null"),
        ({"version": "1", "bid_count": 1}, "version"),
        ({"version": 99_999_999_999_999_999, "bid_count": 1}, "future"),
    ],
)
def test_a_state_that_breaks_the_contract_is_refused_with_its_field(client: TestClient, body: dict[str, Any], says: str) -> None:
    answer = client.patch("/items/v1/state", json=body)
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")
    assert says in answer.json()["detail"]


@pytest.mark.parametrize("body", [[], [{"item_id": "v1", "bid_count": 1}] * 1_001, {"item_id": "v1"}])
def test_a_list_has_one_to_a_thousand_states(client: TestClient, body: Any) -> None:
    assert client.post("/items/state", json=body).status_code == 400


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}])
def test_writing_needs_the_token_and_reading_does_not(client: TestClient, header: dict[str, str]) -> None:
    client.headers.pop("Authorization")
    answer = client.patch("/items/v1/state", json={"bid_count": 1}, headers=header)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/items/v1").status_code == 200


def test_without_a_token_no_server_takes_states(service: SearchService) -> None:
    app = create_app(lambda: service)
    app.include_router(item_states_router(lambda: service.live().index, ""))
    answer = TestClient(app).patch("/items/v1/state", json={"bid_count": 1}, headers={"Authorization": "Bearer "})
    assert (answer.status_code, answer.json()["type"]) == (403, "forbidden")
    assert "GAVEL_WRITE_TOKEN" in answer.json()["detail"]


def test_a_deleted_lot_is_gone_and_an_older_row_of_it_stays_away(client: TestClient, service: SearchService) -> None:
    assert client.delete("/items/v3", params={"version": 0}).json() == {"item_id": "v3", "outcome": "stale"}
    assert client.delete("/items/v3", params={"version": 8}).json() == {"item_id": "v3", "outcome": "applied"}
    assert client.get("/items/v3").status_code == 404
    index = service.live().index
    index.upsert([lot("v3", version=7)])
    index.refresh()
    assert found(client) == ["a/b", "v1"]
