"""Cost of metrics for a search: the app of the query API with and without metrics, searched in turns in one process.

Both apps answer the same requests with one search service, which caches nothing. The metrics are written to files as by several
workers; a single process writes no files and is quicker. Processor time is compared, because other programs disturb it less than
the clock. Metrics are written twice a second, between searches; these writes are timed separately.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any
from urllib.parse import urlencode

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.middleware import Middleware

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from gavel.web.metrics_files import shared_files
from gavel.web.monitoring import Monitoring
from gavel.web.request_queues import QueueMiddleware, request_queues
from gavel.workspace.wiring import search_service
from lambdas.query_api.app import create_app
from retrieval.config.settings import Settings
from retrieval.errors import GavelError
from retrieval.progress import Progress, ignore_progress
from retrieval.search.service import SearchService

WARM_UP = 50
RESAMPLES = 1_000
WRITE_S = 0.5  # time between writes, as in a server
ADDRESS = "127.0.0.1:9464"  # turns the metrics on; nothing listens at this address
SERVER = ("127.0.0.1", 8000)


@dataclass(frozen=True)
class MonitoringResult(Measurement):
    """Processor time of searches without and with metrics.

    Attributes:
        searches: number of searches in each app.
        without_ms: median processor time of a search without metrics, in milliseconds.
        with_ms: median processor time of a search with metrics, in milliseconds.
        added: relative increase of the processor time, median over the pairs of searches; 0.01 is 1 %.
        added_low: lower end of the 95 % interval of `added`, by a bootstrap over pairs.
        added_high: upper end of that interval.
        written: processor time of the writes between searches, as a share of the processor time of searches with metrics.
    """

    searches: int
    without_ms: float
    with_ms: float
    added: float
    added_low: float
    added_high: float
    written: float


def run_benchmark(
    texts: Sequence[str], *, rounds: int = 5, seed: int = 7, on_search: Progress = ignore_progress
) -> MonitoringResult:
    """Time searches over the index of this workspace.

    Args:
        texts: queries.
        rounds: passes over the queries.
        seed: seed of the order of the apps in each pair, and of the bootstrap.
        on_search: called with (pairs done, pairs in all).

    Raises:
        GavelError: a search failed.
    """
    machine = describe_machine()
    settings = replace(Settings.from_env(), cached_answers_s=0.0, cached_queries=0, metrics_address="")
    with shared_files():
        service = search_service(settings)
        plain, measured = _App(settings, service), _App(replace(settings, metrics_address=ADDRESS), service)
        pairs, written_ms = asyncio.run(_search_both(plain, measured, list(texts) * rounds, random.Random(seed), on_search))
    shares = pairs[:, 1] / pairs[:, 0] - 1
    draws = np.random.default_rng(seed).integers(0, len(shares), (RESAMPLES, len(shares)))
    low, high = np.percentile(np.median(shares[draws], axis=1), (2.5, 97.5))
    without_ms, with_ms = (round(median(pairs[:, side]), 4) for side in (0, 1))
    added = round(float(np.median(shares)), 5)
    written = round(written_ms / float(pairs[:, 1].sum()), 5)
    return MonitoringResult(len(pairs), without_ms, with_ms, added, round(low, 5), round(high, 5), written, machine=machine)


class _App:
    """The query API as in `gavel serve`, without the page. The lifespan that writes metrics does not run."""

    def __init__(self, settings: Settings, service: SearchService) -> None:
        queues = request_queues(settings)
        self.monitoring = Monitoring(settings, service, queues)
        self.api = create_app(lambda: service, on_answer=self.monitoring.measure, telemetry=self.monitoring.telemetry)
        self.api.user_middleware.append(Middleware(QueueMiddleware, queues=queues))
        self.monitoring.watch(self.api, ())


async def _search_both(
    plain: _App, measured: _App, texts: Sequence[str], order: random.Random, on_search: Progress
) -> tuple[NDArray[np.float64], float]:
    """Search for each text in both apps.

    Returns:
        (N, 2) milliseconds of processor time of each search, without and with metrics; milliseconds of all writes of metrics.
    """
    metrics, pairs, written_ms = measured.monitoring.metrics, [], 0.0
    assert metrics is not None
    for text in texts[:WARM_UP]:
        await _search_ms(plain.api, text)
        await _search_ms(measured.api, text)
    metrics.write()
    last_write = time.monotonic()
    for number, text in enumerate(texts, 1):
        sides = [(0, plain.api), (1, measured.api)]
        order.shuffle(sides)
        times = {side: await _search_ms(app, text) for side, app in sides}
        pairs.append((times[0], times[1]))
        if time.monotonic() - last_write > WRITE_S or number == len(texts):
            started = time.process_time()
            metrics.write()
            written_ms += (time.process_time() - started) * 1_000
            last_write = time.monotonic()
        on_search(number, len(texts))
    return np.array(pairs), written_ms


async def _search_ms(app: FastAPI, text: str) -> float:
    """Send a search to an app as the server does, and return the milliseconds of processor time."""
    messages: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]
    statuses: list[int] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/search",
        "raw_path": b"/search",
        "root_path": "",
        "query_string": urlencode({"q": text}).encode(),
        "headers": [(b"host", b"127.0.0.1:8000")],
        "client": ("127.0.0.1", 50_000),
        "server": SERVER,
    }
    started = time.process_time()
    await app(scope, receive, send)
    took_ms = (time.process_time() - started) * 1_000
    if statuses != [200]:
        raise GavelError(f"the search for {text!r} was answered with {statuses}; see what the log says")
    return took_ms
