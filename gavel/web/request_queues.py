"""Queues of requests to `gavel serve`: a request gets a slot in time or a 503 (docs/adr/0020-what-a-full-server-does.md)."""

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

MAX_UNFINISHED_BYTES = 64_000_000  # sum over all bodies that are still being received
EMA_WEIGHT = 0.1  # weight of the latest request in the average service time, which settles after some twenty requests
PHOTO_SEARCHES = "photo_searches"
KINDS = {  # path, or its first part -> kind of request; all other requests read files of the page or a statistic of the index
    "search": "searches",
    "items": "searches",
    "retrieve": "searches",
    "encode_query": "searches",
    "encode_buyer": "searches",
    "search/image": PHOTO_SEARCHES,  # photo searches wait for one another and must not delay other searches
    "photos": "photos",
    "events": "writes",
    "buyers": "writes",
}
OTHERS = "others"
PUTS = "puts"
MIN_SEARCH_SLOTS = 2  # one slow request, such as a large photo, must not block all others
REMOTE_SEARCH_SLOTS = 40  # where searches wait for another machine
# PhotoFiles draws one thumbnail at a time; requests wait for it without a thread, as many as a page has photos. Lots that are put
# wait in their threads, so that they share batches (gavel/workspace/item_writer.py)
OTHER_SLOTS = {PHOTO_SEARCHES: 24, "photos": 24, "writes": 2, PUTS: 24, OTHERS: 8}


def request_queues(settings: Settings, workers: int = 1) -> "dict[str, Queue]":
    """Create the queues of one process, one for each kind of request.

    With a local index and re-ranker, a process runs max(2, CPU cores // workers) searches at a time. More searches would compete
    for its interpreter. If index or re-ranker is remote, the process runs 40 searches at a time.

    Args:
        settings: `index`, `ranker_endpoint` and `max_wait_s` (seconds) are read.
        workers: processes that share this machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    remote = settings.index == "opensearch" or settings.ranker_endpoint
    searches = REMOTE_SEARCH_SLOTS if remote else max(MIN_SEARCH_SLOTS, cores // workers)
    return {kind: Queue(slots, settings.max_wait_s) for kind, slots in {"searches": searches, **OTHER_SLOTS}.items()}


class Queue:
    """First-come, first-served queue for a number of slots. Belongs to one event loop."""

    def __init__(self, slots: int, max_wait_s: float) -> None:
        """Create an empty queue.

        Args:
            slots: requests that run at a time, >= 1.
            max_wait_s: seconds that a request may wait.
        """
        self.slots, self._max_wait_s = slots, max_wait_s
        self.refused = self.abandoned = self._running = 0
        self._waiting: dict[asyncio.Future[bool], None] = {}  # in order of arrival; True grants a slot
        self._service_s = 0.0  # moving average of the service time

    @property
    def expected_wait_s(self) -> float:
        """Expected wait in seconds of a new request, if running requests end evenly spread over the service time."""
        return (len(self._waiting) + 1) * self._service_s / self.slots if self._running >= self.slots else 0.0

    @property
    def is_full(self) -> bool:
        """True if a new request would wait too long.

        As many requests as there are slots may always wait. So no slot is idle, and the average recovers after slow requests.
        """
        return len(self._waiting) >= self.slots and self.expected_wait_s > self._max_wait_s

    def metrics(self) -> dict[str, float]:
        """Return the queue's fields in the answer of /health."""
        return {
            "turns": self.slots,
            "running": self._running,
            "waiting": len(self._waiting),
            "expected_wait_ms": round(self.expected_wait_s * 1_000, 1),
            "refused": self.refused,
            "abandoned": self.abandoned,
        }

    async def enter(self, disconnect: "asyncio.Future[Message]") -> bool:
        """Wait for a slot and return True; return False if no slot was free in time or the client disconnected."""
        if self._running < self.slots:
            self._running += 1
            return True
        loop = asyncio.get_running_loop()
        slot: asyncio.Future[bool] = loop.create_future()
        self._waiting[slot] = None

        def give_up(_: object = None) -> None:
            if not slot.done():
                slot.set_result(False)

        timer = loop.call_later(self._max_wait_s, give_up)
        disconnect.add_done_callback(give_up)
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled() and slot.result():
                self._pass_slot_on()
            raise
        finally:
            timer.cancel()
            self._waiting.pop(slot, None)

    def leave(self, seconds: float) -> None:
        """Release a slot after `seconds` of service time."""
        self._service_s += (seconds - self._service_s) * (EMA_WEIGHT if self._service_s else 1.0)
        self._pass_slot_on()

    def _pass_slot_on(self) -> None:
        """Grant a released slot to the next waiting request."""
        while self._waiting:
            slot = next(iter(self._waiting))
            del self._waiting[slot]
            if not slot.done():
                slot.set_result(True)
                return
        self._running -= 1


