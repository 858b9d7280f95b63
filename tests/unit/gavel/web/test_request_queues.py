"""What `gavel serve` does with more requests than it can answer."""

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from fastapi import FastAPI
from lots import WordEncoder, lot, publish
from starlette.middleware import Middleware

from gavel.web.http_server import served_in_thread
from gavel.web.request_queues import Queue, QueueMiddleware, request_queues
from lambdas.query_api.app import create_app
from lambdas.query_api.problems import PROBLEM_TYPE
from retrieval.config.settings import Settings
from retrieval.deadline import ARRIVAL, Arrival, Deadline
from retrieval.errors import IndexUnavailable, RequestAbandoned
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchLimits, SearchModels, SearchRequest, SearchService

HALF_A_SEARCH = b"POST /search HTTP/1.1\r\nHost: gavel\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


class Gate:
    """An encoder that works when it is let, and remembers what it was asked."""

    def __init__(self, tower_id: str) -> None:
        self.inner, self.opened, self.begun = WordEncoder(tower_id), threading.Event(), threading.Semaphore(0)
        self.texts: list[str] = []

    @property
    def tower_id(self) -> str:
        return self.inner.tower_id

    def encode(self, texts: list[str]) -> Any:
        self.texts += texts
        self.begun.release()
        assert self.opened.wait(30)
        return self.inner.encode(texts)


@contextmanager
def served(folder: Path, *, turns: int = 1, max_wait_s: float = 20.0) -> Iterator[tuple[str, Gate]]:
    """A server with so many turns for searches, and the encoder that they all wait for."""
    store, gates = EmbeddedStore(folder), []

    def load(tower_id: str) -> Gate:
        gates.append(Gate(tower_id))
        return gates[0]

    publish(store, [lot("v1", "red vase")])
    service = SearchService(store, SearchModels(load))
    service.live()
    queues = {kind: Queue(turns, max_wait_s) for kind in request_queues(Settings())}
    app = create_app(lambda: service, queues=lambda: {kind: queue.metrics() for kind, queue in queues.items()})
    app.user_middleware.append(Middleware(QueueMiddleware, queues=queues))
    with served_in_thread(app) as url:
        try:
            yield url, gates[0]
        finally:
            gates[0].opened.set()


