"""Recall and latency under filters: Gavel's indices beside plain faiss with the same bitmap, and beside filtering afterwards.

Every query has its own filters (benchmarks.ann.filters). Each system answers each query with each of its filters, in turns, on
one thread. Recall is relative to exact search among the vectors that pass.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.ann.candidates import BUILD_THREADS, CandidateIndex, build_cost
from benchmarks.ann.filters import KINDS, Filters
from benchmarks.machine import describe_machine
from processing.evaluation.runs import summarise_ms
from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.index.ann.build import open_index
from retrieval.index.ann.full_vectors import VectorIds
from retrieval.index.ann.recall import recall_of
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.index import EXACT_BELOW
from retrieval.index.port import Mask
from retrieval.progress import Progress, ProgressCounter

FRACTIONS = (0.9, 0.5, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
SPECS = ("hnsw", "hnsw_sq8", "ivf_sq8:nprobe=256")
DEPTHS = (10, 50)
MAX_FETCHED = 10_000  # limit of candidates when filtering comes after the search; the value of OpenSearch's index.max_result_window
WARM_UP = 20
Search = Callable[[Vector, int, Mask], VectorIds]
_faiss: Any = faiss  # its type stubs leave out search parameters


@dataclass(frozen=True, slots=True)
class Row:
    """Measurements of one system under one kind of filter, for one share and one k.

    Attributes:
        system: library and index type.
        kind: kind of filter, see benchmarks.ann.filters; all vectors pass "none".
        share: share of the vectors that pass, 0 to 1.
        k: number of results.
        recall: recall@k among the vectors that pass, mean over the queries.
        worst: lowest recall of a query.
        p50_ms: median latency of single queries on one thread in milliseconds, with the conversion of the mask to a bitmap.
        p99_ms: 99th percentile of the same latency.
    """

    system: str
    kind: str
    share: float
    k: int
    recall: float
    worst: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class FilteredResult:
    """The result of a run.

    Attributes:
        data: description of the vectors.
        lots: number of vectors.
        queries: number of queries.
        rows: measurements, by kind of filter and share, each in the given order.
        machine: description of the machine, with the load before the run.
    """

    data: str
    lots: int
    queries: int
    rows: tuple[Row, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return asdict(self)

    def row(self, system: str, kind: str, share: float, k: int) -> Row:
        """Return the row of a system, kind of filter, share and k."""
        key = (system, kind, share, k)
        return next(row for row in self.rows if (row.system, row.kind, row.share, row.k) == key)


def run_benchmark(
    data: str,
    vectors: Vector,
    queries: Vector,
    folder: Path,
    *,
    specs: Sequence[str] = SPECS,
    fractions: Sequence[float] = FRACTIONS,
    on_built: Progress | None = None,
    on_query: Progress | None = None,
) -> FilteredResult:
    """Measure all systems over one set of vectors.

    Args:
        data: description of the vectors.
        vectors: (N, D) unit vectors.
        queries: (Q, D) queries, none of them among the vectors.
        folder: folder of the indices, which the next run reuses.
        specs: index types to build; "hnsw" adds the systems "embedded", "afterwards" and "exact".
        fractions: shares of the vectors that pass.
        on_built: called with (indices opened, indices in all).
        on_query: called with (queries done, queries in all).
    """
    machine = describe_machine()
    systems = _systems(open_indices(vectors, folder, specs, on_built))
    with threadpool_limits(1):
        rows = tuple(_measure(vectors, queries, systems, fractions, on_query))
    return FilteredResult(data, len(vectors), len(queries), rows, machine)


def open_indices(vectors: Vector, folder: Path, specs: Sequence[str], progress: Progress | None) -> list[AnnIndex]:
    """Return the opened index of each spec; build an index first if its folder has none."""
    count, indices = ProgressCounter(len(specs), progress), []
    faiss.omp_set_num_threads(BUILD_THREADS)
    for spec in specs:
        candidate_index = CandidateIndex("gavel", IndexSpec.parse(spec))
        if not (folder / candidate_index.folder / "index.json").is_file():
            build_cost(candidate_index, vectors, folder / candidate_index.folder)
        index = open_index(folder / candidate_index.folder, check=False)
        index.spec = replace(
            candidate_index.spec, nlist=index.spec.nlist
        )  # the requested effort, whatever the files were built with
        indices.append(index)
        count.tick()
    return indices


def _systems(indices: Sequence[AnnIndex]) -> dict[str, Search]:
    systems: dict[str, Search] = {}
    for index in indices:
        index_type = index.spec.index_type
        is_only = [other.spec.index_type for other in indices].count(index_type) == 1
        systems[f"gavel {index_type if is_only else index.spec}"] = partial(_gavel, index)
        systems[f"faiss {index_type if is_only else index.spec}"] = partial(_plain, index)
        if index_type == "hnsw" and "embedded" not in systems:
            systems["afterwards"] = partial(_afterwards, index)
            systems["embedded"] = partial(index.nearest, exact_below=EXACT_BELOW)
            systems["exact"] = index.exact
    return systems


def _gavel(index: AnnIndex, query: Vector, k: int, allowed: Mask) -> VectorIds:
    return index.search(query, k, allowed).vector_ids


def _plain(index: AnnIndex, query: Vector, k: int, allowed: Mask | None, fetched: int = 0) -> VectorIds:
    """Search FAISS with a selector and exactly the effort of the spec: it is never widened, and the search is never exact."""
    selector = None if allowed is None else _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    count = min(fetched or k, len(index))
    if index.spec.search_effort == "nprobe":
        parameters = _faiss.SearchParametersIVF(nprobe=index.spec.nprobe, sel=selector)
    else:
        parameters = _faiss.SearchParametersHNSW(efSearch=max(index.spec.ef_search_for(len(index)), count), sel=selector)
    labels: VectorIds = index._index.search(query[None], count, params=parameters)[1][0]
    return labels[labels >= 0]


def _afterwards(index: AnnIndex, query: Vector, k: int, allowed: Mask) -> VectorIds:
    """Fetch as many vectors as should leave k, then drop the vectors that do not pass."""
    count = int(np.ceil(k * len(allowed) / np.count_nonzero(allowed)))
    vector_ids = _plain(index, query, k, None, min(count, MAX_FETCHED))
    return vector_ids[allowed[vector_ids]][:k]


def _measure(
    vectors: Vector, queries: Vector, systems: dict[str, Search], fractions: Sequence[float], progress: Progress | None
) -> Iterator[Row]:
    filters, count = Filters(vectors), ProgressCounter(len(queries), progress)
    everything = np.ones(len(vectors), dtype=bool)
    measured: dict[tuple[str, float, int, str], list[tuple[float, float]]] = {}
    names = list(systems)
    for query in queries[:WARM_UP]:
        for search in systems.values():
            search(query, DEPTHS[-1], everything)
    for number, query in enumerate(queries):
        scores = vectors @ query  # (N,)
        masks = [
            ("none", 1.0, everything),
            *((kind, share, filters.draw(kind, share, query)) for kind in KINDS for share in fractions),
        ]
        for kind, share, allowed in masks:
            for k in DEPTHS:
                cut = _cut(scores, allowed, k)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    answer = _measure_search(systems[name], query, k, allowed, scores, cut)
                    measured.setdefault((kind, share, k, name), []).append(answer)
        count.tick()
    for (kind, share, k, name), answers in measured.items():
        recalls, times = [recall for recall, _ in answers], summarise_ms(ms for _, ms in answers)
        yield Row(name, kind, share, k, round(float(np.mean(recalls)), 4), round(min(recalls), 4), times.p50_ms, times.p99_ms)


def _measure_search(search: Search, query: Vector, k: int, allowed: Mask, scores: Vector, cut: float) -> tuple[float, float]:
    """Return recall and milliseconds of one search."""
    start = time.perf_counter()
    vector_ids = search(query, k, allowed)
    elapsed_ms = (time.perf_counter() - start) * 1000
    assert allowed[vector_ids].all(), "an answer holds a vector that does not pass the filter"
    return recall_of(scores[vector_ids].astype(np.float64), cut, min(k, int(np.count_nonzero(allowed)))), elapsed_ms


def _cut(scores: Vector, allowed: Mask, k: int) -> float:
    """Return the cosine of the k-th nearest vector that passes, or of the farthest if fewer than k pass."""
    passing = scores[allowed]
    return float(np.partition(passing, -k)[-k] if len(passing) > k else passing.min())
