"""Whole lots by HTTP, on both indices: found by the next search, replaced by later rows, untouched by older ones."""

import base64
import io
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from index_lots import DIMENSIONS, TOWER_ID, axis, lot
from PIL import Image

from gavel.web.photo_files import PhotoFiles
from gavel.workspace.folders import Workspace
from gavel.workspace.item_writer import MAX_BATCH, ItemWriter
from lambdas.query_api.app import create_app
from lambdas.query_api.item_puts import add_item_puts
from lambdas.query_api.item_states import item_states_router
from processing.embedding.thumbnails import Side
from retrieval.config.settings import Settings
from retrieval.contracts.item_puts import PutResult, read_put
from retrieval.contracts.items import Item, epoch_ms
from retrieval.encoders.photos import Photo
from retrieval.errors import TowerError
from retrieval.index.port import IndexStore
from retrieval.search.live_index import SearchModels
from retrieval.search.service import SearchLimits, SearchService

TOKEN = "correct horse"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NOW = datetime.now(UTC)
COLOURS = ("red", "green", "blue")


class Colours:
    """Queries and items, each along the axis of the colour that its words or, first of all, its photo show."""

    tower_id, image_size = TOWER_ID, 8

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun, self.held = threading.Event(), threading.Event()
        self.held.set()

    def encode(self, items: Sequence[Any], photos: Sequence[Photo | None] = ()) -> np.ndarray:
        self.begun.set()
        assert self.held.wait(30)
        texts = [item.title if isinstance(item, Item) else item for item in items]
        if photos:
            self.batches.append(len(items))
        shown = [None if photo is None else int(photo.mean(axis=(0, 1)).argmax()) for photo in photos or [None] * len(items)]
        named = [next((n for n, colour in enumerate(COLOURS) if colour in text), 3) for text in texts]
        return np.stack([axis(named[row] if shown[row] is None else shown[row]) for row in range(len(items))])


@pytest.fixture
def encoder() -> Colours:
    return Colours()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(Settings(home=tmp_path / "home"))


@pytest.fixture
def service(store: IndexStore) -> SearchService:
    index = store.create(TOWER_ID, DIMENSIONS)
    index.upsert([lot(f"old-{number}", axis(4, number / 10), title=f"lot {number}") for number in range(3)])
    index.refresh()
    store.publish(index.name)
    return SearchService(store, SearchModels(lambda tower_id: Colours()), SearchLimits(cached_answers_s=60))


@pytest.fixture
def writer(workspace: Workspace, service: SearchService, encoder: Colours, tmp_path: Path) -> ItemWriter:
    return ItemWriter(workspace, service, lambda tower_id: encoder, photos=[tmp_path / "photos"])


@pytest.fixture
def client(service: SearchService, writer: ItemWriter) -> Iterator[TestClient]:
    app = create_app(lambda: service)
    writes = item_states_router(lambda: service.live().index, TOKEN, service.forget_answers)
    add_item_puts(writes, writer.put)
    app.include_router(writes)
    with TestClient(app, headers=BEARER) as client:
        yield client


def picture(colour: str, side: int = 20) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "PNG")
    return out.getvalue()


def first(client: TestClient, query: str, **parameters: Any) -> str:
    results = client.get("/search", params={"q": query, **parameters}).json()["results"]
    return results[0]["item_id"] if results else ""


def put(client: TestClient, item_id: str, **row: Any) -> dict[str, Any]:
    answer = client.put(f"/items/{item_id}", json=row)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_new_lot_is_in_the_next_answer_of_every_kind_with_all_its_fields(client: TestClient) -> None:
    for mode in ("keyword", "semantic", "hybrid"):
        assert first(client, "red vase", mode=mode) != "v1"  # this answer is cached
    ends_at = NOW + timedelta(hours=1)
    before = epoch_ms(datetime.now(UTC))
    told = put(client, "v1", name="red vase", price="10.50 EUR", ends_at=ends_at.isoformat(), category="vases", colour="red")
    assert (told["item_id"], told["outcome"], told["tower_id"], told["has_photo"]) == ("v1", "applied", TOWER_ID, False)
    assert before <= told["version"] <= epoch_ms(datetime.now(UTC))
    assert set(told["timings_ms"]) == {"photo", "encode", "index", "total"}
    for mode in ("keyword", "semantic", "hybrid"):
        assert first(client, "red vase", mode=mode) == "v1"
    assert first(client, "red vase", category="vases", max_price=11) == "v1"
    fields = client.get("/items/v1").json()["fields"]
    assert fields | {"updated_at": 0} == {
        "item_id": "v1",
        "title": "red vase",
        "category": "vases",
        "current_price": 10.5,
        "bid_count": 0,
        "ends_at": epoch_ms(ends_at),
        "updated_at": 0,
        "attributes": {"colour": "red"},
        "has_image": False,
    }
    assert fields["updated_at"] == told["version"]


