"""Bids beside searches: how soon a state counts in a filter, what it costs, and what searches take meanwhile and afterwards."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.contracts.item_states import StateUpdate
from retrieval.contracts.items import epoch_ms
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.errors import GavelError
from retrieval.index.filters import Filter, utc_now
from retrieval.index.port import VectorIndex

K = 10
SEARCHES_PER_SECOND = 20
UPDATES_PER_CALL = 100
PROBES_PER_SECOND = 4
PROBE_PRICE = 1e9  # above every real price, so that a filter by it matches the probe's lot alone
PROBE_TIMEOUT_S = 30.0
COST_UPDATES, COST_ITEMS = 10_000, 2_000  # so many items that they are merged into the graph


@dataclass(frozen=True)
class LiveStatesResult(Measurement):
    """Measurements of states beside searches.

    Attributes:
        index: kind of index, faiss or opensearch.
        lots: number of items in the index.
        updates_a_second: acknowledged updates per second.
        visible: time from the start of an update to the first answer whose filter sees it.
        quiet: latency of searches without updates.
        busy: latency of searches during the updates.
        after: latency of searches after the updates.
        update_cpu_us: processor time of an update in microseconds, of this process and the server's.
        item_cpu_us: the same of indexing an item.
        rebuilds: number of rebuilds of the graph that the updates caused.
    """

    index: str
    lots: int
    updates_a_second: float
    visible: Latency
    quiet: Latency
    busy: Latency
    after: Latency
    update_cpu_us: float
    item_cpu_us: float
    rebuilds: int
    derived: ClassVar = ("busy_to_quiet_p99", "after_to_quiet_p99", "item_to_update_cpu")

    @property
    def busy_to_quiet_p99(self) -> float:
        """p99 of searches during the updates divided by that of the quiet index."""
        return round(self.busy.p99_ms / self.quiet.p99_ms, 2)

    @property
    def after_to_quiet_p99(self) -> float:
        """p99 of searches after the updates divided by that before them."""
        return round(self.after.p99_ms / self.quiet.p99_ms, 2)

    @property
    def item_to_update_cpu(self) -> float:
        """Processor time of indexing an item divided by that of an update of its state."""
        return round(self.item_cpu_us / self.update_cpu_us, 1)


def run_benchmark(
    index: VectorIndex,
    kind: str,
    item_ids: Sequence[str],
    *,
    updates_per_second: int = 5_000,
    seconds: float = 20.0,
    seed: int = 7,
    server_cpu_s: Callable[[], float] = lambda: 0.0,
    rebuilding: Callable[[], bool] = lambda: False,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> LiveStatesResult:
    """Measure on an index, whose states and items are changed.

    Args:
        index: index of the items.
        kind: kind of index, for the report.
        item_ids: ids of its items.
        updates_per_second: updates that are sent per second.
        seconds: length of each phase.
        seed: seed of queries and of the order of the items.
        server_cpu_s: returns the processor time in seconds that the server used so far.
        rebuilding: returns True while the graph is rebuilt.
        on_phase: called with the name of each phase as it begins.

    Raises:
        GavelError: an update that was acknowledged is not seen, or a search finds too little.
    """
    machine = describe_machine()
    rng = np.random.default_rng(seed)
    queries = itertools.cycle(to_unit_length(rng.standard_normal((400, index.dimensions)).astype(np.float32)))
    order: NDArray[np.int64] = rng.permutation(len(item_ids))
    ids = itertools.cycle([item_ids[place] for place in order])
    versions = itertools.count(epoch_ms(utc_now()))  # above those of all rows

    def updates(count: int) -> list[StateUpdate]:
        fields = (
            {"current_price": float(10 + version % 990), "bid_count": version % 50} for version in itertools.islice(versions, count)
        )
        return [StateUpdate(next(ids), next(versions), values) for values in fields]

    on_phase("warm up")
    index.update_states(updates(UPDATES_PER_CALL))
    _paced_searches(index, queries, 2.0)
    on_phase("quiet")
    quiet = _paced_searches(index, queries, seconds)
    on_phase("updates")
    bids = _Bids(index, updates, updates_per_second, seconds, rebuilding)
    probe = _Probe(index, item_ids[int(order[0])], versions, seconds)
    bids.start()
    probe.start()
    busy = _paced_searches(index, queries, seconds)
    bids.join()
    probe.join()
    if probe.fault or bids.fault:
        raise GavelError(probe.fault or bids.fault)
    on_phase("afterwards")
    after = _paced_searches(index, queries, seconds)
    on_phase("cost")
    update_us = _cpu_us(lambda: index.update_states(updates(COST_UPDATES)), COST_UPDATES, server_cpu_s)
    items = _items_again(index, item_ids[: max(COST_ITEMS, len(item_ids) // 50)])

    def write_items() -> None:
        report = index.upsert(items)
        if report.indexed < len(items):
            raise GavelError(
                f"only {report.indexed} of {len(items)} lots were indexed: {(*report.rejected, *report.stale_ids)[:1]}"
            )
        index.refresh()

    item_us = _cpu_us(write_items, len(items), server_cpu_s)
    return LiveStatesResult(
        kind,
        len(item_ids),
        round(bids.sent / bids.seconds, 1),
        summarise_ms(probe.milliseconds),
        quiet,
        busy,
        after,
        round(update_us, 1),
        round(item_us, 1),
        bids.rebuilds,
        machine=machine,
    )


class _Bids(threading.Thread):
    """A thread that sends updates at a steady rate."""

    def __init__(
        self,
        index: VectorIndex,
        updates: Callable[[int], list[StateUpdate]],
        per_second: int,
        seconds: float,
        rebuilding: Callable[[], bool],
    ) -> None:
        super().__init__(name="bids")
        self._index, self._updates, self._rebuilding = index, updates, rebuilding
        self._pause_s, self._calls = UPDATES_PER_CALL / per_second, int(seconds * per_second / UPDATES_PER_CALL)
        self.sent = self.rebuilds = 0
        self.seconds = 0.0
        self.fault = ""

    def run(self) -> None:
        start = time.perf_counter()
        was_rebuilding = False
        try:
            for number in range(self._calls):
                time.sleep(max(0.0, start + number * self._pause_s - time.perf_counter()))
                self.sent += len(self._index.update_states(self._updates(UPDATES_PER_CALL)))
                self.rebuilds += not was_rebuilding and self._rebuilding()
                was_rebuilding = self._rebuilding()
        except GavelError as error:
            self.fault = str(error)
        self.seconds = time.perf_counter() - start


class _Probe(threading.Thread):
    """A thread that raises the price of one lot, and asks until a search by that price finds it."""

    def __init__(self, index: VectorIndex, item_id: str, versions: Iterator[int], seconds: float) -> None:
        super().__init__(name="probe")
        self._index, self._item_id, self._versions, self._seconds = index, item_id, versions, seconds
        self.milliseconds: list[float] = []
        self.fault = ""

    def run(self) -> None:
        vector = self._index.fetch([self._item_id])[0].vector
        end = time.perf_counter() + self._seconds
        try:
            for number in itertools.count():
                if time.perf_counter() >= end:
                    return
                price = PROBE_PRICE + 1_000 * number
                start = time.perf_counter()
                version = next(self._versions) + 10**9  # bids on the same lot are older
                self._index.update_states([StateUpdate(self._item_id, version, {"current_price": price})])
                while not self._index.semantic(vector, 1, Filter(min_price=price)):
                    if time.perf_counter() - start > PROBE_TIMEOUT_S:
                        self.fault = f"the price of {self._item_id} was not seen within {PROBE_TIMEOUT_S:.0f} s"
                        return
                self.milliseconds.append((time.perf_counter() - start) * 1000)
                time.sleep(1 / PROBES_PER_SECOND)
        except GavelError as error:
            self.fault = str(error)


def _paced_searches(index: VectorIndex, queries: Iterator[Vector], seconds: float) -> Latency:
    """Send SEARCHES_PER_SECOND searches a second, whatever they take, and return their latency from the time each was due."""
    milliseconds: list[float] = []
    start = time.perf_counter()
    for number in range(int(seconds * SEARCHES_PER_SECOND)):
        due = start + number / SEARCHES_PER_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
        if len(index.semantic(next(queries), K, Filter())) < K:
            raise GavelError(f"a search found fewer than {K} lots")
        milliseconds.append((time.perf_counter() - due) * 1000)
    return summarise_ms(milliseconds)


def _cpu_us(work: Callable[[], object], count: int, server_cpu_s: Callable[[], float]) -> float:
    """Return the processor time of `work` for each of `count` entries, in microseconds."""
    start = time.process_time() + server_cpu_s()
    work()
    return (time.process_time() + server_cpu_s() - start) / count * 1e6


def _items_again(index: VectorIndex, item_ids: Sequence[str]) -> list[IndexedItem]:
    """Return newer versions of items, with another title."""
    items, version = index.fetch(item_ids), epoch_ms(utc_now())
    return [
        IndexedItem(one.item_id, version, {**one.document, "title": f"{one.document.get('title', '')} again"}, one.vector)
        for one in items
    ]
