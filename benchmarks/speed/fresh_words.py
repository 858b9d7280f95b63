"""Words of new items in an embedded index: time until a keyword search finds them, and latency of concurrent hybrid searches.

One thread writes while another searches. Then a full buffer of new items is merged into the inverted lists while searches continue.
The vectors of these items are added to the graph before, so that only the words add load.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle

import numpy as np

from processing.evaluation.runs import Latency, summarise_ms
from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.contracts.items import query_text
from retrieval.errors import GavelError
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.embedded.keywords import MERGE_SHARE, MIN_MERGE_ITEMS
from retrieval.index.filters import Filter

K = 10
WARM_UP, IDLE = 200, 1_000
QUERIES = 400
WORDS_PER_QUERY = (2, 5)  # minimum and maximum
ITEMS_PER_WRITE = 1_000  # one upsert is one transaction

Query = tuple[str, Vector]


@dataclass(frozen=True, slots=True)
class FreshWordsResult:
    """Measurements of writes and of concurrent hybrid searches.

    Attributes:
        joined: number of items in the buffer that was merged into the inverted lists.
        first_visible_ms: milliseconds from the start of one item's write to the keyword search that finds the item by its word.
        caught_up_ms: duration of the keyword search that adds all `joined` items to the buffer, in milliseconds.
        joining_s: duration of the merge in seconds.
        idle: latency of searches without other load.
        writing: latency of searches during writes.
        joining: latency of searches during the merge.
    """

    joined: int
    first_visible_ms: float
    caught_up_ms: float
    joining_s: float
    idle: Latency
    writing: Latency
    joining: Latency

    def to_dict(self) -> dict[str, object]:
        """Return all fields and the ratio of p99 for JSON."""
        return {**asdict(self), "joining_to_idle_p99": round(self.joining.p99_ms / self.idle.p99_ms, 2)}


def measure(
    index: EmbeddedIndex, lots: Iterator[IndexedItem], written: int, queries: Sequence[Query], on_phase: Callable[[str], None]
) -> FreshWordsResult:
    """Measure writes and searches on an index, which this changes.

    Args:
        index: index of many items.
        lots: enough new items; each holds words_of(item_id) as a unique word.
        written: number of items written with concurrent searches.
        queries: queries, as questions_of() returns them.
        on_phase: called with the name of each phase as it begins.

    Raises:
        GavelError: an acknowledged item is not found.
    """
    questions = cycle(queries)
    on_phase("hybrid, idle")
    _searches(index, questions, _times(WARM_UP))
    _wait(lambda: not (index.rebuilding_vectors or index.rebuilding_keywords))
    idle = _searches(index, questions, _times(IDLE))
    on_phase("hybrid, write")
    writer = threading.Thread(target=_write, args=(index, [next(lots) for _ in range(written)]), name="writer")
    writer.start()
    writing = _searches(index, questions, writer.is_alive)
    _searches(index, questions, lambda: index.rebuilding_vectors or index.rebuilding_keywords)
    on_phase("hybrid, join the words")
    joined = [next(lots) for _ in range(int(max(MIN_MERGE_ITEMS, MERGE_SHARE * index.count()) * 1.1) + 1)]
    _write(index, joined)
    index.semantic(next(questions)[1], K, Filter())
    _wait(lambda: not index.rebuilding_vectors)
    caught_up_ms = _find(index, joined[-1])
    start = time.perf_counter()
    joining = _searches(index, questions, lambda: index.rebuilding_keywords)
    joining_s = time.perf_counter() - start
    lot = next(lots)
    start = time.perf_counter()
    index.upsert([lot])
    _find(index, lot)
    searchable_ms = (time.perf_counter() - start) * 1000
    return FreshWordsResult(
        len(joined), round(searchable_ms, 2), round(caught_up_ms, 2), round(joining_s, 2), idle, writing, joining
    )


def words_of(item_id: str) -> str:
    """Return the unique word of a new item."""
    return item_id.replace("-", "")


def questions_of(index: EmbeddedIndex, rng: np.random.Generator) -> Sequence[Query]:
    """Return queries of two to five consecutive words of a title, each with a random vector."""
    queries: list[Query] = []
    while len(queries) < QUERIES:
        vector = rng.standard_normal(index.dimensions).astype(np.float32)
        for candidate in index.semantic(vector, K, Filter()):
            words = query_text(str(candidate.document["title"])).split()
            length = int(rng.integers(WORDS_PER_QUERY[0], WORDS_PER_QUERY[1] + 1))
            start = int(rng.integers(max(len(words) - length, 0) + 1))
            queries.append((" ".join(words[start : start + length]), vector))
    return queries


def _write(index: EmbeddedIndex, lots: Sequence[IndexedItem]) -> None:
    for first in range(0, len(lots), ITEMS_PER_WRITE):
        index.upsert(lots[first : first + ITEMS_PER_WRITE])


def _searches(index: EmbeddedIndex, questions: Iterator[Query], go_on: Callable[[], bool]) -> Latency:
    """Search sequentially while go_on() is true, at least once, and return the latency."""
    milliseconds: list[float] = []
    while not milliseconds or go_on():
        text, vector = next(questions)
        start = time.perf_counter()
        results = index.hybrid(text, vector, K, Filter())
        milliseconds.append((time.perf_counter() - start) * 1000)
        if len(results) < K:
            raise GavelError(f"a search found {len(results)} lots, not {K}")
    return summarise_ms(milliseconds)


def _find(index: EmbeddedIndex, lot: IndexedItem) -> float:
    """Return the milliseconds of the keyword search that finds an item by its word."""
    start = time.perf_counter()
    results = index.keyword(words_of(lot.item_id), 1, Filter())
    if not results or results[0].item_id != lot.item_id:
        raise GavelError(f"{lot.item_id} was acknowledged and is not found by its word")
    return (time.perf_counter() - start) * 1000


def _times(times: int) -> Callable[[], bool]:
    left = count(1)
    return lambda: next(left) < times


def _wait(reached: Callable[[], bool]) -> None:
    while not reached():
        time.sleep(0.01)