def test_a_put_replaces_the_whole_row_and_an_older_one_is_stale(client: TestClient) -> None:
    assert put(client, "old-1", title="green lamp", version=5_000)["version"] == 5_000
    assert put(client, "old-1", title="blue lamp", version=4_999)["outcome"] == "stale"
    assert client.get("/items/old-1").json()["fields"]["title"] == "green lamp"
    assert put(client, "old-1", title="blue lamp", updated_at="2026-11-20T10:00:00Z")["version"] == 1_795_168_800_000
    assert put(client, "old-1", title="red lamp")["outcome"] == "applied"  # now
    assert first(client, "red", mode="semantic") == "old-1"


def test_the_night_confirms_a_put_and_an_older_row_of_it_does_not_undo_it(client: TestClient, service: SearchService) -> None:
    version = put(client, "v1", title="red vase")["version"]
    index = service.live().index
    assert index.upsert([lot("v1", axis(2), version=version - 1, title="yesterday's vase")]).stale_ids == ("v1",)
    index.refresh()
    assert first(client, "red", mode="semantic") == "v1"
    assert index.upsert([lot("v1", axis(2), version=version + 1, title="tomorrow's vase")]).indexed == 1
    index.refresh()
    assert client.get("/items/v1").json()["fields"]["title"] == "tomorrow's vase"
    assert first(client, "blue", mode="semantic") == "v1"


def test_a_deleted_lot_comes_back_by_a_later_put_alone(client: TestClient) -> None:
    assert client.delete("/items/old-2", params={"version": 8_000}).json()["outcome"] == "applied"
    assert put(client, "old-2", title="red vase", version=7_000)["outcome"] == "stale"
    assert client.get("/items/old-2").status_code == 404
    assert put(client, "old-2", title="red vase", version=8_001)["outcome"] == "applied"
    assert first(client, "red", mode="semantic") == "old-2"


def test_a_newer_state_stays_over_a_put_and_an_older_one_gives_way(client: TestClient) -> None:
    put(client, "v1", title="red vase", current_price=10, version=5_000)
    client.patch("/items/v1/state", json={"version": 6_000, "current_price": 20})
    put(client, "v1", title="red vase", current_price=11, version=5_500)
    assert client.get("/items/v1").json()["fields"]["current_price"] == 20
    put(client, "v1", title="red vase", current_price=12, version=6_500)
    assert client.get("/items/v1").json()["fields"]["current_price"] == 12


def test_a_photo_comes_inline_or_by_path_and_the_page_shows_it(
    client: TestClient, service: SearchService, workspace: Workspace, tmp_path: Path
) -> None:
    import asyncio

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "blue.png").write_bytes(picture("blue"))
    assert put(client, "v1", title="a vase", photo=base64.b64encode(picture("red")).decode())["has_photo"]
    assert put(client, "v2", title="a vase", image="blue.png")["has_photo"]
    assert put(client, "v3", title="a vase", image=str(tmp_path / "photos" / "blue.png"))["has_photo"]
    assert first(client, "red", mode="semantic") == "v1"
    assert first(client, "blue", mode="semantic") in ("v2", "v3")
    files = PhotoFiles(workspace, [tmp_path / "photos"])
    for item_id, colour in (("v1", 0), ("v2", 2)):
        (candidate,) = service.live().index.fetch([item_id])
        jpeg = asyncio.run(files.jpeg(candidate.document, Side.CARD))
        assert jpeg is not None
        assert np.asarray(Image.open(io.BytesIO(jpeg))).mean(axis=(0, 1)).argmax() == colour


