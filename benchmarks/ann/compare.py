"""Two index configurations on the same vectors and queries: recall, latency, memory, build time, and the answers that differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ann.benchmark import run_benchmark
from benchmarks.ann.candidates import CandidateIndex
from benchmarks.ann.targets import IndexResult
from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.errors import InvalidInput
from retrieval.progress import Progress

SHOWN_K = 10  # results of a search whose differences are counted


@dataclass(frozen=True, kw_only=True)
class ComparedIndices(Measurement):
    """The measurements of two index configurations.

    Attributes:
        data: description of vectors and queries.
        queries: number of queries.
        indices: the two configurations, each measured at its own search effort.
        different_answers: share of the queries whose ten best items differ in any item.
        overlap_at_10: mean share of items that the ten best of both have in common.
        p50_ratio: median latency of the second divided by that of the first, median over the rounds.
    """

    data: str
    queries: int
    indices: tuple[IndexResult, IndexResult]
    different_answers: float
    overlap_at_10: float
    p50_ratio: float


def compare_indices(
    first: IndexSpec,
    second: IndexSpec,
    vectors: Vector,
    queries: Vector,
    data: str,
    folder: Path,
    *,
    rounds: int = 5,
    on_built: Progress | None = None,
    on_pass: Progress | None = None,
) -> ComparedIndices:
    """Build two indices over the same vectors, and ask both the same queries in turns, each in its own process on one thread.

    Args:
        first: one configuration.
        second: the other configuration.
        vectors: (N, D) unit vectors.
        queries: (Q, D) unit vectors.
        data: description of vectors and queries.
        folder: folder for the files of both.
        rounds: passes over the queries.
        on_built: progress of the builds.
        on_pass: progress of the passes.

    Raises:
        InvalidInput: both configurations are equal, or one does not suit the vectors.
    """
    sized = [spec.sized(len(vectors)) for spec in (first, second)]
    if sized[0] == sized[1]:
        raise InvalidInput(f"both configurations are {first}; give two that differ")
    for spec in sized:
        spec.check_fit(vectors.shape[1])
    machine = describe_machine()
    candidates = [CandidateIndex("gavel", spec, full_name=True, sweep=False) for spec in sized]
    best: dict[CandidateIndex, list[list[int]]] = {}

    def remember(candidate: CandidateIndex, _: int, ids: list[list[int]]) -> None:
        best[candidate] = [row[:SHOWN_K] for row in ids]

    results = run_benchmark(
        vectors, queries, candidates, folder, rounds=rounds, on_built=on_built, on_pass=on_pass, on_ids=remember
    )
    overlaps = [overlap_of(one, other) for one, other in zip(*(best[candidate] for candidate in candidates), strict=True)]
    rounds_of = [result.points[0].p50_rounds_ms for result in results]
    ratio = float(np.median([late / early for early, late in zip(*rounds_of, strict=True)]))
    return ComparedIndices(
        data=data,
        queries=len(queries),
        indices=(results[0], results[1]),
        different_answers=round(float(np.mean([overlap < 1 for overlap in overlaps])), 4),
        overlap_at_10=round(float(np.mean(overlaps)), 4),
        p50_ratio=round(ratio, 3),
        machine=machine,
    )


def overlap_of(ids: Sequence[int], others: Sequence[int]) -> float:
    """Return the share of the longer list that both lists have in common, in [0, 1]; 1 for two empty lists."""
    longest = max(len(ids), len(others))
    return len(set(ids) & set(others)) / longest if longest else 1.0
