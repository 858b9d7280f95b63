"""Gain of searching plain faiss for many queries in one call, on one thread and on two.

FAISS compares a batch with a flat index by a matrix product, and spreads the queries of a batch over its threads.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.ann.filtered import open_indices
from benchmarks.machine import describe_machine
from retrieval.contracts.documents import Vector
from retrieval.errors import InvalidInput
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.progress import Progress, ProgressCounter

SPECS = ("flat", "ivf:nprobe=64", "ivf_sq8:nprobe=64", "hnsw")
BATCHES = (1, 8, 64, 256)
THREADS = (1, 2)
K = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One index type searched in batches of one size.

    Attributes:
        family: of the index.
        threads: of FAISS and of the matrix product.
        batch: queries in a call; 1 is sequential.
        ms_a_query: by the clock, the median over the rounds.
        cpu_ms_a_query: of processor time, likewise.
        gain: speed-up over sequential queries on as many threads, by the clock; the median over the rounds.
        cpu_gain: the same by processor time.
    """

    family: str
    threads: int
    batch: int
    ms_a_query: float
    cpu_ms_a_query: float
    gain: float
    cpu_gain: float


@dataclass(frozen=True, slots=True)
class BatchesResult:
    """The result of a run.

    Attributes:
        lots: in the indices.
        rows: index types in their order, threads and batches ascending.
        machine: description, with the load before the run.
    """

    lots: int
    rows: tuple[Row, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def run_benchmark(
    vectors: Vector,
    queries: Vector,
    folder: Path,
    *,
    specs: Sequence[str] = SPECS,
    batches: Sequence[int] = BATCHES,
    rounds: int = 5,
    progress: Progress | None = None,
) -> BatchesResult:
    """Search for all queries in batches of every size, in turns.

    Args:
        vectors: (N, D) of unit length.
        queries: (Q, D); Q at least the largest batch.
        folder: for the indices, which the next run reuses.
        specs: index types to build.
        batches: sizes, the first of them 1.
        rounds: passes of each; the median counts.
        progress: called with (passes done, passes).

    Raises:
        InvalidInput: there are too few queries for the largest batch.
    """
    if len(queries) < max(batches):
        raise InvalidInput(f"{len(queries)} queries make no batch of {max(batches)}")
    machine, indices = describe_machine(), open_indices(vectors, folder, specs, None)
    count, rows = ProgressCounter(len(indices) * len(THREADS) * rounds, progress), []
    for index in indices:
        for threads in THREADS:
            with threadpool_limits(threads):
                times = []
                for _ in range(rounds):
                    times.append([_ms_per_query(index, queries, batch) for batch in batches])
                    count.tick()
            measured = np.array(times)  # (rounds, batches, 2)
            gains, middle = np.median(measured[:, :1] / measured, axis=0).round(2), np.median(measured, axis=0).round(4)
            rows += [
                Row(index.spec.index_type, threads, batch, float(ms), float(cpu_ms), float(gain), float(cpu_gain))
                for batch, (ms, cpu_ms), (gain, cpu_gain) in zip(batches, middle, gains, strict=True)
            ]
    return BatchesResult(len(vectors), tuple(rows), machine)


def _ms_per_query(index: AnnIndex, queries: Vector, batch: int) -> tuple[float, float]:
    """Return the milliseconds by the clock and of processor time."""
    parameters = index._parameters(index._effort(index.spec, K), None)
    start, busy = time.perf_counter(), time.process_time()
    for first in range(0, len(queries), batch):
        index._index.search(queries[first : first + batch], K, params=parameters)
    elapsed = time.perf_counter() - start, time.process_time() - busy
    return elapsed[0] * 1000 / len(queries), elapsed[1] * 1000 / len(queries)
