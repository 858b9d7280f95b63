"""What it gains to search plain faiss for many queries in one call, on one thread and on two.

It compares a batch with a flat index by a matrix product, and spreads the queries of a batch over its threads.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.ann.filtered import opened
from benchmarks.machine import describe_machine
from retrieval.contracts.documents import Vector
from retrieval.errors import InvalidInput
from retrieval.index.ann.families import AnnIndex
from retrieval.progress import Progress, ProgressCounter

SPECS = ("flat", "ivf:nprobe=64", "ivf_sq8:nprobe=64", "hnsw")
BATCHES = (1, 8, 64, 256)
THREADS = (1, 2)
K = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One family searched in batches of one size.

    Attributes:
        family: of the index.
        threads: of FAISS and of the matrix product.
        batch: queries in a call; 1 is one after the other.
        ms_a_query: by the clock, the median over the rounds.
        cpu_ms_a_query: of processor time, likewise.
        gain: how many times faster than one after the other on as many threads, by the clock; the median over the rounds.
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
    """All of a run.

    Attributes:
        lots: in the indices.
        rows: families in their order, threads and batches ascending.
        machine: what it ran on, and the load before.
    """

    lots: int
    rows: tuple[Row, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can write it."""
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
        folder: for the indices, which are kept for the next run.
        specs: families to build.
        batches: sizes, the first of them 1.
        rounds: passes of each; the median counts.
        progress: called with (passes done, passes).

    Raises:
        InvalidInput: the queries do not make the largest batch.
    """
    if len(queries) < max(batches):
        raise InvalidInput(f"{len(queries)} queries make no batch of {max(batches)}")
    machine, indices = describe_machine(), opened(vectors, folder, specs, None)
    count, rows = ProgressCounter(len(indices) * len(THREADS) * rounds, progress), []
    for index in indices:
        for threads in THREADS:
            with threadpool_limits(threads):
                seen = []
                for _ in range(rounds):
                    seen.append([_ms_a_query(index, queries, batch) for batch in batches])
                    count.tick()
            taken = np.array(seen)  # (rounds, batches, 2)
            gains, middle = np.median(taken[:, :1] / taken, axis=0).round(2), np.median(taken, axis=0).round(4)
            rows += [
                Row(index.spec.family, threads, batch, float(ms), float(cpu_ms), float(gain), float(cpu_gain))
                for batch, (ms, cpu_ms), (gain, cpu_gain) in zip(batches, middle, gains, strict=True)
            ]
    return BatchesResult(len(vectors), tuple(rows), machine)


def _ms_a_query(index: AnnIndex, queries: Vector, batch: int) -> tuple[float, float]:
    """By the clock, and of processor time."""
    parameters = index._parameters(index._effort(index.spec, K, 1), None)
    start, busy = time.perf_counter(), time.process_time()
    for first in range(0, len(queries), batch):
        index._index.search(queries[first : first + batch], K, params=parameters)
    taken = time.perf_counter() - start, time.process_time() - busy
    return taken[0] * 1000 / len(queries), taken[1] * 1000 / len(queries)
