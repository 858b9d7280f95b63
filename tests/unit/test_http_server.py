"""How `gavel serve` runs its app: few answers at a time where it does all the work itself."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.request import Request as Question
from urllib.request import urlopen

import pytest
from fastapi import FastAPI, Request

from local import http_server
from local.serve_command import listen
from retrieval.settings import Settings


def test_as_many_answers_are_worked_out_at_a_time_as_there_are_cores_and_two_at_least(monkeypatch):
    for cores, at_once in ((1, 2), (2, 2), (8, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        assert http_server.searches_at_once(Settings()) == at_once


@pytest.mark.parametrize("elsewhere", [{"index": "opensearch"}, {"ranker_endpoint": "reranker"}])
def test_searches_that_wait_for_another_machine_are_not_held_back(elsewhere):
    assert http_server.searches_at_once(replace(Settings(), **elsewhere)) is None


@pytest.mark.parametrize(("at_once", "most"), [(2, 2), (None, 6)])
def test_the_server_works_out_no_more_answers_at_a_time_than_it_is_told(at_once, most, monkeypatch):
    monkeypatch.setattr(http_server.gc, "freeze", lambda: None)  # of the tests' own process
    running, seen, turn = 0, [], threading.Lock()
    app = FastAPI()

    @app.get("/")
    def work() -> str:
        nonlocal running
        with turn:
            running += 1
            seen.append(running)
        time.sleep(0.3)
        with turn:
            running -= 1
        return "done"

    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        threading.Thread(target=http_server.serve_app, args=(app, listener, at_once), daemon=True).start()
        with ThreadPoolExecutor(6) as buyers:
            answers = list(buyers.map(lambda _: urlopen(url, timeout=20).status, range(6)))
    assert answers == [200] * 6
    assert max(seen) == most


@pytest.mark.parametrize(("proxies", "client"), [(None, "127.0.0.1"), ("127.0.0.1", "198.51.100.7")])
def test_another_address_than_the_clients_own_is_believed_from_a_named_proxy_alone(proxies, client, monkeypatch):
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
        threading.Thread(target=http_server.serve_app, args=(app, listener, 2), daemon=True).start()
        with urlopen(Question(url, headers={"X-Forwarded-For": "198.51.100.7"}), timeout=20) as answer:
            assert json.load(answer) == client
