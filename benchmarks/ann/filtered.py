"""Recall and latency under filters: Gavel's indices beside plain faiss with the same bitmap, and beside filtering afterwards.

Every query has filters of its own (benchmarks.ann.filters); each system answers it with each of them, in turns, on one thread.
Recall counts against exact search among the lots that pass.
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
from retrieval.index.ann.families import AnnIndex
from retrieval.index.ann.recall import recall_of
from retrieval.index.ann.vector_index import HnswGraph, Slots
from retrieval.index.embedded.index import EXACT_BELOW
from retrieval.index.port import Mask
from retrieval.progress import Progress, ProgressCounter

SHARES = (0.9, 0.5, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
SPECS = ("hnsw", "hnsw_sq8", "ivf_sq8:nprobe=256")
DEPTHS = (10, 50)
MOST_FETCHED = 10_000  # when filtering comes after the search; OpenSearch's index.max_result_window
WARM_UP = 20
Ask = Callable[[Vector, int, Mask], Slots]
_faiss: Any = faiss  # its type stubs leave out search parameters


@dataclass(frozen=True, slots=True)
class Row:
    """One way of searching under one kind of filter.

    Attributes:
        way: who searches, and in which family.
        kind: of the filter; "none" lets everything through.
        share: of the lots that pass.
        k: lots that were wanted.
        recall: @k among the lots that pass, mean over the queries.
        worst: the least of a query.
        p50_ms: of single queries on one thread, the bitmap made of the mask included.
        p99_ms: likewise.
    """

    way: str
    kind: str
    share: float
    k: int
    recall: float
    worst: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class FilteredResult:
    """All of a run.

    Attributes:
        data: what the vectors were.
        lots: how many.
        queries: how many.
        rows: kinds in their order, shares descending.
        machine: what it ran on, and the load before.
    """

    data: str
    lots: int
    queries: int
    rows: tuple[Row, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can write it."""
        return asdict(self)

    def row(self, way: str, kind: str, share: float, k: int) -> Row:
        """One of the rows."""
        wanted = (way, kind, share, k)
        return next(row for row in self.rows if (row.way, row.kind, row.share, row.k) == wanted)


def run_benchmark(
    data: str,
    vectors: Vector,
    queries: Vector,
    folder: Path,
    *,
    specs: Sequence[str] = SPECS,
    shares: Sequence[float] = SHARES,
    on_built: Progress | None = None,
    on_asked: Progress | None = None,
) -> FilteredResult:
    """Measure all ways over one set of vectors.

    Args:
        data: what the vectors are.
        vectors: (N, D) of unit length.
        queries: (Q, D), none of them among the vectors.
        folder: for the indices, which are kept for the next run.
        specs: families to build; the embedded index stands beside "hnsw".
        shares: of the lots that pass.
        on_built: called with (built, to build).
        on_asked: called with (queries asked, queries).
    """
    machine = describe_machine()
    ways = _ways(opened(vectors, folder, specs, on_built))
    with threadpool_limits(1):
        rows = tuple(_measured(vectors, queries, ways, shares, on_asked))
    return FilteredResult(data, len(vectors), len(queries), rows, machine)


def opened(vectors: Vector, folder: Path, specs: Sequence[str], progress: Progress | None) -> list[AnnIndex]:
    """The index of each spec, built in a folder where it is not there yet."""
    count, opened = ProgressCounter(len(specs), progress), []
    faiss.omp_set_num_threads(BUILD_THREADS)
    for spec in specs:
        candidate_index = CandidateIndex("gavel", IndexSpec.parse(spec))
        if not (folder / candidate_index.folder / "index.json").is_file():
            build_cost(candidate_index, vectors, folder / candidate_index.folder)
        index = AnnIndex.open(folder / candidate_index.folder, check=False)
        index.spec = replace(candidate_index.spec, nlist=index.spec.nlist)  # the effort that is asked for, whoever built the files
        opened.append(index)
        count.tick()
    return opened