def test_a_photo_that_is_missing_leaves_the_lot_without_it_and_says_why(client: TestClient, tmp_path: Path) -> None:
    told = put(client, "v1", title="red vase", image="nowhere.png", more_images=["/etc/hostname"])
    assert (told["outcome"], told["has_photo"]) == ("applied", False)
    assert len(told["photo_faults"]) == 2
    assert "nowhere.png" in told["photo_faults"][0]
    assert "/etc/hostname" in told["photo_faults"][1]
    assert first(client, "red", mode="semantic") == "v1"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "title is missing"),
        ({"title": " "}, "title is missing"),
        ({"title": "vase", "current_price": -1}, "current_price"),
        ({"title": "vase", "ends_at": "tomorrow"}, "ends_at"),
        ({"title": "vase", "ends_at": "03/04/2026"}, "two ways"),
        ({"title": "vase", "item_id": "v2"}, "item_id is 'v2'"),
        ({"title": "vase", "version": "5"}, "version"),
        ({"title": "vase", "version": True}, "version"),
        ({"title": "vase", "version": 99_999_999_999_999}, "future"),
        ({"title": "vase", "updated_at": "2099-01-01"}, "future"),
        ({"title": "vase", "photo": "?"}, "Base64"),
        ({"title": "vase", "photo": 7}, "Base64"),
        ({"title": "x" * 1_001}, "1001 characters"),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused_with_its_reason(client: TestClient, row: dict[str, Any], says: str) -> None:
    answer = client.put("/items/v1", json=row)
    assert (answer.status_code, answer.json()["type"]) == (422, "invalid_item")
    assert says in answer.json()["detail"]
    assert client.get("/items/v1").status_code == 404


def test_a_photo_that_is_none_is_refused(client: TestClient) -> None:
    answer = client.put("/items/v1", json={"title": "vase", "photo": base64.b64encode(b"no picture").decode()})
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_photo")
    assert client.get("/items/v1").status_code == 404


def test_an_id_may_hold_a_slash_and_may_be_repeated_in_the_row(client: TestClient) -> None:
    assert put(client, "a%2Fb", id="a/b", title="red vase")["item_id"] == "a/b"
    assert first(client, "red", mode="semantic") == "a/b"


def test_a_put_needs_the_token(client: TestClient) -> None:
    assert client.put("/items/v1", json={"title": "vase"}, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/items/v1").status_code == 404


def test_lots_that_come_together_are_encoded_together_while_searches_go_on(
    client: TestClient, writer: ItemWriter, encoder: Colours
) -> None:
    encoder.held.clear()
    with ThreadPoolExecutor(20) as threads:

        def send(number: int) -> Future[list[PutResult]]:
            return threads.submit(writer.put, [read_put({"title": "red vase", "version": 9}, f"v{number}")])

        puts = [send(0)]
        assert encoder.begun.wait(30)  # the first one alone
        puts += map(send, range(1, 20))
        while len(writer._queue) < 19:
            time.sleep(0.01)
        assert first(client, "lot 1", mode="keyword") == "old-1"
        encoder.held.set()
        results = [one.result()[0] for one in puts]
    assert [result.item_id for result in results] == [f"v{number}" for number in range(20)]
    assert {result.outcome for result in results} == {"applied"}
    assert encoder.batches == [1, MAX_BATCH, MAX_BATCH, 19 - 2 * MAX_BATCH]


def test_rows_of_one_lot_that_come_together_each_have_their_own_outcome(writer: ItemWriter) -> None:
    rows = [{"title": "red vase", "version": version} for version in (5, 3, 7, 6)]
    assert [result.outcome for result in writer.put([read_put(row, "v1") for row in rows])] == [
        "applied",
        "stale",
        "applied",
        "stale",
    ]


def test_a_fault_of_the_encoder_reaches_every_caller_and_the_next_lot_is_written(
    client: TestClient, writer: ItemWriter, encoder: Colours, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> np.ndarray:
        raise TowerError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", fail)
        answer = client.put("/items/v1", json={"title": "red vase"})
        assert (answer.status_code, answer.json()["type"]) == (503, "tower_unavailable")
        assert answer.headers["retry-after"]
    assert put(client, "v1", title="red vase")["outcome"] == "applied"


def test_the_route_is_described_with_its_refusal(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]["/items/{item_id}"]["put"]["responses"]
    assert "application/problem+json" in described["422"]["content"]
