"""Results of a sweep of vector indices: measured points, growth of the cost with the size, and the two targets."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from benchmarks.ann.candidates import BUILD_THREADS
from retrieval.config.index_spec import IndexSpec
from retrieval.index.ann.advice import Calibration, Measured

by_first = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Point:
    """Measurements of one index at one effort.

    Attributes:
        effort: ef_search or nprobe; 0 for an index type that compares with all vectors.
        recall: recall@50, mean over the queries.
        p50_ms: median latency of single queries on one thread, in milliseconds.
        p99_ms: 99th percentile of the same latency.
        p50_rounds_ms: median latency of each round.
        p50_cpu_ms: median processor time of single queries, which does not count other programs.
    """

    effort: int
    recall: float
    p50_ms: float
    p99_ms: float
    p50_rounds_ms: tuple[float, ...]
    p50_cpu_ms: float


@dataclass(frozen=True, slots=True)
class IndexResult:
    """The measurements of one candidate index at one size.

    Attributes:
        name: library and index type.
        library: gavel, faiss, hnswlib or usearch.
        spec: spec of the candidate.
        items: number of vectors in the index.
        dimensions: length of the vectors.
        build_s: seconds of the build with two threads, training and files included; None for plain faiss, which builds no files.
        build_cpu_s: processor seconds of the build, independent of other programs; None as `build_s`.
        file_bytes: bytes of the index, without the full vectors for rescoring.
        open_s: seconds for opening the files.
        resident_bytes: growth of the process's resident memory after all queries, with the touched pages of mapped files.
        own_bytes: part of `resident_bytes` without a file behind it. The system can drop the rest and read it again.
        points: measurements by rising effort.
    """

    name: str
    library: str
    spec: str
    items: int
    dimensions: int
    build_s: float | None
    build_cpu_s: float | None
    file_bytes: int
    open_s: float
    resident_bytes: int
    own_bytes: int
    points: tuple[Point, ...]

    def quickest(self, recall: float) -> Point | None:
        """Return the quickest point with at least this recall, or None."""
        return min((point for point in self.points if point.recall >= recall), key=lambda point: point.p50_ms, default=None)


@dataclass(frozen=True, slots=True)
class AnnResult:
    """The result of a run.

    Attributes:
        data: description of the vectors.
        results: results; sizes ascending, candidate indices in the given order.
        machine: description of the machine, with the load before the run.
    """

    data: str
    results: tuple[IndexResult, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        rows = [asdict(result) for result in self.results]
        head = {"data": self.data, "standings": rows, "machine": self.machine}
        return {**head, "exponents": self.exponents(), "bars": self.targets()}

    def calibration(self, command: str) -> Calibration:
        """Return the points of Gavel's own indices, for `gavel index advise`."""
        rows = [
            Measured(
                str(IndexSpec.parse(result.spec).at(point.effort)),
                result.items,
                result.dimensions,
                point.recall,
                min(point.p50_ms, point.p50_cpu_ms),
                round(result.build_cpu_s / BUILD_THREADS, 2),
            )
            for result in self.results
            for point in result.points
            if result.build_cpu_s is not None and result.library == "gavel"
        ]
        return Calibration(command, f"{self.data}; {self.machine}", tuple(rows))

    def largest(self) -> list[IndexResult]:
        """Return the results at the largest size."""
        size = max(result.items for result in self.results)
        return [result for result in self.results if result.items == size]

    def exponents(self, recall: float = 0.95) -> dict[str, dict[str, float]]:
        """Return candidate -> measure -> exponent b of the fit measure = a * items ** b.

        Args:
            recall: the latency is that of the quickest point with at least this recall.
        """
        growth: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for result in self.results:
            point = result.quickest(recall)
            measures = {
                "build_cpu_s": result.build_cpu_s,
                "file_bytes": result.file_bytes,
                "p50_ms": point.p50_ms if point else None,
            }
            for measure, value in measures.items():
                if value:
                    growth.setdefault(result.name, {}).setdefault(measure, []).append((result.items, value))
        return {
            name: {measure: exponent(pairs) for measure, pairs in measures.items() if len(pairs) > 1}
            for name, measures in growth.items()
            if any(len(pairs) > 1 for pairs in measures.values())
        }

    def targets(self) -> dict[str, Any]:
        """Return the values for the two targets at the largest size.

        "hnsw" compares the quickest graph of recall .99 with plain faiss. "quantised" is the smallest index of recall .97.
        """
        ours = [result for result in self.largest() if result.library == "gavel"]
        graphs = [one for one in ours if IndexSpec.parse(one.spec).index_type == "hnsw"]
        graph = min(((point.p50_ms, one, point) for one in graphs if (point := one.quickest(0.99))), default=None, key=by_first)
        small = min(((one.file_bytes, one, point) for one in ours if (point := one.quickest(0.97))), default=None, key=by_first)
        met: dict[str, Any] = {}
        if graph:
            met["hnsw"] = self._graph_target(*graph[1:])
        if small:
            met["quantised"] = _quantised_target(*small[1:])
        return met

    def _graph_target(self, ours: IndexResult, point: Point) -> dict[str, Any]:
        values: dict[str, Any] = {"ef_search": point.effort, "recall": point.recall, "p50_ms": point.p50_ms}
        for plain in (one for one in self.largest() if one.library == "faiss" and one.spec == ours.spec):
            reference = next(other for other in plain.points if other.effort == point.effort)
            ratios = [a / b for a, b in zip(point.p50_rounds_ms, reference.p50_rounds_ms, strict=True)]
            values["p50_over_faiss"] = round(float(np.median(ratios)), 3)
        return {**values, "resident_gb": round(ours.resident_bytes / 1e9, 3)}


def _quantised_target(ours: IndexResult, point: Point) -> dict[str, Any]:
    return {
        "name": ours.name,
        "share_of_float32": round(ours.file_bytes / (4 * ours.items * ours.dimensions), 3),
        "recall": point.recall,
        "p50_ms": point.p50_ms,
    }


def exponent(pairs: Sequence[tuple[int, float]]) -> float:
    """Return the exponent b of the fit value = a * size ** b for (size, value) pairs, by least squares on logarithms."""
    sizes, values = np.log([size for size, _ in pairs]), np.log([value for _, value in pairs])
    return round(float(np.polyfit(sizes, values, 1)[0]), 2)
