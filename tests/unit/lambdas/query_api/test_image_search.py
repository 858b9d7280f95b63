"""`POST /search/image`: a photo, with or without words, over HTTP; and what is no photo."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_tower import SIDE, colour_branch, save_colour_tower
from fastapi.testclient import TestClient
from hostile_photos import HOSTILE, JPEG, plain
from httpx import ASGITransport, AsyncClient
from lots import TOWER_ID, WordEncoder, lot, publish
from painted_lots import COLOURS

from lambdas.query_api import image_search
from lambdas.query_api.app import create_app
from retrieval.encoders.image_encoder import ImageEncoder
from retrieval.errors import TowerError
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.ranker.features import FEATURES
from retrieval.search.service import SearchModels, SearchRequest, SearchService

KNOWN = ("red", "blue")
LOTS = [
    lot("v1", "red vase", category="vases", current_price=10.0),
    lot("v2", "blue vase", category="vases", current_price=90.0),
    lot("w1", "red watch", category="watches", current_price=50.0),
    *(lot(f"g{n}", "gold ring", category="rings", current_price=float(n)) for n in range(8)),
]


class Unasked:
    """A re-ranker that may not be asked: the order of a search by photo is not its own."""

    def score(self, features: Any) -> Any:
        raise AssertionError("the re-ranker was asked")


def branch(folder: Path) -> ImageEncoder:
    return colour_branch(folder, {name: WordEncoder().encode([name])[0] for name in KNOWN}, TOWER_ID)


@pytest.fixture
def loaded() -> list[str]:
    """The ids of the towers whose image branch was loaded."""
    return []


@pytest.fixture
def service(tmp_path: Path, loaded: list[str]) -> SearchService:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)

    def load(tower_id: str) -> ImageEncoder:
        loaded.append(tower_id)
        return branch(tmp_path / "tower")

    return SearchService(store, SearchModels(WordEncoder, lambda tower_id: Unasked(), load_image_encoder=load))


@pytest.fixture
def client(service: SearchService) -> TestClient:
    return TestClient(create_app(lambda: service), raise_server_exceptions=False)


def ask(client: TestClient, photo: bytes, kind: str = "image/jpeg", **params: Any) -> Any:
    return client.post("/search/image", params=params, content=photo, headers={"content-type": kind})


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [found["item_id"] for found in answer.json()["results"]]


def refused(answer: Any, kind: str) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), answer.text
    assert answer.json()["type"] == kind
    return str(answer.json()["detail"])


@pytest.mark.parametrize(("format", "kind"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")])
def test_a_photo_finds_what_looks_like_it(format: str, kind: str, client: TestClient) -> None:
    answer = ask(client, plain(format, COLOURS["red"]), kind, k=2)
    assert sorted(ids(answer)) == ["v1", "w1"]
    told = answer.json()
    assert (told["tower_id"], told["mode"], told["reranked"], told["degraded"]) == (TOWER_ID, "semantic", False, [])
    assert set(told["timings_ms"]) == {"load", "encode", "retrieve", "total"}
    assert told["results"][0]["similarity"] == pytest.approx(told["results"][0]["score"], abs=1e-5)


def test_words_beside_the_photo_say_what_of_that_look(client: TestClient) -> None:
    photo = plain("JPEG", COLOURS["red"])
    assert ids(ask(client, photo, text="watch"))[0] == "w1"
    assert ids(ask(client, photo, text="vase"))[0] == "v1"
    assert ids(ask(client, photo, text="  ")) == ids(ask(client, photo))


def test_the_vector_lies_halfway_between_photo_and_words(service: SearchService) -> None:
    answer = service.search_image(plain("JPEG", COLOURS["red"]), SearchRequest("gold ring", k=1))
    red, words = WordEncoder().encode(["red", "gold ring"])
    halfway = (red + words) / np.linalg.norm(red + words)
    assert answer.results[0].similarity == pytest.approx(float(halfway @ words), abs=1e-3)


def test_the_filters_hold(client: TestClient) -> None:
    photo = plain("JPEG", COLOURS["red"])
    assert ids(ask(client, photo, category="watches")) == ["w1"]
    assert ids(ask(client, photo, max_price=20, category="vases")) == ["v1"]


def test_pages_follow_each_other_and_decode_the_photo_once(client: TestClient, service: SearchService) -> None:
    photo = plain("JPEG", COLOURS["blue"])
    whole = ids(ask(client, photo, k=11))
    pages, offset = [], 0
    while offset is not None:
        page = ask(client, photo, k=4, offset=offset)
        pages += ids(page)
        offset = page.json()["next_offset"]
    assert pages == whole
    use = service._photos._vectors.use()
    assert (use.misses, use.hits) == (1, 3)


def test_an_explanation_is_told_without_a_word_of_the_re_ranker(client: TestClient) -> None:
    photo = plain("JPEG", COLOURS["red"])
    first = ask(client, photo, explain=True).json()["results"][0]
    assert (first["explanation"]["semantic_rank"], first["explanation"]["keyword_rank"]) == (1, None)
    assert (set(first["explanation"]["features"]), first["explanation"]["contributions"]) == (set(FEATURES), None)
    with_words = ask(client, photo, explain=True, text="red watch").json()["results"][0]
    assert (with_words["item_id"], with_words["explanation"]["keyword_rank"]) == ("w1", 1)


def test_the_image_branch_is_loaded_for_the_first_photo_and_once(client: TestClient, loaded: list[str]) -> None:
    client.get("/search", params={"q": "red vase", "mode": "semantic"})
    assert loaded == []
    for _ in range(3):
        ids(ask(client, plain("JPEG", COLOURS["red"])))
    assert loaded == [TOWER_ID]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_is_a_bad_photo_whatever_it_is_called(name: str, client: TestClient) -> None:
    photo, _ = HOSTILE[name]
    assert len(photo) < 1_000_000
    for kind in ("image/jpeg", "image/webp"):
        assert refused(ask(client, photo, kind), "invalid_photo")


@pytest.mark.parametrize("kind", ["", "image/svg+xml", "text/html", "application/octet-stream", "multipart/form-data; boundary=x"])
def test_a_body_that_is_not_said_to_be_a_photo_is_refused(kind: str, client: TestClient) -> None:
    assert "image/webp" in refused(ask(client, JPEG, kind), "invalid_photo")


def test_a_photo_over_a_megabyte_is_refused(client: TestClient) -> None:
    answer = ask(client, JPEG + b" " * 1_000_000)
    assert (answer.status_code, answer.json()["type"]) == (413, "body_too_large")
    assert "1000000 bytes" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"k": 0}, "k: "),
        ({"offset": 401}, "offset: "),
        ({"text": "x" * 513}, "text: "),
        ({"colour": "red"}, "colour: "),
        ({"min_price": 9, "max_price": 1}, "swap them"),
    ],
)
def test_a_bad_question_beside_a_photo_names_the_field(params: dict[str, Any], words: str, client: TestClient) -> None:
    assert words in refused(ask(client, JPEG, **params), "invalid_query")


def test_a_tower_without_an_image_branch_says_so_with_the_remedy(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    old, words_alone = tmp_path / "old", tmp_path / "words"
    save_colour_tower(old, {}, image_size=SIDE)
    save_colour_tower(words_alone, {}, image_size=0)
    for folder, remedy in ((old, "gavel export image"), (words_alone, "without --text-only")):
        service = SearchService(
            store, SearchModels(WordEncoder, load_image_encoder=lambda tower_id, folder=folder: ImageEncoder.load(folder))
        )
        client = TestClient(create_app(lambda service=service: service))
        assert remedy in refused(ask(client, JPEG), "no_image_branch")
        assert ids(client.get("/search", params={"q": "red vase", "k": 1})) == ["v1"]
    bare = TestClient(create_app(lambda: SearchService(store, SearchModels(WordEncoder))))
    assert "set up without photos" in refused(ask(bare, JPEG), "no_image_branch")


def test_a_branch_of_another_tower_is_never_searched_with(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    save_colour_tower(tmp_path / "tower", {name: WordEncoder().encode([name])[0] for name in KNOWN})
    service = SearchService(
        store, SearchModels(WordEncoder, load_image_encoder=lambda tower_id: ImageEncoder.load(tmp_path / "tower"))
    )
    answer = ask(TestClient(create_app(lambda: service)), JPEG)
    assert (answer.status_code, answer.json()["type"]) == (503, "tower_unavailable")


def test_words_that_cannot_be_encoded_are_not_left_out_in_silence(tmp_path: Path) -> None:
    class Mute(WordEncoder):
        def encode(self, texts: Any) -> Any:
            raise TowerError("the query tower cannot be run")

    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    service = SearchService(store, SearchModels(Mute, load_image_encoder=lambda tower_id: branch(tmp_path / "tower")))
    client = TestClient(create_app(lambda: service))
    assert ask(client, JPEG, text="vase").json()["type"] == "tower_unavailable"
    assert ask(client, plain("JPEG", COLOURS["blue"]), k=1).json()["results"][0]["item_id"] == "v2"


def test_the_route_describes_its_body(client: TestClient) -> None:
    told = client.get("/openapi.json").json()["paths"]["/search/image"]["post"]
    assert set(told["requestBody"]["content"]) == {"image/jpeg", "image/png", "image/webp"}
    assert {parameter["name"] for parameter in told["parameters"]} >= {"text", "k", "offset", "explain", "category"}
    assert set(told["responses"]) == {"200", "400", "413", "429", "503"}


def gather(app: Any, *asked: Any) -> list[Any]:
    """Send requests at once: coroutine functions of a client."""

    async def all_at_once() -> list[Any]:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://shop") as asking:
            return list(await asyncio.gather(*(one(asking) for one in asked)))

    return asyncio.run(all_at_once())


def post_photo(photo: bytes) -> Any:
    return lambda asking: asking.post("/search/image", content=photo, headers={"content-type": "image/jpeg"})


def test_photos_are_looked_at_one_at_a_time_and_other_searches_wait_for_none(service: SearchService) -> None:
    app, at_once, most, other_found = create_app(lambda: service), 0, 0, threading.Event()
    of_photo = service.search_image

    def counted(photo: bytes, request: SearchRequest) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        assert other_found.wait(10), "no other search was answered while the first photo was looked at"
        at_once -= 1
        return of_photo(photo, request)

    service.search_image = counted  # type: ignore[method-assign]

    async def other(asking: AsyncClient) -> Any:
        answer = await asking.get("/items/v1/similar")
        other_found.set()
        return answer

    photos = [post_photo(plain("JPEG", COLOURS[name])) for name in ("red", "blue", "red", "blue", "red")]
    answers = gather(app, *photos, other)
    assert [answer.status_code for answer in answers[:-1]] == [200] * 5
    assert most == 1


def test_a_photo_that_waits_too_long_is_told_to_come_again(service: SearchService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_search, "PATIENCE_S", 0.05)
    monkeypatch.setattr(image_search, "MAX_WAITING", 3)
    done, of_photo = threading.Event(), service.search_image

    def slow(photo: bytes, request: SearchRequest) -> Any:
        done.wait(0.5)
        return of_photo(photo, request)

    service.search_image = slow  # type: ignore[method-assign]
    answers = gather(create_app(lambda: service), *[post_photo(JPEG)] * 6)
    assert sorted(answer.status_code for answer in answers) == [200, 503, 503, 503, 503, 503]
    late = next(answer for answer in answers if answer.status_code == 503)
    assert (late.json()["type"], late.headers["retry-after"]) == ("overloaded", "5")
