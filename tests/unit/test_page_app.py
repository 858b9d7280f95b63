"""The page's own routes: its guards, its words, and photos that no seller can turn into files."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from lots import TOWER_ID, WordEncoder, lot, publish
from painted_lots import paint
from PIL import Image

from lambdas.query_api.app import create_app
from local.home import Home
from local.page_app import PAGE, add_page
from local.page_words import words_of
from local.photo_shelf import PhotoShelf
from retrieval.index.faiss import FaissStore
from retrieval.search import SearchService
from retrieval.settings import Settings


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A catalogue folder with a photo inside and one outside."""
    paint(tmp_path / "shop" / "photos" / "vase.png", "red", 1)
    paint(tmp_path / "outside.png", "blue", 2)
    (tmp_path / "shop" / "notes.txt").write_text("a secret")
    return tmp_path / "shop"


def client(root: Path, *lots, opened: tuple[Path, ...] = ()) -> TestClient:
    home = Home(Settings(home=root / "home"))
    home.remember_sources("test", [root / "shop" / "lots.parquet"])
    store = FaissStore(home.index)
    publish(store, lots)
    service = SearchService(store, WordEncoder)
    app = create_app(lambda: service)
    add_page(app, lambda: service, PhotoShelf(home, opened), "EUR")
    return TestClient(app, raise_server_exceptions=False)


def test_the_page_comes_with_a_policy_that_lets_no_other_script_run(shop: Path) -> None:
    answer = client(shop.parent, lot("v1")).get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_holds_no_inline_script_or_style_and_asks_nobody_else() -> None:
    for path in [PAGE / "index.html", *(PAGE / "assets").iterdir()]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert "innerHTML" not in text, path
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert "style=" not in html
    assert "<style" not in html
    assert "<script>" not in html


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


def test_a_lots_photo_is_drawn_anew_as_a_jpeg(shop: Path) -> None:
    asked = client(shop.parent, lot("a/b ?#", image="photos/vase.png"))
    answer = asked.get("/photos/a%2Fb%20%3F%23")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(answer.content)) as photo:
        assert (photo.format, photo.size) == ("JPEG", (480, 480))
        red, green, blue = photo.getpixel((240, 240))
        assert red > 2 * max(green, blue)


@pytest.mark.parametrize(
    "image",
    [
        "../outside.png",
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
    home = Home(Settings(home=shop.parent / "home"))
    home.remember_sources("test", [shop])
    (shop.parent / "evil.json").write_text(f'["{shop.parent}"]')
    assert home.sources("../../evil") == []
    assert home.sources("test") == [shop]


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
    phrases = words_of([{"item_id": title, "title": title} for title in titles], most=9)["phrases"]
    assert {"विंटेज घड़ी", "นาฬิกา", "می\u200cخواهم", "levi's t-shirt", "cafe\u0301"} <= set(phrases)
    assert "cafe" not in phrases


def test_a_part_of_a_phrase_is_not_suggested_beside_it() -> None:
    titles = ["Vintage art deco vase", "Art deco lamp", "Vintage lamp", "Art deco mirror of brass"]
    phrases = words_of([{"item_id": str(number), "title": title} for number, title in enumerate(titles)], most=9)["phrases"]
    assert "art deco" in phrases
    assert not {"art", "deco", "mirror of", "of brass"} & set(phrases)


def test_a_sample_of_the_lots_counts_nothing() -> None:
    lots = [{"item_id": str(number), "title": "Vase", "category": "vase"} for number in range(3)]
    assert words_of(lots, most=3)["categories"] == [{"name": "vase", "lots": None, "photo_of": None}]
    assert words_of(lots, most=4)["categories"][0]["lots"] == 3


def test_the_index_that_is_missing_is_a_problem_of_the_words_too(tmp_path: Path) -> None:
    home = Home(Settings(home=tmp_path))
    service = SearchService(FaissStore(home.index), WordEncoder)
    app = create_app(lambda: service)
    add_page(app, lambda: service, PhotoShelf(home))
    asked = TestClient(app, raise_server_exceptions=False)
    assert asked.get("/").status_code == 200
    assert (asked.get("/words.json").status_code, asked.get("/photos/v1").status_code) == (503, 503)
    assert TOWER_ID not in asked.get("/words.json").text
