"""How `gavel serve` holds its connections and its processes: no client holds it up by what it does not send."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request as Question
from urllib.request import urlopen

import pytest
from fastapi import FastAPI, Request

from gavel.cli.serve import listen
from gavel.web import http_server
from gavel.web.http_server import served_in_thread

HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: gavel\r\nContent-Length: 100\r\n\r\nhalf"


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that a test can wait for."""
    monkeypatch.setattr(http_server, "HEAD_S", 1.0)
    monkeypatch.setattr(http_server, "BODY_S", 1.0)
    monkeypatch.setattr(http_server.gc, "freeze", lambda: None)  # of the tests' own process


def echo() -> FastAPI:
    app = FastAPI()

    @app.post("/")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.get("/")
    def ready() -> str:
        return "ready"

    return app


def connect(url: str, sent: bytes = b"") -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(sent)
    return connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionResetError:
        pass
    return received


def problem_in(answer: bytes, status: int, kind: str) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/problem+json" in head
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head + b"\r\n"
    told: dict[str, Any] = json.loads(body)
    assert (told["status"], told["type"]) == (status, kind)
    return told


def dribble(connection: socket.socket, byte: bytes, seconds: float) -> float:
    """Send a byte ten times a second until the server ends the connection; how long it took."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        try:
            connection.sendall(byte)
        except OSError:
            break
        time.sleep(0.1)
    return time.monotonic() - started


def test_a_head_that_dribbles_in_does_not_hold_its_connection() -> None:
    with served_in_thread(echo()) as url, connect(url, b"GET / HTTP/1.1\r\nX: ") as connection:
        assert dribble(connection, b"x", 10) < 5
    with served_in_thread(echo()) as url, connect(url) as connection:
        assert dribble(connection, b"\r\n", 10) < 5  # no head has even begun


def test_a_head_that_dribbles_in_after_an_answer_does_not_either() -> None:
    with served_in_thread(echo()) as url, connect(url, b"GET / HTTP/1.1\r\nHost: gavel\r\n\r\n") as connection:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert dribble(connection, b"x", 10) < 5


def test_a_body_that_never_ends_is_a_408() -> None:
    with served_in_thread(echo()) as url, connect(url, HALF_A_BODY) as connection:
        assert problem_in(all_of(connection), 408, "request_timeout")["detail"].startswith(
            "the request was not here whole after 1 s"
        )


def test_a_head_without_end_is_a_431() -> None:
    with served_in_thread(echo()) as url, connect(url, b"GET / HTTP/1.1\r\n") as connection:
        connection.sendall(b"X: %s\r\n" % (b"x" * 1_000) * 70)
        assert "65,536 bytes" in problem_in(all_of(connection), 431, "request_header_fields_too_large")["detail"]


def test_what_is_no_http_is_a_problem_too() -> None:
    with (
        served_in_thread(echo()) as url,
        connect(url, b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx") as connection,
    ):
        assert problem_in(all_of(connection), 400, "invalid_request")


def test_a_client_that_takes_no_answer_is_let_go_however_many_it_is_still_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "ANSWER_S", 1.0)
    app = FastAPI()

    @app.get("/")
    def large() -> str:
        return "x" * 1_000_000

    with served_in_thread(app) as url, connect(url, b"GET / HTTP/1.1\r\nHost: gavel\r\n\r\n" * 40) as connection:
        time.sleep(4.0)
        assert len(all_of(connection)) < 30_000_000  # what the buffers between held


def test_slow_but_whole_requests_and_idle_connections_in_use_are_answered() -> None:
    with served_in_thread(echo()) as url, connect(url) as connection:
        for part in (b"POST / HTTP/1.1\r\nHost: gavel\r\n", b"Content-Length: 4\r\n\r\n", b"bo", b"dy"):
            connection.sendall(part)
            time.sleep(0.3)
        assert connection.recv(65_536).endswith(b"4")
        client = HTTPConnection(urlsplit(url).netloc, timeout=10)
        for _ in range(3):
            client.request("GET", "/")
            assert client.getresponse().read() == b'"ready"'
            time.sleep(0.5)


def test_beyond_the_limit_a_connection_that_owes_a_request_the_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 10)
    monkeypatch.setattr(http_server._Connection, "limit", 10)  # put back afterwards
    monkeypatch.setattr(http_server, "BODY_S", 60.0)
    with listen("127.0.0.1", 0) as listener, ExitStack() as held:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=http_server.serve_app, args=(echo(), listener), daemon=True).start()
        connections = [held.enter_context(connect(url, HALF_A_BODY)) for _ in range(30)]
        assert urlopen(url, timeout=10).status == 200
        assert [all_of(connection) for connection in connections[:20]] == [b""] * 20  # ended
        connections[-1].sendall(b"x" * 96)
        assert connections[-1].recv(65_536).endswith(b"100")


def test_a_server_stops_at_once_whatever_is_half_sent_and_running_requests_are_answered() -> None:
    app, begun = echo(), threading.Event()

    @app.get("/slow")
    def slow() -> str:
        begun.set()
        time.sleep(1.0)
        return "done"

    with ExitStack() as held, ThreadPoolExecutor(1) as client:
        with served_in_thread(app) as url:
            for half in (HALF_A_BODY, b"GET / HT", b""):
                for _ in range(100):
                    held.enter_context(connect(url, half))
            answer = client.submit(lambda: urlopen(f"{url}/slow", timeout=20).read())
            begun.wait(20)
            started = time.monotonic()
        assert time.monotonic() - started < 5
        assert answer.result() == b'"done"'


@pytest.mark.parametrize(("proxies", "client"), [(None, "127.0.0.1"), ("127.0.0.1", "198.51.100.7")])
def test_another_address_than_the_clients_own_is_believed_from_a_named_proxy_alone(
    proxies: str | None, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server.gc, "freeze", lambda: None)  # of the tests' own process
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if proxies:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    app = FastAPI()

    @app.get("/")
    def who(request: Request) -> str:
        return request.client.host

    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        threading.Thread(target=http_server.serve_app, args=(app, listener), daemon=True).start()
        with urlopen(Question(url, headers={"X-Forwarded-For": "198.51.100.7"}), timeout=20) as answer:
            assert json.load(answer) == client
