"""Runs of search systems over the judged queries of a split: their results, their quality and their latency."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from catalog.folder import CatalogFolder
from processing.evaluation.corpus import catalog_moment, open_grades
from retrieval.contracts.items import query_text
from retrieval.errors import SearchIncomplete
from retrieval.evaluation.metrics import MEASURES, evaluate
from retrieval.index.filters import Filter
from retrieval.progress import Progress, ProgressCounter
from retrieval.search.service import Encoder, Mode, SearchRequest, SearchService, retrieve

SERVED = 50  # ranks that come from the service's own answer; deeper ranks come from the first stage
LATENCY_K = 10  # items per page, as in a buyer's search
WARM_UP = 5  # untimed searches that load models and fill caches
QUERIES_PER_BATCH = 64


@dataclass(frozen=True)
class System:
    """One configuration of the search that is measured.

    Attributes:
        name: name of the system in tables.
        service: service that searches the split's corpus.
        mode: mode of the search: hybrid, semantic or keyword.
        rerank: True lets the re-ranker, if there is one, order the candidates.
    """

    name: str
    service: SearchService
    mode: Mode
    rerank: bool = False


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of single searches, one after another, in milliseconds."""

    searches: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class RememberingEncoder:
    """A query encoder that encodes every text once, because the systems of an evaluation get the same queries."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._vectors: dict[str, NDArray[np.float32]] = {}

    @property
    def tower_id(self) -> str:
        """Id of the wrapped encoder's tower."""
        return self._encoder.tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (N, dimensions) float32 of unit length for N >= 1 texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        for start in range(0, len(new), QUERIES_PER_BATCH):
            batch = new[start : start + QUERIES_PER_BATCH]
            self._vectors |= dict(zip(batch, self._encoder.encode(batch), strict=True))
        return np.stack([self._vectors[text] for text in texts])  # (N, D)


def search_run(
    system: System,
    queries: Mapping[str, str],
    now: datetime,
    *,
    depth: int = SERVED,
    on_query: Callable[[], None] = lambda: None,
) -> dict[str, list[str]]:
    """Search every query with one system.

    The first 50 ranks are the service's own answer. Deeper ranks come from a second search of the first stage for `depth`
    candidates, without the items of the answer. So measures of at most 50 ranks describe the search as served, whatever the depth.

    Args:
        system: system to search with.
        queries: query_id -> text.
        now: the moment of the searches.
        depth: number of ranks for every query, >= 1; below 50 the service's answer is cut.
        on_query: called after each query.

    Returns:
        query_id -> at most `depth` item ids, best first.

    Raises:
        SearchIncomplete: a search was answered without one of its components, so its answer is not the system's.
    """
    run: dict[str, list[str]] = {}
    live = system.service.live()
    live.encoder.encode([query_text(query) for query in queries.values()])  # in batches, for an encoder with a cache
    for query_id, query in queries.items():
        request = SearchRequest(query, min(SERVED, depth), system.mode, Filter(now=now), system.rerank)
        answer = system.service.search(request)
        if answer.failed_components:
            raise SearchIncomplete(
                f"{system.name}: {query!r} was answered without {', '.join(answer.failed_components)}, so nothing is measured; "
                "the log says why"
            )
        item_ids = dict.fromkeys(result.item_id for result in answer.results)
        if depth > SERVED:
            vector = live.encoder.encode([query_text(query)])[0]  # (D,)
            item_ids |= dict.fromkeys(candidate.item_id for candidate in retrieve(live.index, request, vector, depth))
        run[query_id] = list(item_ids)[:depth]
        on_query()
    return run


def measure(
    catalog: CatalogFolder, split: str, systems: Sequence[System], progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Measure systems on every judged query of a split, at the catalogue's own moment.

    Args:
        catalog: source of the judgments; items whose auction has ended do not count as relevant.
        split: split of the queries: val for choices, test for the report.
        systems: systems to measure.
        progress: called with (searches done, searches).

    Returns:
        system name -> measure name -> mean over the queries, in [0, 1].
    """
    now = catalog_moment(catalog)
    grades, queries = open_grades(catalog, split, now), catalog.qrels(split).queries
    count = ProgressCounter(len(systems) * len(queries), progress)
    return {v.name: evaluate(grades, search_run(v, queries, now, on_query=count.tick), MEASURES) for v in systems}


def measure_latency(system: System, texts: Sequence[str], now: datetime, on_search: Callable[[], None] = lambda: None) -> Latency:
    """Time searches one by one, ten items each, from the text to the ranked items.

    Args:
        system: system to time; its service must not cache encoded queries.
        texts: N >= 1 queries.
        now: the moment of the searches.
        on_search: called after each timed search.
    """

    def search(text: str) -> float:
        start = time.perf_counter()
        system.service.search(SearchRequest(text, LATENCY_K, system.mode, Filter(now=now), system.rerank))
        return (time.perf_counter() - start) * 1000

    for text in texts[:WARM_UP]:
        search(text)
    times = []
    for text in texts:
        times.append(search(text))
        on_search()
    return summarise_ms(times)


def measure_encoding(encoder: Encoder, texts: Sequence[str]) -> float:
    """Return the mean milliseconds that an encoder, which must not cache, needs for one of N >= 1 queries."""
    encoder.encode(texts[:WARM_UP])
    started = time.perf_counter()
    for text in texts:
        encoder.encode([query_text(text)])
    return round((time.perf_counter() - started) * 1000 / len(texts), 3)


def summarise_ms(milliseconds: Iterable[float]) -> Latency:
    """Return mean and percentiles of N >= 1 times, interpolated linearly."""
    times = np.fromiter(milliseconds, dtype=np.float64)
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(times, (50, 95, 99)))
    return Latency(len(times), round(float(times.mean()), 3), p50, p95, p99)
