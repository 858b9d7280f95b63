"""Overhead of a complete search over its parts (encoding, retrieving and re-ranking) when each runs by itself.

Each pass runs every query as a complete search and in parts. The order alternates, because the second run finds data of the first
run in the processor's caches. Answers and encoded queries are not cached.

On OpenSearch, a bare k-NN request of opensearch-py with the same vector and size is timed, too.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from opensearchpy import OpenSearch

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.contracts.documents import VECTOR_FIELD, Vector
from retrieval.contracts.items import query_text
from retrieval.index.filters import Filter
from retrieval.index.port import Candidate, IndexStore
from retrieval.progress import Progress, ProgressCounter
from retrieval.ranker.features import feature_matrix
from retrieval.ranker.port import Ranker
from retrieval.search.context import UNHURRIED
from retrieval.search.live_index import ActiveIndex, Encoder
from retrieval.search.service import SearchModels, SearchRequest, SearchService, retrieve

CANDIDATES, K = 50, 10
WARM_UP = 20
PARTS = ("encode", "retrieve", "rerank")
BARE = "bare k-NN"


@dataclass(frozen=True)
class QueryPathResult(Measurement):
    """Latencies per query in milliseconds.

    Attributes:
        index: physical name of the index.
        lots: number of items in the index.
        dimensions: length of the vectors.
        whole: latency of complete searches, as served.
        stages: phase -> latency that the complete searches report.
        alone: part -> latency of the same work by itself; on OpenSearch also the bare request.
        sum_alone: sum of `alone` over encode, retrieve and rerank, per query.
    """

    index: str
    lots: int
    dimensions: int
    whole: Latency
    stages: dict[str, Latency]
    alone: dict[str, Latency]
    sum_alone: Latency
    derived: ClassVar = ("overhead", "tail")

    @property
    def overhead(self) -> float:
        """Median latency of complete searches divided by the median of the sum of the parts."""
        return round(self.whole.p50_ms / self.sum_alone.p50_ms, 3)

    @property
    def tail(self) -> float:
        """p99 of complete searches divided by their median."""
        return round(self.whole.p99_ms / self.whole.p50_ms, 3)


@dataclass
class _Times:
    """Milliseconds of every query that has been timed."""

    whole: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    alone: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})


def run_benchmark(
    store: IndexStore,
    encoder: Encoder,
    ranker: Ranker | None,
    texts: Sequence[str],
    *,
    repetitions: int = 3,
    bare: OpenSearch | None = None,
    progress: Progress | None = None,
) -> QueryPathResult:
    """Measure the live index of a store.

    Args:
        store: store whose live index is of the encoder's tower.
        encoder: query tower.
        ranker: re-ranker; None leaves re-ranking out.
        texts: different queries.
        repetitions: passes over the queries.
        bare: client of the same OpenSearch for bare requests; None for an embedded index.
        progress: called with (queries done, queries in all).
    """
    machine = describe_machine()
    service = SearchService(
        store,
        SearchModels(lambda _: encoder, lambda _: ranker),
        replace(UNHURRIED, rerank_candidates=CANDIDATES, cached_queries=0),
    )
    live, times = service.live(), _Times()
    timed: list[Callable[[str], None]] = [
        lambda text: _search_whole(service, text, times),
        lambda text: _search_in_parts(live, text, times, bare),
    ]
    for text in texts[:WARM_UP]:
        for search in timed:
            search(text)
    for warm_up in (times.whole, *times.stages.values(), *times.alone.values()):
        warm_up.clear()
    count = ProgressCounter(repetitions * len(texts), progress)
    for number, text in enumerate([*texts] * repetitions):
        for search in timed if number % 2 else timed[::-1]:
            search(text)
        count.tick()
    sums = [sum(parts) for parts in zip(*(times.alone[part] for part in PARTS), strict=True)]
    return QueryPathResult(
        live.index.name,
        live.index.count(),
        live.index.dimensions,
        summarise_ms(times.whole),
        {stage: summarise_ms(milliseconds) for stage, milliseconds in times.stages.items()},
        {part: summarise_ms(milliseconds) for part, milliseconds in times.alone.items()},
        summarise_ms(sums),
        machine=machine,
    )


def _search_whole(service: SearchService, text: str, times: _Times) -> None:
    start = time.perf_counter()
    answer = service.search(SearchRequest(text, K))
    times.whole.append((time.perf_counter() - start) * 1000)
    for stage, milliseconds in answer.timings_ms.items():
        times.stages.setdefault(stage, []).append(milliseconds)


def _search_in_parts(live: ActiveIndex, text: str, times: _Times, bare: OpenSearch | None) -> None:
    filters = Filter()
    vector: Vector = _timed(times, "encode", lambda: live.encoder.encode([query_text(text)])[0])  # (D,)
    candidates: list[Candidate] = _timed(
        times, "retrieve", lambda: retrieve(live.index, SearchRequest(text, filters=filters), vector, CANDIDATES)
    )
    _timed(times, "rerank", lambda: live.ranker and live.ranker.score(feature_matrix(text, vector, candidates, filters.moment())))
    if bare is not None:
        body = {"size": CANDIDATES, "query": {"knn": {VECTOR_FIELD: {"vector": vector.tolist(), "k": CANDIDATES}}}}
        _timed(times, BARE, lambda: bare.search(index=live.index.name, body=body))


def _timed(times: _Times, part: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    times.alone.setdefault(part, []).append((time.perf_counter() - start) * 1000)
    return result