class QueueMiddleware:
    """ASGI middleware that gives a complete request a slot or refuses it with 503, and starts no abandoned request.

    Plain ASGI, because of the reasons in problems.py. A request holds no slot while its body is received or its answer is sent:
    a slow client must not keep slots from others.
    """

    def __init__(self, app: ASGIApp, queues: Mapping[str, Queue]) -> None:
        """Wrap an app.

        Args:
            app: app whose endpoints run in threads; there are at least as many threads as slots.
            queues: kind of request -> queue, for every kind in KINDS and for OTHERS.
        """
        self._app, self._queues = app, queues
        self._unfinished_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"].strip("/")
        kind = KINDS.get(path) or KINDS.get(path.partition("/")[0], OTHERS)
        if path.startswith("items/") and scope["method"] != "GET":
            kind = PUTS if scope["method"] == "PUT" else "writes"
        queue = self._queues[kind]
        body = None if queue.is_full else await self._whole_body(receive)
        if body is None or queue.is_full:  # may have filled up while the body was received
            return await _refuse(queue)(scope, receive, send)
        arrival, disconnect = Arrival(), asyncio.ensure_future(receive())  # the only message that can still come
        disconnect.add_done_callback(lambda _: setattr(arrival, "abandoned", True))
        try:
            if await queue.enter(disconnect):
                slot = _Slot(queue, send)
                try:
                    ARRIVAL.set(arrival)
                    await self._app(scope, _replay(body, disconnect), slot.send)
                finally:
                    slot.release()
            elif not disconnect.done():
                await _refuse(queue)(scope, receive, send)
            else:
                queue.abandoned += 1
        finally:
            disconnect.cancel()

    async def _whole_body(self, receive: Receive) -> bytes | None:
        """Return the body of a request, or None if the client hung up or too many bytes are being received in all.

        problems.py limits the size of one body.
        """
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


class _Slot:
    """A slot that is released once the answer is computed, however long the client takes to read the answer."""

    def __init__(self, queue: Queue, send: Send) -> None:
        self._queue, self._send = queue, send
        self._started: float | None = time.monotonic()  # None once released

    async def send(self, message: Message) -> None:
        """Release the slot, then send. Even the head of an answer waits until the client has read earlier answers."""
        self.release()
        await self._send(message)

    def release(self) -> None:
        """Release the slot, if it is not released yet."""
        if self._started is not None:
            self._queue.leave(time.monotonic() - self._started)
            self._started = None


def _replay(body: bytes, disconnect: "asyncio.Future[Message]") -> Receive:
    """Return a `receive` that gives the complete body, then the disconnect."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.shield(disconnect)

    return receive


def _refuse(queue: Queue) -> Response:
    queue.refused += 1
    return _overloaded(max(1, math.ceil(queue.expected_wait_s)))


@cache  # the most frequent answer of a full server
def _overloaded(retry_after_s: int) -> Response:
    detail = f"too many requests wait for their turn already; ask again in {retry_after_s} s"
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", detail, {"Retry-After": str(retry_after_s)})