def search(url: str, text: str) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers of a search."""
    try:
        with urlopen(f"{url}/search?q={text}", timeout=30) as answer:
            return answer.status, json.load(answer), dict(answer.headers)
    except HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def queue_of(url: str, kind: str = "searches") -> dict[str, float]:
    with urlopen(f"{url}/health", timeout=10) as health:
        return dict(json.load(health)["queues"][kind])


def until_waiting(url: str, count: int) -> None:
    ends = time.monotonic() + 20
    while queue_of(url)["waiting"] != count:
        assert time.monotonic() < ends
        time.sleep(0.02)


def connect(url: str, sent: bytes) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(sent)
    return connection


def test_a_search_that_waited_as_long_as_it_may_is_a_503_that_says_when_to_ask_again(tmp_path: Path) -> None:
    with served(tmp_path, max_wait_s=0.2) as (url, gate), ThreadPoolExecutor(1) as buyers:
        first: Future[Any] = buyers.submit(search, url, "one")
        gate.begun.acquire()
        status, problem, headers = search(url, "two")
        assert (status, problem["type"], headers["retry-after"]) == (503, "overloaded", "1")
        assert headers["content-type"] == PROBLEM_TYPE
        gate.opened.set()
        assert first.result()[0] == 200
        assert gate.texts == ["one"]  # nothing was begun for the other one


def test_a_search_that_would_wait_too_long_is_refused_at_once(tmp_path: Path) -> None:
    with served(tmp_path, max_wait_s=4.0) as (url, gate), ThreadPoolExecutor(3) as buyers:
        slow = buyers.submit(search, url, "slow")
        gate.begun.acquire()
        time.sleep(3.0)  # what a turn takes on average, from now on
        gate.opened.set()
        slow.result()
        gate.opened.clear()
        others = [buyers.submit(search, url, f"other{number}") for number in range(2)]
        gate.begun.acquire()
        until_waiting(url, 1)
        asked = time.monotonic()
        status, problem, headers = search(url, "late")
        assert (status, problem["type"]) == (503, "overloaded")
        assert time.monotonic() - asked < 2
        assert int(headers["retry-after"]) >= 6
        gate.opened.set()
        assert [other.result()[0] for other in others] == [200, 200]
        assert queue_of(url)["refused"] == 1


def test_searches_are_answered_in_the_order_they_came(tmp_path: Path) -> None:
    with served(tmp_path) as (url, gate), ThreadPoolExecutor(4) as buyers:
        waiting = [buyers.submit(search, url, "first")]
        gate.begun.acquire()
        for number, text in enumerate(("second", "third", "fourth"), 1):
            waiting.append(buyers.submit(search, url, text))
            until_waiting(url, number)
        gate.opened.set()
        assert [answer.result()[0] for answer in waiting] == [200] * 4
        assert gate.texts == ["first", "second", "third", "fourth"]


def test_no_work_is_begun_for_a_client_that_hung_up(tmp_path: Path) -> None:
    with served(tmp_path) as (url, gate), ThreadPoolExecutor(2) as buyers:
        first = buyers.submit(search, url, "first")
        gate.begun.acquire()
        gone = connect(url, b"GET /search?q=gone HTTP/1.1\r\nHost: gavel\r\n\r\n")
        until_waiting(url, 1)
        gone.close()
        until_waiting(url, 0)
        last = buyers.submit(search, url, "last")
        until_waiting(url, 1)
        gate.opened.set()
        assert (first.result()[0], last.result()[0]) == (200, 200)
        assert gate.texts == ["first", "last"]
        assert queue_of(url)["abandoned"] == 1


def test_a_body_that_is_never_whole_takes_no_turn_from_others(tmp_path: Path) -> None:
    with served(tmp_path) as (url, gate):
        gate.opened.set()
        held = [connect(url, HALF_A_SEARCH) for _ in range(20)]
        assert search(url, "vase")[0] == 200
        assert queue_of(url)["waiting"] == 0
        for connection in held:
            connection.close()


def test_answers_that_nobody_reads_take_no_turn_from_others() -> None:
    app, queues = FastAPI(), {"searches": Queue(1, 0.5), "others": Queue(8, 0.5)}

    @app.get("/search")
    def large() -> str:
        return "x" * 1_000_000

    app.user_middleware.append(Middleware(QueueMiddleware, queues=queues))
    with served_in_thread(app) as url:
        held = [connect(url, b"GET /search HTTP/1.1\r\nHost: gavel\r\n\r\n" * 40) for _ in range(4)]
        time.sleep(1.5)  # until the buffers between are full
        assert [search(url, "vase")[0] for _ in range(3)] == [200] * 3
        for connection in held:
            connection.close()
    assert queues["searches"].metrics()["running"] == 0


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_a_turn_ends_once_wherever_its_app_fails(sent: int) -> None:
    queue, answer = Queue(1, 0.5), [{"type": "http.response.start", "status": 200}, {"type": "http.response.body", "body": b""}]

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        assert queue.metrics()["running"] == 1
        for message in answer[:sent]:
            await send(message)
        raise ValueError("a fault of the app")

    async def receive() -> Any:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b""}
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        assert queue.metrics()["running"] == 0

    asked: list[bool] = []
    with pytest.raises(ValueError, match="a fault of the app"):
        asyncio.run(QueueMiddleware(fail, {"others": queue})({"type": "http", "path": "/"}, receive, send))
    assert queue.metrics()["running"] == 0


def test_bodies_that_are_sent_at_a_time_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gavel.web.request_queues.MAX_UNFINISHED_BYTES", 1_000)
    head = b"POST /search HTTP/1.1\r\nHost: gavel\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    with served(tmp_path) as (url, gate):
        gate.opened.set()
        with connect(url, head + b" " * 900):
            time.sleep(0.3)
            with connect(url, head + b" " * 200) as second:
                assert second.recv(1_000).startswith(b"HTTP/1.1 503 ")
            assert search(url, "vase")[0] == 200  # it has no body


def test_health_and_page_answer_while_every_turn_is_taken(tmp_path: Path) -> None:
    with served(tmp_path) as (url, gate), ThreadPoolExecutor(3) as buyers:
        waiting = [buyers.submit(search, url, f"{number}") for number in range(3)]
        gate.begun.acquire()
        until_waiting(url, 2)
        assert queue_of(url) == {
            "turns": 1,
            "running": 1,
            "waiting": 2,
            "expected_wait_ms": queue_of(url)["expected_wait_ms"],
            "refused": 0,
            "abandoned": 0,
        }
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{url}/nowhere", timeout=10)
        gate.opened.set()
        assert [answer.result()[0] for answer in waiting] == [200] * 3


def test_as_many_searches_are_worked_out_at_a_time_as_there_are_cores_and_two_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers, turns in ((1, 1, 2), (2, 1, 2), (8, 1, 8), (8, 2, 4), (8, 8, 2)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        assert request_queues(Settings(), workers)["searches"].slots == turns


@pytest.mark.parametrize("elsewhere", [{"index": "opensearch"}, {"ranker_endpoint": "reranker"}])
def test_searches_that_wait_for_another_machine_are_not_held_back(elsewhere: dict[str, Any]) -> None:
    assert request_queues(replace(Settings(), **elsewhere))["searches"].slots == 40


def test_the_server_works_out_no_more_answers_at_a_time_than_there_are_turns() -> None:
    running, seen, turn = 0, [], threading.Lock()
    app = FastAPI()

    @app.get("/search")
    def work() -> str:
        nonlocal running
        with turn:
            running += 1
            seen.append(running)
        time.sleep(0.3)
        with turn:
            running -= 1
        return "done"

    app.user_middleware.append(Middleware(QueueMiddleware, queues={"searches": Queue(2, 20.0)}))
    with served_in_thread(app) as url, ThreadPoolExecutor(6) as buyers:
        answers = list(buyers.map(lambda _: urlopen(f"{url}/search", timeout=20).status, range(6)))
    assert answers == [200] * 6
    assert max(seen) == 2


@contextmanager
def arrived(seconds_ago: float, *, abandoned: bool = False) -> Iterator[None]:
    """A request that came so long ago is answered in the block."""
    arrival = Arrival()
    arrival.at -= seconds_ago
    arrival.abandoned = abandoned
    token = ARRIVAL.set(arrival)
    try:
        yield
    finally:
        ARRIVAL.reset(token)


def test_the_time_of_a_search_counts_from_its_arrival(tmp_path: Path) -> None:
    store, asked = EmbeddedStore(tmp_path), []
    publish(store, [lot("v1", "red vase")])

    class Encoder(WordEncoder):
        def encode(self, texts: list[str]) -> Any:
            asked.extend(texts)
            return super().encode(texts)

    service = SearchService(store, SearchModels(Encoder), SearchLimits(deadline_s=5.0))
    with arrived(4.0):
        assert service.search(SearchRequest("vase")).results
    with arrived(6.0), pytest.raises(IndexUnavailable, match="GAVEL_DEADLINE_S"):
        service.search(SearchRequest("lamp"))
    assert asked == ["vase"]  # what comes too late is not even encoded


def test_a_tower_that_a_search_has_to_load_takes_none_of_its_time(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    publish(store, [lot("v1", "red vase")])

    def load(tower_id: str) -> WordEncoder:
        time.sleep(0.6)
        return WordEncoder(tower_id)

    with arrived(0.0):
        assert SearchService(store, SearchModels(load), SearchLimits(deadline_s=0.5)).search(SearchRequest("vase")).results


def test_a_search_ends_between_two_stages_once_its_client_has_hung_up(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    publish(store, [lot("v1", "red vase")])
    service = SearchService(store, SearchModels(WordEncoder))
    with arrived(0.0, abandoned=True):
        for question in (
            lambda: service.search(SearchRequest("vase")),
            lambda: service.similar("v1"),
            lambda: service.nearest(WordEncoder().encode(["vase"])[0].tolist()),
        ):
            with pytest.raises(RequestAbandoned):
                question()
    assert set(service.circuits().values()) == {"closed"}  # nobody's fault
    assert service.search(SearchRequest("vase")).results


def test_a_deadline_of_one_request_to_the_index_counts_from_now() -> None:
    with arrived(60.0):
        assert Deadline(5.0).left() > 4
