"""Admission of requests to `gavel serve`: those that it can answer in time (docs/adr/0020-what-a-full-server-does.md)."""

import asyncio
import math
import os
import time
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lambdas.query_api.problems import problem
from retrieval.config.settings import Settings
from retrieval.deadline import ARRIVAL, Arrival

MAX_UNFINISHED_BYTES = 64_000_000  # of all bodies together that are still being sent
NEWEST_SHARE = 0.1  # of the latest request in the average service time: some twenty requests settle it
PHOTO_SEARCHES = "photo_searches"
KINDS = {  # a path, or its first part -> kind of the request; the others read files of the page, or a number of the index
    "search": "searches",
    "items": "searches",
    "retrieve": "searches",
    "encode_buyer": "searches",
    "search/image": PHOTO_SEARCHES,  # wait for one another, and may hold up no other search meanwhile
    "photos": "photos",
    "events": "writes",
    "buyers": "writes",
}
OTHERS = "others"
LEAST_SEARCHES = 2  # at a time, so that one slow request, such as a large photo, never holds up all the others
SEARCHES_ELSEWHERE = 40  # at a time, where they wait for another machine
# photos that are still to be drawn wait for one another on the shelf: all those of a page, and without a thread
OTHER_TURNS = {PHOTO_SEARCHES: 24, "photos": 24, "writes": 2, OTHERS: 8}


def request_queues(settings: Settings, workers: int = 1) -> "dict[str, Queue]":
    """Make the queues of one process, one for each kind of request.

    Where the process does all the work it answers a few searches at a time, because more of them only take turns at the interpreter
    and all come late.

    Args:
        settings: say whether searches wait for another machine, and how long a request may wait for its turn.
        workers: processes that share this machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    elsewhere = settings.index == "opensearch" or settings.ranker_endpoint
    searches = SEARCHES_ELSEWHERE if elsewhere else max(LEAST_SEARCHES, cores // workers)
    return {kind: Queue(turns, settings.max_wait_s) for kind, turns in {"searches": searches, **OTHER_TURNS}.items()}


class Queue:
    """Requests that share a number of turns, first come first served. Belongs to one event loop."""

    def __init__(self, turns: int, max_wait_s: float) -> None:
        """Make an empty queue.

        Args:
            turns: requests that are worked on at a time, >= 1.
            max_wait_s: seconds that a request may wait.
        """
        self.turns, self._max_wait_s = turns, max_wait_s
        self.refused = self.abandoned = self._running = 0
        self._waiting: dict[asyncio.Future[bool], None] = {}  # in their order; True is a turn
        self._service_s = 0.0  # moving average of the seconds that a turn takes

    @property
    def expected_wait_s(self) -> float:
        """Seconds that a request which came now would wait: turns in progress end evenly spread over their time."""
        return (len(self._waiting) + 1) * self._service_s / self.turns if self._running >= self.turns else 0.0

    @property
    def is_full(self) -> bool:
        """True if a request that came now would wait too long.

        As many as there are turns may always wait. So no turn is idle, and the average recovers after some slow requests.
        """
        return len(self._waiting) >= self.turns and self.expected_wait_s > self._max_wait_s

    def figures(self) -> dict[str, float]:
        """Return the fields of a Queue of /health."""
        return {
            "turns": self.turns,
            "running": self._running,
            "waiting": len(self._waiting),
            "expected_wait_ms": round(self.expected_wait_s * 1_000, 1),
            "refused": self.refused,
            "abandoned": self.abandoned,
        }

    async def enter(self, hung_up: "asyncio.Future[Message]") -> bool:
        """Wait for a turn; False if none came in time, or the client hung up before."""
        if self._running < self.turns:
            self._running += 1
            return True
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting[turn] = None

        def give_up(_: object = None) -> None:
            if not turn.done():
                turn.set_result(False)

        timer = loop.call_later(self._max_wait_s, give_up)
        hung_up.add_done_callback(give_up)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._pass_on()
            raise
        finally:
            timer.cancel()
            self._waiting.pop(turn, None)

    def leave(self, seconds: float) -> None:
        """End a turn that took so long."""
        self._service_s += (seconds - self._service_s) * (NEWEST_SHARE if self._service_s else 1.0)
        self._pass_on()

    def _pass_on(self) -> None:
        """Give a turn that ended to the next request that still waits for one."""
        while self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            if not turn.done():
                turn.set_result(True)
                return
        self._running -= 1


class Admission:
    """ASGI middleware that gives a whole request its turn or refuses it with 503; abandoned requests are not begun.

    Plain ASGI, for the reasons that problems.py gives. A body is read before the turn, so that one which is sent slowly, or never
    to its end, keeps no turn from others; nor does an answer that is taken slowly, or never.
    """

    def __init__(self, app: ASGIApp, queues: Mapping[str, Queue]) -> None:
        """Wrap an app.

        Args:
            app: whose endpoints run in threads, at least as many as there are turns.
            queues: of each kind of request in KINDS, and of OTHERS.
        """
        self._app, self._queues = app, queues
        self._unfinished_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"].strip("/")
        queue = self._queues[KINDS.get(path) or KINDS.get(path.partition("/")[0], OTHERS)]
        body = None if queue.is_full else await self._whole_body(receive)
        if body is None or queue.is_full:  # it may have filled up while the body came
            return await _refuse(queue)(scope, receive, send)
        arrival, hung_up = Arrival(), asyncio.ensure_future(receive())  # all that can still come is the end of the connection
        hung_up.add_done_callback(lambda _: setattr(arrival, "abandoned", True))
        try:
            if await queue.enter(hung_up):
                turn = _Turn(queue, send)
                try:
                    ARRIVAL.set(arrival)
                    await self._app(scope, _replay(body, hung_up), turn.send)
                finally:
                    turn.end()
            elif not hung_up.done():
                await _refuse(queue)(scope, receive, send)
            else:
                queue.abandoned += 1
        finally:
            hung_up.cancel()

    async def _whole_body(self, receive: Receive) -> bytes | None:
        """The body of a request, of the size that problems.py allows; None if it did not come, or too many come at a time."""
        body, more = bytearray(), True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                self._unfinished_bytes += len(message.get("body", b""))
                more = message.get("more_body", False)
                if more and self._unfinished_bytes > MAX_UNFINISHED_BYTES:
                    return None
            return bytes(body)
        finally:
            self._unfinished_bytes -= len(body)


class _Turn:
    """A turn that ends when the answer is worked out, however long its client takes to read that and the answers before it."""

    def __init__(self, queue: Queue, send: Send) -> None:
        self._queue, self._send = queue, send
        self._started: float | None = time.monotonic()  # None once the turn has ended

    async def send(self, message: Message) -> None:
        """End the turn, then send; the head of an answer already waits until earlier answers of its connection are taken."""
        self.end()
        await self._send(message)

    def end(self) -> None:
        """End the turn unless it has ended."""
        if self._started is not None:
            self._queue.leave(time.monotonic() - self._started)
            self._started = None


def _replay(body: bytes, hung_up: "asyncio.Future[Message]") -> Receive:
    """Hand the app the whole body, then the end of the connection."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.shield(hung_up)

    return receive


def _refuse(queue: Queue) -> Response:
    queue.refused += 1
    return _overloaded(max(1, math.ceil(queue.expected_wait_s)))


@cache  # a full server says this more often than anything else
def _overloaded(retry_after_s: int) -> Response:
    detail = f"too many requests wait for their turn already; ask again in {retry_after_s} s"
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", detail, {"Retry-After": str(retry_after_s)})
