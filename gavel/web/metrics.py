"""Metrics of `gavel serve` for Prometheus, summed correctly over all worker processes.

Each worker writes prometheus_client's multiprocess files, and the worker that is scraped reads the files of all workers. A parent
that asked its workers at each scrape would lose the counts of ended workers. Prometheus would take the lower sum for a restart.

A request only puts its measurements into a queue. They are written twice a second, so that no search waits for the writing.
Caches, circuits and queues keep their own counts, which are copied at the same time.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from gavel.web.metrics_files import FILES
from gavel.web.request_queues import Queue
from retrieval.errors import GavelError
from retrieval.index.filters import Filter
from retrieval.index.port import created_at
from retrieval.search.response import SearchAnswer
from retrieval.search.service import MODES, SearchService

WRITE_S = 0.5  # maximum age of the metrics of a worker that another worker's scrape reads
INDEX_S = 1.0  # time limit for the index to answer a scrape
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # upper bounds of buckets
COMPONENTS = ("semantic", "keyword", "expansion", "rerank", "cross_encoder", "buyer")  # components that an answer may lack
Metric = TypeVar("Metric", Counter, Histogram)
CIRCUIT_STATES = ("closed", "half_open", "open")

disable_created_metrics()  # type: ignore[no-untyped-call]  # multiprocess files have no creation times


class ServerMetrics:
    """The metrics of one process. docs/operations.md lists them."""

    def __init__(self, service: SearchService, queues: Mapping[str, Queue]) -> None:
        """Register the metrics.

        Args:
            service: search service whose caches, circuits and index are measured.
            queues: kind of request -> its queue.
        """
        self._service, self._queues = service, queues
        self._new_requests, self._new_answers = deque[tuple[str, str, int, float]](), deque[SearchAnswer]()
        self._own = CollectorRegistry()
        self._children: dict[tuple[object, tuple[str, ...]], Counter | Histogram] = {}  # -> labelled metric
        self._copied: dict[tuple[Counter, str], float] = {}  # (metric, label) -> count that was copied last
        self._requests = self._counter("http_requests", "Requests that were answered.", "method", "route", "status")
        self._request_seconds = self._histogram("http_request_seconds", "From a request's head to its answer's.", "route")
        self._searches = self._counter("searches", "Searches that were answered.", "mode")
        self._phase_seconds = self._histogram("search_phase_seconds", "Phases of a search, and in total.", "phase")
        self._empty = self._counter("empty_answers", "Searches that were answered without a lot.", "mode")
        self._cached = self._counter("cached_answers", "Searches that were answered from the cache.")
        self._failed = self._counter("failed_components", "Searches that were answered without a component.", "component")
        self._hits = self._counter("cache_hits", "Lookups with a value.", "cache")
        self._misses = self._counter("cache_misses", "Lookups without a value.", "cache")
        self._entries = self._gauge("cache_entries", "Stored values.", "livesum", "cache")
        self._bytes = self._gauge("cache_bytes", "Estimated memory of the stored values.", "livesum", "cache")
        self._circuits = self._gauge("circuits", "Processes whose circuit is in a state.", "livesum", "component", "state")
        self._slots = self._gauge("queue_slots", "Requests that may run at a time.", "livesum", "kind")
        self._running = self._gauge("queue_running", "Requests that run.", "livesum", "kind")
        self._waiting = self._gauge("queue_waiting", "Requests that wait for a slot.", "livesum", "kind")
        self._wait = self._gauge("queue_expected_wait_seconds", "Expected wait, in the fullest process.", "livemax", "kind")
        self._refused = self._counter("queue_refusals", "Requests that were refused because of a full queue.", "kind")
        self._abandoned = self._counter("queue_abandoned", "Requests whose client hung up in the queue.", "kind")
        self._index_up = self._gauge("index_up", "1 if the index answered this scrape.", "mostrecent")
        self._items = self._gauge("index_items", "Lots in the live index, ended ones included.", "mostrecent")
        self._created = self._gauge("index_created_timestamp_seconds", "Creation of the live index.", "mostrecent")
        self._newest = self._gauge("index_newest_listed_timestamp_seconds", "listed_at of the newest open lot.", "mostrecent")
        self._damaged = self._gauge("index_damaged_items", "Lots that searches left out as damaged.", "livemax")
        for mode in MODES:  # a rate needs the value 0 before the first search
            self._searches.labels(mode)
            self._empty.labels(mode)
        for component in COMPONENTS:
            self._failed.labels(component)
        if FILES in os.environ:
            self._exposed = CollectorRegistry()
            MultiProcessCollector(self._exposed)  # type: ignore[no-untyped-call]
        else:
            self._exposed = self._own

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"gavel_{name}", meaning, labels, registry=self._own)

    def _gauge(self, name: str, meaning: str, mode: str, *labels: str) -> Gauge:
        return Gauge(f"gavel_{name}", meaning, labels, registry=self._own, multiprocess_mode=mode)  # type: ignore[arg-type]

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(f"gavel_{name}", meaning, labels, registry=self._own, buckets=SECONDS)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: HTTP method, or "other" for an unusual one.
            route: template of the path, such as `/items/{item_id}`.
            status: status of the answer.
            seconds: time until the head of the answer, in seconds.
        """
        self._new_requests.append((method, route, status, seconds))

    def measure(self, answer: SearchAnswer) -> None:
        """Count a search and the seconds of its phases; any thread may call it."""
        self._new_answers.append(answer)

    def write(self) -> None:
        """Write all new measurements; called in the event loop, because the queues belong to that loop."""
        while self._new_requests:
            method, route, status, seconds = self._new_requests.popleft()
            self._child(self._requests, method, route, str(status)).inc()
            self._child(self._request_seconds, route).observe(seconds)
        while self._new_answers:
            self._write_search(self._new_answers.popleft())
        self._copy_counts()

    def _write_search(self, answer: SearchAnswer) -> None:
        self._child(self._searches, answer.mode).inc()
        if not answer.results:
            self._empty.labels(answer.mode).inc()
        if answer.cached:
            self._cached.inc()
        for component in answer.failed_components:
            self._failed.labels(component).inc()
        for phase, milliseconds in answer.timings_ms.items():
            self._child(self._phase_seconds, phase).observe(milliseconds / 1_000)

    def _child(self, metric: Metric, *labels: str) -> Metric:
        """Return a labelled metric from a dictionary, because prometheus_client's own lookup is slower."""
        key = metric, labels
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child  # type: ignore[return-value]

    def _copy_counts(self) -> None:
        """Copy the counts of caches, circuits and queues."""
        for cache, use in self._service.caches().items():
            self._follow(self._hits, use.hits, cache)
            self._follow(self._misses, use.misses, cache)
            self._entries.labels(cache).set(use.entries)
            self._bytes.labels(cache).set(use.bytes)
        for component, current in self._service.circuits().items():
            for state in CIRCUIT_STATES:
                self._circuits.labels(component, state).set(state == current)
        for kind, queue in self._queues.items():
            counts = queue.metrics()
            self._slots.labels(kind).set(counts["turns"])
            self._running.labels(kind).set(counts["running"])
            self._waiting.labels(kind).set(counts["waiting"])
            self._wait.labels(kind).set(counts["expected_wait_ms"] / 1_000)
            self._follow(self._refused, counts["refused"], kind)
            self._follow(self._abandoned, counts["abandoned"], kind)

    def _follow(self, counter: Counter, count: float, label: str) -> None:
        """Raise a counter to a count.

        A count may fall by one, because a cache takes back a hit whose value was useless. The counter then waits for the next hit.
        """
        key = counter, label
        before = self._copied.get(key, 0.0)
        if count >= before:
            counter.labels(label).inc(count - before)
            self._copied[key] = count

    def _read_index(self) -> None:
        """Set the gauges of the index. If it does not answer, index_up is 0 and the others keep their values."""
        try:
            index = self._service.live().index.within(INDEX_S)
            self._items.set(index.count())
            newest = index.top("listed_at", 1, Filter())
            self._damaged.set(index.damaged())
        except GavelError:
            self._index_up.set(0)
            return
        self._index_up.set(1)
        if created := created_at(index.name):
            self._created.set(created.timestamp())
        if newest:
            self._newest.set(newest[0].score / 1_000)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all processes and their content type. The index is waited for, so a thread calls this.

        Args:
            accept: Accept header of the scrape. If it names OpenMetrics, that format is used, otherwise the older text format.
        """
        self._read_index()
        encode, content_type = choose_encoder(accept)
        return encode(self._exposed), content_type

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Write the metrics every WRITE_S while the app runs, for scrapes that another worker answers."""

        async def write_often() -> None:
            while True:
                self.write()
                await asyncio.sleep(WRITE_S)

        writing = asyncio.create_task(write_often())
        yield
        writing.cancel()
