"""Gain of searching plain faiss with many queries in one call, on one thread and on two.

FAISS compares a batch with a flat index by a matrix product, and distributes the queries of a batch over its threads.
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
    """Measurements of one index type, number of threads and batch size.

    Attributes:
        family: index type.
        threads: threads of FAISS and of the matrix product.
        batch: queries per call; 1 is sequential.
        ms_a_query: wall-clock milliseconds per query, median over the rounds.
        cpu_ms_a_query: milliseconds of processor time per query, median over the rounds.
        gain: speed-up in wall-clock time over the first batch size on as many threads, median over the rounds.
        cpu_gain: speed-up in processor time, computed as `gain`.
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
        lots: number of vectors in each index.
        rows: measurements; index types in the given order, threads and batches ascending.
        machine: description of the machine, with the load before the run.
    """

    lots: int
    rows: tuple[Row, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
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
    """Search every index with all queries in batches of every size, in turns.

    Args:
        vectors: (N, D) unit vectors.
        queries: (Q, D) queries; Q is at least the largest batch.
        folder: folder of the indices, which the next run reuses.
        specs: index types to build.
        batches: batch sizes, the first of them 1.
        rounds: passes over the queries for each batch size; the median is reported.
        progress: called with (passes done, passes in all).

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
    """Return the wall-clock milliseconds and the milliseconds of processor time per query."""
    parameters = index._parameters(index._effort(index.spec, K), None)
    start, busy = time.perf_counter(), time.process_time()
    for first in range(0, len(queries), batch):
        index._index.search(queries[first : first + batch], K, params=parameters)
    elapsed = time.perf_counter() - start, time.process_time() - busy
    return elapsed[0] * 1000 / len(queries), elapsed[1] * 1000 / len(queries)