def _ways(indices: Sequence[AnnIndex]) -> dict[str, Ask]:
    ways: dict[str, Ask] = {}
    for index in indices:
        family = index.spec.family
        alone = [other.spec.family for other in indices].count(family) == 1
        ways[f"gavel {family if alone else index.spec}"] = partial(_gavel, index)
        ways[f"faiss {family if alone else index.spec}"] = partial(_plain, index)
        if family == "hnsw" and "embedded" not in ways:
            ways["afterwards"] = partial(_afterwards, index)
            graph = HnswGraph(index.dimensions, index.spec)
            graph._index = index._index  # the same graph, so that nothing but the search differs
            ways["embedded"] = partial(graph.nearest, exact_below=EXACT_BELOW)
            ways["exact"] = graph.exact
    return ways


def _gavel(index: AnnIndex, query: Vector, k: int, allowed: Mask) -> Slots:
    return index.search(query, k, allowed).slots


def _plain(index: AnnIndex, query: Vector, k: int, allowed: Mask | None, fetched: int = 0) -> Slots:
    """faiss with its selector at the effort of the spec: not widened, and never exact."""
    selector = None if allowed is None else _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    wanted = min(fetched or k, len(index))
    if index.spec.effort == "nprobe":
        parameters = _faiss.SearchParametersIVF(nprobe=index.spec.nprobe, sel=selector)
    else:
        parameters = _faiss.SearchParametersHNSW(efSearch=max(index.spec.beam(len(index)), wanted), sel=selector)
    labels: Slots = index._index.search(query[None], wanted, params=parameters)[1][0]
    return labels[labels >= 0]


def _afterwards(index: AnnIndex, query: Vector, k: int, allowed: Mask) -> Slots:
    """Fetch as many as should leave k, then drop what does not pass."""
    wanted = int(np.ceil(k * len(allowed) / np.count_nonzero(allowed)))
    found = _plain(index, query, k, None, min(wanted, MOST_FETCHED))
    return found[allowed[found]][:k]


def _measured(
    vectors: Vector, queries: Vector, ways: dict[str, Ask], shares: Sequence[float], progress: Progress | None
) -> Iterator[Row]:
    filters, count = Filters(vectors), ProgressCounter(len(queries), progress)
    everything = np.ones(len(vectors), dtype=bool)
    seen: dict[tuple[str, float, int, str], list[tuple[float, float]]] = {}
    names = list(ways)
    for query in queries[:WARM_UP]:
        for ask in ways.values():
            ask(query, DEPTHS[-1], everything)
    for number, query in enumerate(queries):
        scores = vectors @ query  # (N,)
        drawn = [
            ("none", 1.0, everything),
            *((kind, share, filters.draw(kind, share, query)) for kind in KINDS for share in shares),
        ]
        for kind, share, allowed in drawn:
            for k in DEPTHS:
                cut = _cut(scores, allowed, k)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    asked = _asked(ways[name], query, k, allowed, scores, cut)
                    seen.setdefault((kind, share, k, name), []).append(asked)
        count.tick()
    for (kind, share, k, name), asked_all in seen.items():
        recalls, taken = [recall for recall, _ in asked_all], summarise_ms(ms for _, ms in asked_all)
        yield Row(name, kind, share, k, round(float(np.mean(recalls)), 4), round(min(recalls), 4), taken.p50_ms, taken.p99_ms)


def _asked(ask: Ask, query: Vector, k: int, allowed: Mask, scores: Vector, cut: float) -> tuple[float, float]:
    """Recall and milliseconds of one search."""
    start = time.perf_counter()
    found = ask(query, k, allowed)
    taken = (time.perf_counter() - start) * 1000
    assert allowed[found].all(), "a lot came back that the filter leaves out"
    return recall_of(scores[found].astype(np.float64), cut, min(k, int(np.count_nonzero(allowed)))), taken


def _cut(scores: Vector, allowed: Mask, k: int) -> float:
    """The cosine of the k-th nearest lot that passes, or of the last."""
    passed = scores[allowed]
    return float(np.partition(passed, -k)[-k] if len(passed) > k else passed.min())
