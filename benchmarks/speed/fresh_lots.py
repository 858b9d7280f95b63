"""New items in an embedded index: write rate, time until new items are found, and latency of concurrent searches.

The index of many items is copied, because this benchmark changes the index. One thread writes while another searches by vectors.
Then a background rebuild adds the new items to the graph while searches continue. Last, benchmarks/speed/fresh_words.py measures
the same for words.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from benchmarks.speed.fresh_words import FreshWordsResult, measure, questions_of, words_of
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.errors import GavelError
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter

K = 10
WARM_UP, IDLE = 400, 2_000
ITEMS_PER_WRITE = 1_000  # one upsert is one transaction


@dataclass(frozen=True)
class FreshLotsResult(Measurement):
    """Measurements of writes and of concurrent searches.

    Attributes:
        lots: number of items in the index before the writes.
        written: number of new items.
        upserts_a_second: acknowledged, durable upserts per second with concurrent searches.
        first_visible_ms: milliseconds from the start of one item's write to the answer that holds the item.
        idle: latency of searches without other load.
        writing: latency of searches during writes.
        renewing: latency of searches during the rebuild of the graph.
        words: measurements of keyword and hybrid searches.
    """

    lots: int
    written: int
    upserts_a_second: float
    first_visible_ms: float
    idle: Latency
    writing: Latency
    renewing: Latency
    words: FreshWordsResult
    derived: ClassVar = ("renewing_to_idle_p99",)

    @property
    def renewing_to_idle_p99(self) -> float:
        """p99 during the rebuild of the graph divided by p99 of the idle index."""
        return round(self.renewing.p99_ms / self.idle.p99_ms, 2)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and derived values for JSON."""
        return {**super().to_dict(), "words": self.words.to_dict()}


def run_benchmark(
    root: Path, alias: str, *, written: int = 30_000, seed: int = 7, on_phase: Callable[[str], None] = lambda phase: None
) -> FreshLotsResult:
    """Measure on a copy of a store's live index.

    Args:
        root: root folder of the store.
        alias: alias of the index that is copied.
        written: number of new items; enough for a rebuild of the graph.
        seed: seed of the random vectors and queries.
        on_phase: called with the name of each phase as it begins.

    Raises:
        GavelError: an acknowledged item is not found.
    """
    machine = describe_machine()
    on_phase("copy")
    with copied_index(root, alias) as index:
        count = index.count()
        rng = np.random.default_rng(seed)
        queries = cycle(to_unit_length(rng.standard_normal((400, index.dimensions)).astype(np.float32)))
        fresh, questions = _fresh(index, written + 1, rng), questions_of(index, rng)
        on_phase("idle")
        _searches(index, queries, _times(WARM_UP))
        idle = _searches(index, queries, _times(IDLE))
        on_phase("write")
        writer = _Writer(index, fresh[:-1])
        writer.start()
        writing = _searches(index, queries, writer.is_alive)
        _check_searchable(index, fresh[-2])
        on_phase("renew the graph")
        renewing = _searches(index, queries, lambda: index.rebuilding_vectors)
        start = time.perf_counter()
        index.upsert(fresh[-1:])
        _check_searchable(index, fresh[-1])
        searchable_ms = (time.perf_counter() - start) * 1000
        rate = round(written / writer.seconds, 1)
        words = measure(index, _endless(index, rng), written, questions, on_phase)
        return FreshLotsResult(count, written, rate, round(searchable_ms, 2), idle, writing, renewing, words, machine=machine)


class _Writer(threading.Thread):
    """A thread that upserts items, one transaction after the other."""

    def __init__(self, index: EmbeddedIndex, lots: Sequence[IndexedItem]) -> None:
        super().__init__(name="writer")
        self._index, self._lots = index, lots
        self.seconds = 0.0

    def run(self) -> None:
        start = time.perf_counter()
        for first in range(0, len(self._lots), ITEMS_PER_WRITE):
            self._index.upsert(self._lots[first : first + ITEMS_PER_WRITE])
        self.seconds = time.perf_counter() - start


@contextmanager
def copied_index(root: Path, alias: str) -> Iterator[EmbeddedIndex]:
    """Yield a copy of a store's live index, which is deleted afterwards."""
    name = EmbeddedStore(root, alias).live().name
    with tempfile.TemporaryDirectory(dir=root, prefix="fresh-") as folder:
        shutil.copytree(root / name, Path(folder) / name)
        shutil.copy(root / f"{alias}.json", folder)
        index = EmbeddedStore(Path(folder), alias).live()
        assert isinstance(index, EmbeddedIndex)
        try:
            yield index
        finally:
            index.close()


def _fresh(index: EmbeddedIndex, count: int, rng: np.random.Generator) -> list[IndexedItem]:
    """Return new items with random vectors and the document of an existing item."""
    document = index.semantic(np.ones(index.dimensions, dtype=np.float32), 1, Filter())[0].document
    vectors = to_unit_length(rng.standard_normal((count, index.dimensions)).astype(np.float32))  # (N, D)
    lot = IndexedItem("", 1, document, vectors[0])
    ids = [f"fresh-{number}" for number in range(count)]
    return [replace(lot, item_id=i, document={**document, "item_id": i}, vector=v) for i, v in zip(ids, vectors, strict=True)]


def _endless(index: EmbeddedIndex, rng: np.random.Generator) -> Iterator[IndexedItem]:
    """Yield new items without end. Each has the document of an existing item and a unique word."""
    documents = [
        c.document for c in index.semantic(rng.standard_normal(index.dimensions).astype(np.float32), ITEMS_PER_WRITE, Filter())
    ]
    for number, document in enumerate(cycle(documents)):
        item_id = f"new-{number}"
        title, text = (f"{document[field]} {words_of(item_id)}" for field in ("title", "text"))
        vector = to_unit_length(rng.standard_normal((1, index.dimensions)).astype(np.float32))[0]
        yield IndexedItem(item_id, 1, {**document, "item_id": item_id, "title": title, "text": text}, vector)


def _searches(index: EmbeddedIndex, queries: Iterator[Vector], go_on: Callable[[], bool]) -> Latency:
    """Search sequentially while go_on() is true, at least once, and return the latency."""
    milliseconds: list[float] = []
    while not milliseconds or go_on():
        query = next(queries)
        start = time.perf_counter()
        results = index.semantic(query, K, Filter())
        milliseconds.append((time.perf_counter() - start) * 1000)
        if len(results) < K:
            raise GavelError(f"a search found {len(results)} lots, not {K}")
    return summarise_ms(milliseconds)


def _times(count: int) -> Callable[[], bool]:
    left = iter(range(count - 1))
    return lambda: next(left, None) is not None


def _check_searchable(index: EmbeddedIndex, lot: IndexedItem) -> None:
    nearest = index.semantic(lot.vector, 1, Filter())
    if not nearest or nearest[0].item_id != lot.item_id:
        raise GavelError(f"{lot.item_id} was acknowledged and is not found")
