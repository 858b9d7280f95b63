"""The page's own routes: its guards, its words, and photos that no seller can turn into files."""

import asyncio
import io
import os
import re
import signal
from datetime import UTC, datetime, timedelta
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hostile_photos import bomb, plain
from httpx import ASGITransport, AsyncClient
from lots import TOWER_ID, WordEncoder, lot, publish
from painted_lots import paint
from PIL import Image

from gavel.web import photo_files
from gavel.web import suggestions as page_words
from gavel.web.page_app import PAGE, add_page
from gavel.web.photo_files import PhotoFiles
from gavel.web.suggestions import suggest
from gavel.workspace.folders import Workspace
from lambdas.query_api.app import create_app
from processing.embedding.downloads import Downloads
from processing.embedding.thumbnails import Thumbnails
from retrieval.config.settings import Settings
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchModels, SearchService


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A catalogue folder with a photo inside and one outside."""
    paint(tmp_path / "shop" / "photos" / "vase.png", "red", 1)
    paint(tmp_path / "outside.png", "blue", 2)
    (tmp_path / "shop" / "notes.txt").write_text("a secret")
    return tmp_path / "shop"


def client(root: Path, *lots, opened: tuple[Path, ...] = ()) -> TestClient:
    workspace = Workspace(Settings(home=root / "home"))
    workspace.remember_sources("test", [root / "shop" / "lots.parquet"])
    store = EmbeddedStore(workspace.index)
    publish(store, lots)
    service = SearchService(store, SearchModels(WordEncoder))
    app = create_app(lambda: service)
    add_page(app, lambda: service, PhotoFiles(workspace, opened), "EUR")
    return TestClient(app, raise_server_exceptions=False)


def test_the_page_comes_with_a_policy_that_lets_no_other_script_run(shop: Path) -> None:
    answer = client(shop.parent, lot("v1")).get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_holds_no_inline_script_or_style_and_asks_nobody_else() -> None:
    for path in [*PAGE.glob("*.html"), *(PAGE / "assets").iterdir()]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert "innerHTML" not in text, path
        if path.suffix == ".html":
            assert "style=" not in text
            assert "<style" not in text
            assert "<script>" not in text


def test_the_description_of_the_api_comes_with_the_pages_policy_and_from_nowhere_else(shop: Path) -> None:
    asked = client(shop.parent, lot("v1"))
    docs = asked.get("/docs")
    assert (docs.status_code, docs.headers["content-security-policy"]) == (200, asked.get("/").headers["content-security-policy"])
    assert asked.get("/redoc", follow_redirects=False).headers["location"] == "docs"
    assert asked.get("/redoc").text == docs.text
    for asset in re.findall(r'(?:href|src)="([^"]+)"', docs.text):
        assert asked.get(f"/{asset}").status_code == 200


def test_every_asset_that_the_page_names_is_served(shop: Path) -> None:
    asked = client(shop.parent, lot("v1"))
    for path in sorted((PAGE / "assets").iterdir()):
        answer = asked.get(f"/assets/{path.name}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"
    assert asked.get("/assets/../page_app.py").status_code == 404
    assert asked.get("/assets/%2e%2e/%2e%2e/page_app.py").status_code == 404


def test_the_api_stays_where_it_was(shop: Path) -> None:
    asked = client(shop.parent, lot("v1", "red vase"))
    assert asked.get("/search", params={"q": "vase"}).json()["results"][0]["item_id"] == "v1"
    assert not {"/", "/words.json", "/config.json", "/photos/{item_id}"} & set(asked.get("/openapi.json").json()["paths"])
    assert asked.get("/config.json").json()["currency"] == "EUR"


@pytest.mark.parametrize("path", ["/config.json", "/words.json", "/photos/v1"])
def test_the_data_of_the_page_takes_no_parameter_that_it_does_not_know(path: str, shop: Path) -> None:
    asked = client(shop.parent, lot("v1", image="photos/vase.png"))
    assert asked.get(path).status_code == 200
    for query in ("x=1", "x=1&x=1"):
        answer = asked.get(f"{path}?{query}")
        assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")
        assert answer.json()["detail"].startswith("x: there is no such parameter")


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/assets/app.js"])
def test_the_address_of_the_page_may_hold_its_state(path: str, shop: Path) -> None:
    assert client(shop.parent, lot("v1")).get(f"{path}?q=vase&brand=a&brand=b").status_code == 200


def test_a_lots_photo_is_drawn_anew_as_a_jpeg(shop: Path) -> None:
    asked = client(shop.parent, lot("a/b ?#", image="photos/vase.png"))
    answer = asked.get("/photos/a%2Fb%20%3F%23")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(answer.content)) as photo:
        assert photo.format == "JPEG"
        assert photo.width == photo.height
        red, green, blue = photo.getpixel((photo.width // 2, photo.height // 2))
        assert red > 2 * max(green, blue)


def test_further_photos_and_those_that_were_fetched_have_numbers(shop: Path) -> None:
    url = "https://shop.example/blue.png"
    fetched = Downloads(shop.parent / "home" / "photos").path(url)
    fetched.parent.mkdir(parents=True)
    Image.new("RGB", (90, 70), "blue").save(fetched, "PNG")
    (shop / "link.png").symlink_to(shop.parent / "outside.png")
    others = (url, "https://shop.example/never.png", "../outside.png", "link.png")
    asked = client(shop.parent, lot("v1", image="photos/vase.png", more_images=others))
    answers = [asked.get("/photos/v1", params={"number": number}) for number in range(6)]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 404, 404, 404]
    with Image.open(io.BytesIO(answers[1].content)) as photo:
        assert photo.getpixel((5, 5))[2] > 200
    assert [asked.get("/photos/v1", params={"number": number}).status_code for number in (-1, 12)] == [400, 400]


def test_a_photo_that_embedding_has_drawn_is_sent_without_a_look_at_the_original(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (900, 700), "blue").save(shop / "photos" / "large.jpg")
    Thumbnails(shop.parent / "home" / "thumbnails").draw(shop / "photos" / "large.jpg")
    monkeypatch.setattr(PhotoFiles, "_draw", lambda *_: pytest.fail("it was drawn again"))
    asked = client(shop.parent, lot("v1", image="photos/large.jpg"))
    for side in (256, 640):
        answer = asked.get("/photos/v1", params={"side": side})
        assert Image.open(io.BytesIO(answer.content)).size == (side, side)
    assert asked.get("/photos/v1", params={"side": 4_000}).status_code == 400
    assert asked.get("/photos/v1?side=256&side=640").json()["detail"] == "side: given 2 times; give it once"


def test_a_photo_of_a_release_from_before_is_drawn_once_however_many_ask(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], PhotoFiles._draw

    async def counted(shelf: PhotoFiles, path: Path) -> None:
        drawn.append(path.name)
        await draw(shelf, path)

    monkeypatch.setattr(PhotoFiles, "_draw", counted)
    asked = client(shop.parent, lot("v1", image="photos/vase.png"), lot("v2", image="./photos/vase.png"))
    answers = asyncio.run(all_at_once(asked.app, ["/photos/v1", "/photos/v2", "/photos/v1?side=256"] * 4))
    assert [answer.status_code for answer in answers] == [200] * 12
    assert drawn == ["vase.png"]
    stored = [path for path in (shop.parent / "home" / "thumbnails").rglob("*") if path.is_file()]
    assert len(stored) == 2
    stored[0].write_bytes(b"")
    assert asked.get("/photos/v1").status_code == asked.get("/photos/v1?side=256").status_code == 200
    assert drawn == ["vase.png"] * 2, "what was damaged is drawn again"


def test_the_process_that_draws_starts_and_ends_with_the_server_and_hears_no_ctrl_c(shop: Path) -> None:
    before = set(active_children())
    with client(shop.parent, lot("v1", image="photos/vase.png")) as asked:
        (process,) = set(active_children()) - before
        assert asked.get("/photos/v1").status_code == 200
        os.kill(process.pid or 0, signal.SIGINT)
        Image.new("RGB", (90, 70), "blue").save(shop / "photos" / "vase.png")
        assert asked.get("/photos/v1").status_code == 200
        assert process.is_alive()
    assert process not in active_children()
    with client(shop.parent, lot("v1")):
        assert set(active_children()) <= before, "what is drawn already needs none"


async def all_at_once(app: Any, paths: list[str]) -> list[Any]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://shop") as asking:
        return list(await asyncio.gather(*map(asking.get, paths)))


def test_a_sellers_bomb_is_refused_by_its_head_and_looked_at_once(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "photos" / "bomb.png").write_bytes(bomb(10_000))
    (shop / "photos" / "cut.png").write_bytes(plain("PNG")[:-40])
    os.mkfifo(shop / "photos" / "pipe.png")
    lots = [lot(name, image=f"photos/{name}.png") for name in ("bomb", "cut", "pipe")]
    asked = client(shop.parent, *lots)
    assert [asked.get(f"/photos/{name}").status_code for name in ("bomb", "cut", "pipe")] == [404] * 3
    monkeypatch.setattr(PhotoFiles, "_draw", lambda *_: pytest.fail("it was looked at again"))
    assert [asked.get(f"/photos/{name}").status_code for name in ("bomb", "cut", "pipe")] == [404] * 3


def test_a_photo_that_others_are_before_is_told_to_come_again(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(shelf: PhotoFiles, path: Path) -> None:
        await asyncio.sleep(5)

    monkeypatch.setattr(PhotoFiles, "_draw", slow)
    monkeypatch.setattr(photo_files, "DRAW_TIMEOUT_S", 0.05)
    answer = client(shop.parent, lot("v1", image="photos/vase.png")).get("/photos/v1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize(
    "image",
    [
        "../outside.png",
        "link.png",
        "up/outside.png",
        "photos/../../outside.png",
        "photos/../../shop-not/../outside.png",
        "{root}/outside.png",
        "notes.txt",
        "photos",
        "photos/lost.png",
        "photos/vase.png\0.jpg",
        "s3://bucket/vase.png",
        "file:///{root}/shop/photos/vase.png",
        "",
        "x" * 900,
    ],
)
def test_a_photo_that_a_seller_points_elsewhere_is_not_there(image: str, shop: Path) -> None:
    (shop / "link.png").symlink_to("../outside.png")
    (shop / "up").symlink_to("..")
    asked = client(shop.parent, lot("v1", image=image.replace("{root}", str(shop.parent))))
    answer = asked.get("/photos/v1")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_a_folder_that_the_operator_opens_may_be_named_by_its_absolute_path(shop: Path, tmp_path: Path) -> None:
    elsewhere = paint(tmp_path / "data" / "vase.png", "green", 3)
    named = lot("v1", image=str(elsewhere))
    assert client(tmp_path, named, opened=(tmp_path / "data",)).get("/photos/v1").status_code == 200


@pytest.mark.parametrize("path", ["/photos/vase.png", "/photos/..%2f..%2foutside.png", "/photos/photos/vase.png"])
def test_a_path_is_no_lot(path: str, shop: Path) -> None:
    answer = client(shop.parent, lot("v1", image="photos/vase.png")).get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "unknown_item")


def test_a_release_cannot_name_a_file_outside_the_home(shop: Path) -> None:
    workspace = Workspace(Settings(home=shop.parent / "home"))
    workspace.remember_sources("test", [shop])
    (shop.parent / "evil.json").write_text(f'["{shop.parent}"]')
    assert workspace.sources("../../evil") == []
    assert workspace.sources("test") == [shop]


@pytest.mark.parametrize("damaged", ["x", "null", "[1]", '{"a": 1}', '"abc"', "", "\xff", "[" * 100_000])
def test_where_the_folders_of_a_release_are_damaged_its_lots_have_no_photo_which_is_told_once(
    damaged: str, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = client(shop.parent, lot("v1", image="photos/vase.png"))
    (shop.parent / "home" / "sources" / "test.json").write_text(damaged, encoding="latin-1")
    assert [asked.get("/photos/v1").status_code for _ in range(3)] == [404] * 3
    (told,) = [record.getMessage() for record in caplog.records if "test.json" in record.getMessage()]
    assert "gavel embed --force" in told


def test_a_photo_of_an_opened_folder_is_found_though_the_folders_of_its_release_are_damaged(shop: Path) -> None:
    asked = client(shop.parent, lot("v1", image="photos/vase.png"), opened=(shop,))
    (shop.parent / "home" / "sources" / "test.json").write_text("null")
    assert asked.get("/photos/v1").status_code == 200


def test_a_pipe_in_a_folder_whose_name_is_no_utf8_is_no_photo(shop: Path) -> None:
    folder = shop / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    os.mkfifo(folder / "vase.png")
    (shop / "link").symlink_to(folder)
    asked = client(shop.parent, lot("v1", image="link/vase.png"))
    assert [asked.get("/photos/v1").status_code for _ in range(2)] == [404] * 2


def test_a_photo_whose_refusal_is_damaged_is_drawn_again(shop: Path) -> None:
    photo = shop / "photos" / "vase.png"
    thumbnails = Thumbnails(shop.parent / "home" / "thumbnails")
    thumbnails.refuse(photo, "it was too large")
    asked = client(shop.parent, lot("v1", image="photos/vase.png"))
    assert asked.get("/photos/v1").status_code == 404
    (refusal,) = thumbnails.folder.rglob("*-refused")
    refusal.write_bytes(b"\xff\xfe")
    assert asked.get("/photos/v1").status_code == 200


def test_the_words_are_those_of_lots_that_can_be_bid_on(shop: Path) -> None:
    ended = datetime.now(UTC) - timedelta(hours=1)
    lots = [
        lot("v1", "Red art deco vase", category="vase", brand="Okada"),
        lot("v2", "Blue art deco vase", category="vase", has_image=False),
        lot("w1", "Gone gold watch", category="watch", brand="Lost", ends_at=ended),
    ]
    words = client(shop.parent, *lots).get("/words.json").json()
    assert words["categories"] == [{"name": "vase", "lots": 2, "photo_of": "v1"}]
    assert words["brands"] == [{"name": "Okada"}]
    assert "art deco vase" in words["phrases"]
    assert not [phrase for phrase in words["phrases"] if "gold" in phrase]


def test_words_of_every_script_are_suggested_whole() -> None:
    titles = ["विंटेज घड़ी", "นาฬิกา", "می\u200cخواهم", "Levi's T-shirt", "Cafe\u0301"]
    phrases = suggest([{"item_id": title, "title": title} for title in titles], sample_size=9)["phrases"]
    assert {"विंटेज घड़ी", "นาฬิกา", "می\u200cخواهم", "levi's t-shirt", "cafe\u0301"} <= set(phrases)
    assert "cafe" not in phrases


def test_a_part_of_a_phrase_is_not_suggested_beside_it() -> None:
    titles = ["Vintage art deco vase", "Art deco lamp", "Vintage lamp", "Art deco mirror of brass"]
    phrases = suggest([{"item_id": str(number), "title": title} for number, title in enumerate(titles)], sample_size=9)["phrases"]
    assert "art deco" in phrases
    assert not {"art", "deco", "mirror of", "of brass"} & set(phrases)


def test_a_sample_of_the_lots_counts_nothing() -> None:
    lots = [{"item_id": str(number), "title": "Vase", "category": "vase"} for number in range(3)]
    assert suggest(lots, sample_size=3)["categories"] == [{"name": "vase", "lots": None, "photo_of": None}]
    assert suggest(lots, sample_size=4)["categories"][0]["lots"] == 3


def test_of_lots_with_long_texts_fewer_are_looked_at(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_words, "SAMPLE_CHARS", 100_000)
    monkeypatch.setattr(page_words, "MIN_SAMPLE", 5)
    lots = [lot(f"v{n}", "Red vase", category="vase", description="long " * 2_000) for n in range(40)]
    assert client(shop.parent, *lots).get("/words.json").json()["categories"] == [{"name": "vase", "lots": None, "photo_of": "v0"}]


def test_the_index_that_is_missing_is_a_problem_of_the_words_too(tmp_path: Path) -> None:
    workspace = Workspace(Settings(home=tmp_path))
    service = SearchService(EmbeddedStore(workspace.index), SearchModels(WordEncoder))
    app = create_app(lambda: service)
    add_page(app, lambda: service, PhotoFiles(workspace))
    asked = TestClient(app, raise_server_exceptions=False)
    assert asked.get("/").status_code == 200
    assert (asked.get("/words.json").status_code, asked.get("/photos/v1").status_code) == (503, 503)
    assert TOWER_ID not in asked.get("/words.json").text
