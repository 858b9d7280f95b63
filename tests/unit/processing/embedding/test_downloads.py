"""Photos of addresses: fetched within bounds, from public addresses alone, once."""

import io
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from processing.embedding import downloads
from processing.embedding.downloads import Downloads, is_public
from processing.embedding.photos import PhotoLoader, PhotoPlace, PhotoState, load_photo
from retrieval.errors import InvalidInput, InvalidPhoto

Answer = Callable[[BaseHTTPRequestHandler], None]


def png(colour: tuple[int, int, int] = (200, 0, 0)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


class Shop:
    """A server of photos on 127.0.0.1.

    Attributes:
        answers: path -> function that answers a request.
        asked: paths and Host headers in the order of the requests.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {"/red.png": photo()}
        self.asked: list[tuple[str, str]] = []
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shop.asked.append((self.path, self.headers["Host"]))
                shop.answers.get(self.path, status(404))(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://{self.place}{path}"


def photo(data: bytes | None = None) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        body = png() if data is None else data
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def status(code: int, location: str = "") -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        if location:
            request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@pytest.fixture
def shop() -> Iterator[Shop]:
    downloads._failures.clear()
    shop = Shop()
    yield shop
    shop.server.shutdown()
    shop.server.server_close()


@pytest.fixture
def allowed(shop: Shop, tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "photos", frozenset({shop.place}))


def fault(downloads: Downloads, url: str) -> tuple[str, str]:
    with pytest.raises(InvalidPhoto) as error:
        downloads.fetch(url)
    return error.value.fault, str(error.value)


def test_a_photo_is_fetched_once(shop: Shop, allowed: Downloads) -> None:
    paths = [allowed.fetch(shop.url("/red.png")) for _ in range(2)]
    assert paths[0].read_bytes() == png()
    assert shop.asked == [("/red.png", shop.place)]


def test_odd_letters_of_an_address_are_quoted(shop: Shop, allowed: Downloads) -> None:
    shop.answers["/r%C3%A9d%20vase.png?w=1&q=a%20b"] = photo()
    assert allowed.fetch(shop.url("/réd vase.png?w=1&q=a b")).is_file()


PRIVATE = """
127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 ::1 :: fe80::1 fe80::1%eth0
fd00::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1:: ff02::1 x
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_only_a_host_that_is_named_may_have_a_private_address(shop: Shop, tmp_path: Path) -> None:
    closed = Downloads(tmp_path / "photos")
    kind, reason = fault(closed, shop.url("/red.png"))
    assert kind == "address"
    assert "leads to 127.0.0.1, which is no public address; --photo-host 127.0.0.1 allows it" in reason
    port = shop.server.server_port
    assert fault(closed, f"http://localhost:{port}/red.png")[0] == "address"
    assert fault(closed, f"http://[::ffff:127.0.0.1]:{port}/red.png")[0] == "address"
    assert fault(closed, f"http://2130706433:{port}/red.png")[0] == "address"
    assert shop.asked == []


def test_a_name_is_resolved_once_and_the_connection_goes_to_the_address_that_was_checked(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["93.184.215.14", "127.0.0.1"])  # a name that changes its address after the check
    tried: list[object] = []

    def resolve(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(address: object, timeout: float) -> socket.socket:
        tried.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert fault(Downloads(tmp_path), "http://rebinding.example/red.png")[0] == "unreachable"
    assert tried == [("93.184.215.14", 80)]


def test_redirects_are_followed_checked_and_bounded(shop: Shop, allowed: Downloads) -> None:
    shop.answers |= {
        "/moved": status(302, "red.png"),
        "/inside": status(301, f"http://localhost:{shop.server.server_port}/red.png"),
        "/file": status(302, "file:///etc/passwd"),
        "/loop": status(307, "/loop"),
    }
    assert allowed.fetch(shop.url("/moved")).read_bytes() == png()
    assert fault(allowed, shop.url("/inside"))[0] == "address"
    assert fault(allowed, shop.url("/file"))[0] == "address"
    assert fault(allowed, shop.url("/loop")) == ("unreachable", f"{shop.url('/loop')} is redirected more than 5 times")


@pytest.mark.parametrize(
    "url", ["http://", "http://user:word@host/a.png", "http://a b/c.png", "http://host:99999/a.png", "http://[::1/a"]
)
def test_addresses_that_are_none_are_told(url: str, tmp_path: Path) -> None:
    assert fault(Downloads(tmp_path), url)[0] == "address"


def test_bytes_are_bounded_with_and_without_their_number(shop: Shop, allowed: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES", 1_000)

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"x" * 500)
        except OSError:
            pass

    shop.answers |= {"/large": photo(b"x" * 1_001), "/endless": endless}
    assert fault(allowed, shop.url("/large"))[0] == "too_large"
    assert fault(allowed, shop.url("/endless"))[0] == "too_large"


def test_time_is_bounded_however_slowly_bytes_come(shop: Shop, allowed: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TOTAL_TIMEOUT_S", 0.5)
    gone = threading.Event()

    def slow(request: BaseHTTPRequestHandler) -> None:
        try:
            while not gone.wait(0.05):
                request.wfile.write(b"H")  # never a whole line
        except OSError:
            pass

    shop.answers["/slow"] = slow
    assert fault(allowed, shop.url("/slow")) == (
        "unreachable",
        f"{shop.url('/slow')} cannot be fetched: it took more than 0.5 seconds",
    )
    gone.set()


def test_an_answer_that_is_cut_is_no_photo(shop: Shop, allowed: Downloads) -> None:
    def cut(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"x" * 10)
        request.close_connection = True

    shop.answers["/cut"] = cut
    assert fault(allowed, shop.url("/cut"))[0] == "unreachable"
    assert not allowed.path(shop.url("/cut")).exists()


def test_a_host_that_does_not_answer_is_not_asked_for_ever(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unused.getsockname()[1]}"
    silent = Downloads(tmp_path, frozenset({place}))
    reasons = [fault(silent, f"http://{place}/{number}.png")[1] for number in range(6)]
    assert "refused" in reasons[4]
    assert "127.0.0.1 did not answer 5 times" in reasons[5]


def test_a_folder_that_cannot_be_written_is_told_with_a_remedy(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "photos").write_text("a file")
    with pytest.raises(InvalidInput, match=r"photos/.* cannot be written .*; mend it, or add --no-fetch"):
        Downloads(tmp_path / "photos", frozenset({shop.place})).fetch(shop.url("/red.png"))


def test_a_status_is_told(shop: Shop, allowed: Downloads) -> None:
    assert fault(allowed, shop.url("/none.png")) == ("unreachable", f"{shop.url('/none.png')} answers with the status 404")


def test_the_first_photo_that_can_be_read_is_taken_and_each_missing_one_is_told(
    shop: Shop, allowed: Downloads, tmp_path: Path
) -> None:
    (tmp_path / "blue.png").write_bytes(png((0, 0, 200)))
    images = (shop.url("/none.png"), shop.url("/red.png"), "blue.png", "green.png")
    place = PhotoPlace(images[0], tmp_path, (), images[1:], allowed)
    with PhotoLoader(8, workers=0) as loader:
        (((photo, state, misses),),) = loader.load([[place]])
    assert photo is not None
    assert photo[0, 0].tolist() == [200, 0, 0]
    assert state == PhotoState.READ
    assert [(miss.photo, miss.state) for miss in misses] == [(images[0], "unreachable"), ("green.png", "unreadable")]


def test_a_tower_of_texts_fetches_photos_for_the_page_alone(shop: Shop, allowed: Downloads, tmp_path: Path) -> None:
    place = PhotoPlace(shop.url("/red.png"), tmp_path, (), ("missing.png",), allowed)
    assert load_photo(place, 0) == (None, PhotoState.NOT_LISTED, ())
    assert allowed.path(shop.url("/red.png")).is_file()


def test_without_downloads_an_address_is_not_fetched(tmp_path: Path) -> None:
    loaded = load_photo(PhotoPlace("https://shop.example/1.jpg", tmp_path), 8)
    assert (loaded.state, loaded.misses[0].reason) == (
        PhotoState.NOT_FETCHED,
        "https://shop.example/1.jpg was not fetched; run the job with --fetch",
    )
