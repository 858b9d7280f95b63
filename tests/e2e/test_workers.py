"""`gavel serve --workers`: processes that answer for one address, are replaced, and end with their parent."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from gavel.opensearch.node import free_port

TESTS = Path(__file__).parents[1]
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: gavel\r\nContent-Length: 100\r\n\r\nhalf"


def connect(url: str, sent: bytes) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(sent)
    return connection


@contextmanager
def workers(*arguments: str) -> Iterator[tuple[str, "subprocess.Popen[str]", list[str]]]:
    """The address of two worker processes, the parent's process, and its words as they come."""
    port, said = free_port(), []
    command = [sys.executable, str(TESTS / "serving_workers.py"), str(port), *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as parent:
        assert parent.stdout is not None
        reading = threading.Thread(target=lambda: said.extend(parent.stdout or []), daemon=True)
        reading.start()
        try:
            yield f"http://127.0.0.1:{port}", parent, said
        finally:
            parent.kill()


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


def answering(url: str) -> int:
    """Process id of the worker that answers."""
    return int(urlopen(url, timeout=60).read())


def test_a_worker_that_ends_is_told_and_replaced_and_all_stop_with_their_parent() -> None:
    with workers() as (url, parent, said):
        until(lambda: said == ["ready\n"])
        processes: set[int] = set()
        until(lambda: processes.add(answering(url)) or len(processes) == 2)
        killed = min(processes)
        os.kill(killed, signal.SIGKILL)
        until(lambda: f"WARNING worker {killed} ended with exit code -9; another one starts\n" in said)
        until(lambda: processes.add(answering(url)) or len(processes) == 3)
        with ThreadPoolExecutor(1) as client, connect(url, HALF_A_BODY):
            slow = client.submit(lambda: urlopen(f"{url}/slow", timeout=20).read())
            time.sleep(0.3)
            parent.send_signal(signal.SIGTERM)
            assert parent.wait(15) == 0
            assert slow.result() == b'"done"'
        until(lambda: all(not Path(f"/proc/{process}").exists() for process in processes), 5)


def test_workers_end_when_their_parent_is_killed() -> None:
    with workers() as (url, parent, said):
        until(lambda: said == ["ready\n"])
        process = answering(url)
        parent.kill()
        until(lambda: not Path(f"/proc/{process}").exists(), 15)


def test_a_server_ends_in_ten_seconds_although_a_request_does_not() -> None:
    with workers() as (url, parent, said):
        until(lambda: said == ["ready\n"])
        assert answering(url)
        with connect(url, b"GET /stuck HTTP/1.1\r\nHost: gavel\r\n\r\n"):
            time.sleep(0.5)
            started = time.monotonic()
            parent.send_signal(signal.SIGTERM)
            parent.wait(20)
        assert time.monotonic() - started < 11
        until(lambda: any("1 requests were still worked on after 8 s; they end unanswered" in line for line in said), 5)


def test_workers_that_keep_ending_end_the_command_with_a_word() -> None:
    with workers("broken") as (_, parent, said):
        assert parent.wait(90) == 1
        until(lambda: bool(re.search("5 workers ended within 60 s, the last with exit code -9", "".join(said))), 5)
