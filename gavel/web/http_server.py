"""The HTTP server of `gavel serve`: uvicorn in one or several processes, with time limits for slow clients."""

import asyncio
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from multiprocessing import connection
from typing import ClassVar

import anyio.to_thread
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lambdas.query_api.problems import RETRY_AFTER_S, SECURITY_HEADERS, problem
from retrieval.errors import GavelError
from retrieval.processes import end_with_parent

logger = logging.getLogger(__name__)

THREADS = 128  # more than the queues' slots, which limit the concurrent work
HEAD_S = 10.0  # time limit from the connection, or the last answer, to the end of a request head
BODY_S = 30.0  # time limit for a body; enough for a photo of 1 MB over a slow mobile connection
ANSWER_S = 60.0  # time limit for the client to read an answer
MAX_HEAD_BYTES = 65_536
MAX_CONNECTIONS = 2_048  # per process
FILES_BESIDE = 256  # files that a process may open besides its connections
STOP_S = 8.0  # from the stop signal until a process exits even with unfinished work; its parent waits a little longer
MAX_ENDED, ENDED_WITHIN_S = 5, 60.0  # the server gives up when this many workers end within this time


class _Connection(HttpToolsProtocol):
    """A connection that closes if its client does not send a request or read an answer in time.

    uvicorn itself only limits the idle time between two requests, and any byte resets that limit.
    """

    limit: ClassVar[int] = MAX_CONNECTIONS  # per process
    since: float | None = None  # time.monotonic() since which the server waits for the client; None while an answer is computed
    _limit_s = HEAD_S
    _paused: float | None = None  # time.monotonic() since which the client reads too slowly; None while the client keeps up
    _head_bytes: int | None = None  # bytes received of a head that has begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        full = len(self.connections) >= self.limit
        late = [each for each in self.connections if isinstance(each, _Connection) and each.since is not None] if full else []
        if late:
            min(late, key=lambda each: each.since or 0.0).end()
        super().connection_made(transport)  # type: ignore[arg-type]
        self._expect(HEAD_S)
        if full and not late:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "too many connections are open; ask again in a few seconds")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                detail = f"the request's head may have at most {MAX_HEAD_BYTES:,} bytes; send a shorter address or fewer headers"
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()
        self._expect(BODY_S)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if not self.cycle.response_complete:
            self.since = None

    def on_response_complete(self) -> None:
        another = bool(self.pipeline)
        super().on_response_complete()
        if not another:
            self._expect(HEAD_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused = time.monotonic()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused = None

    def shutdown(self) -> None:
        if self.since is None:
            super().shutdown()
        else:
            self.transport.close()  # sends an answer in progress first

    def end(self) -> None:
        """Close the connection at once, without sending what is left of an answer."""
        self.connections.discard(self)
        self.transport.abort()

    def check(self, now: float) -> None:
        """Close the connection if its client is late."""
        late_s = 0.0 if self.since is None else now - self.since
        if self.transport.get_write_buffer_size():
            paused_s = 0.0 if self._paused is None else now - self._paused  # also while further answers wait
            if max(late_s, paused_s) > ANSWER_S:
                self.end()
        elif late_s > self._limit_s:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request was not here whole after {self._limit_s:g} s; send it again")

    def _expect(self, seconds: float) -> None:
        self.since, self._limit_s = time.monotonic(), seconds

    def send_400_response(self, msg: str) -> None:
        self._answer(HTTPStatus.BAD_REQUEST, "invalid_request", "this is no valid HTTP/1.1 request; mind its encoding and lengths")

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Refuse an incomplete request and close the connection."""
        answered = self.cycle is None or self.cycle.response_complete
        if answered if self._head_bytes is not None else not answered and not self.cycle.response_started:
            self._answer(status, status.name.lower(), detail)
        self.transport.close()

    def _answer(self, status: HTTPStatus, kind: str, detail: str) -> None:
        retry = {"Retry-After": str(RETRY_AFTER_S)} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
        answer = problem(status, kind, detail, {**SECURITY_HEADERS, **retry, "Connection": "close"})
        head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, status.phrase.encode(), head, answer.body))
        self.transport.close()


class _Server(uvicorn.Server):
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS  # the limiter belongs to the running event loop
        await super().serve(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            now = time.monotonic()
            for each in list(self.server_state.connections):
                if isinstance(each, _Connection):
                    each.check(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if threading.current_thread() is threading.main_thread():  # a server in another thread does not end the process
            last = threading.Timer(STOP_S, self._end_process)
            last.daemon = True
            last.start()
        await super().shutdown(sockets)

    def _end_process(self) -> None:
        """Exit although threads still run, such as a photo's decoder. Acknowledged writes are already on disk."""
        logger.warning("%d requests were still worked on after %g s; they end unanswered", len(self.server_state.tasks), STOP_S)
        os._exit(0)


def serve_app(app: FastAPI, *listeners: socket.socket) -> None:
    """Serve an app on one or several sockets until Ctrl-C or SIGTERM.

    Objects that are already loaded are frozen, so that the garbage collector does not scan them while buyers wait.

    Args:
        app: app whose endpoints run in threads.
        listeners: listening sockets.
    """
    gc.collect()
    gc.freeze()
    _Connection.limit = connection_limit()
    _Server(_config(app)).run(sockets=list(listeners))


def connection_limit() -> int:
    """Raise this process's limit of open files, and return the number of connections that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MAX_CONNECTIONS + FILES_BESIDE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, soft - FILES_BESIDE))


def _config(app: FastAPI) -> uvicorn.Config:
    behind_proxy = "FORWARDED_ALLOW_IPS" in os.environ  # otherwise any local program could forge a client address
    return uvicorn.Config(app, http=_Connection, ws="none", log_level="warning", access_log=False, proxy_headers=behind_proxy)


def serve_in_workers(
    count: int,
    make_app: Callable[[], tuple[FastAPI, str]],
    listeners: Sequence[socket.socket],
    tell: Callable[[str], None],
    on_end: Callable[[int], None] = lambda process_id: None,
) -> None:
    """Serve an app in several processes that accept connections from the same sockets, until Ctrl-C or SIGTERM.

    A worker that ends is replaced. Workers are fresh interpreters, because threads of the libraries do not survive a fork.

    Args:
        count: number of processes, each with its own app over the same files.
        make_app: returns the app and a line that describes the app; must be picklable.
        listeners: listening sockets.
        tell: called with that line when the first worker is ready.
        on_end: called with the process id of a worker that has ended, before another worker takes its place.

    Raises:
        GavelError: no worker could start, or workers keep ending.
    """
    stop, announced, ended = threading.Event(), False, deque[float](maxlen=MAX_ENDED)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda number, frame: stop.set())
    workers = [_Worker(make_app, listeners) for _ in range(count)]
    try:
        while not stop.is_set():
            connection.wait([handle for worker in workers for handle in worker.handles()], timeout=0.5)
            for number, worker in enumerate(workers):
                report = worker.read()
                if isinstance(report, GavelError):
                    if not announced:
                        raise report
                    logger.error("a worker could not start: %s", report)
                elif report is not None and not announced:
                    announced = True
                    tell(report)
                if worker.process.is_alive() or stop.is_set():
                    continue
                ended.append(time.monotonic())
                code = worker.process.exitcode
                if len(ended) == MAX_ENDED and ended[-1] - ended[0] < ENDED_WITHIN_S:
                    raise GavelError(
                        f"{MAX_ENDED} workers ended within {ENDED_WITHIN_S:g} s, the last with exit code {code}; "
                        "mend what the lines above say, or start with --workers 1 to see it in one process"
                    )
                logger.warning("worker %d ended with exit code %s; another one starts", worker.process.pid, code)
                if worker.process.pid is not None:
                    on_end(worker.process.pid)
                workers[number] = _Worker(make_app, listeners)
    finally:
        for worker in workers:
            worker.process.terminate()
        last = time.monotonic() + STOP_S + 1.0
        for worker in workers:
            worker.process.join(max(0.0, last - time.monotonic()))
            worker.process.kill()


class _Worker:
    """A serving process. It reports once: a line when it is ready, or the error that prevented its start."""

    def __init__(self, make_app: Callable[[], tuple[FastAPI, str]], listeners: Sequence[socket.socket]) -> None:
        context = multiprocessing.get_context("spawn")
        reports, theirs = context.Pipe(duplex=False)
        self._reports: connection.Connection | None = reports
        self.process = context.Process(target=_work, args=(make_app, listeners, theirs))
        self.process.start()
        theirs.close()

    def handles(self) -> Sequence[int | connection.Connection]:
        """Return the handles for connection.wait()."""
        return [self.process.sentinel] if self._reports is None else [self.process.sentinel, self._reports]

    def read(self) -> str | GavelError | None:
        """Return the report once after it has arrived; otherwise return None."""
        if self._reports is None or not self._reports.poll():
            return None
        try:
            report: str | GavelError = self._reports.recv()
        except EOFError:
            return None
        finally:
            self._reports.close()
            self._reports = None
        return report


def _work(
    make_app: Callable[[], tuple[FastAPI, str]],
    listeners: Sequence[socket.socket],
    reports: "connection.Connection[str | GavelError, None]",
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent decides
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    end_with_parent(partial(os.kill, os.getpid(), signal.SIGTERM))
    try:
        app, line = make_app()
    except GavelError as error:
        reports.send(error)
        raise SystemExit(1) from error
    reports.send(line)
    reports.close()
    serve_app(app, *listeners)  # which closes them


@contextmanager
def served_in_thread(app: FastAPI, *others: socket.socket) -> Iterator[str]:
    """Serve an app on a free local port for the length of the block, and yield its URL.

    Args:
        app: app whose endpoints run in threads.
        others: further listening sockets.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(_config(app))
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener, *others]}, daemon=True)
        serving.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            serving.join()
