"""What a sweep of vector indices shows: points, standings, how cost grows, and what it says of the bars."""

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
    """One index at one effort.

    Attributes:
        effort: ef_search or nprobe; 0 for a family that compares with everything.
        recall: @50, mean over the queries.
        p50_ms: of single queries on one thread.
        p99_ms: likewise.
        p50_rounds_ms: of each round.
    """

    effort: int
    recall: float
    p50_ms: float
    p99_ms: float
    p50_rounds_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """What one contender showed at one size.

    Attributes:
        name: library and family.
        library: gavel, faiss, hnswlib or usearch.
        spec: as it was built.
        items: vectors in it.
        dimensions: of them.
        build_s: with two threads, training and files included; None where it opened another's files.
        build_cpu_s: processor time of the same, which other programs do not change.
        file_bytes: of the index; full vectors that candidates are scored from not counted.
        open_s: from files to the first query.
        resident_bytes: what the process grew by, after all queries; pages of mapped files that were touched are in it.
        own_bytes: of these, what no file stands behind; the rest the system can drop and read again.
        points: by effort.
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

    def least(self, recall: float) -> Point | None:
        """The quickest point whose recall is so high; None where none is."""
        return min((point for point in self.points if point.recall >= recall), key=lambda point: point.p50_ms, default=None)


@dataclass(frozen=True, slots=True)
class AnnResult:
    """All of a run.

    Attributes:
        data: what the vectors were.
        standings: sizes ascending, contenders in their order.
        machine: what it ran on, and the load before.
    """

    data: str
    standings: tuple[Standing, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can write it."""
        return {**asdict(self), "exponents": self.exponents(), "bars": self.bars()}

    def calibration(self, made_by: str) -> Calibration:
        """The points of Gavel's own indices, for `gavel index advise`."""
        rows = [
            Measured(
                str(IndexSpec.parse(seen.spec).at(point.effort)),
                seen.items,
                seen.dimensions,
                point.recall,
                point.p50_ms,
                round(seen.build_cpu_s / BUILD_THREADS, 2),
            )
            for seen in self.standings
            for point in seen.points
            if seen.build_cpu_s is not None and seen.library == "gavel"
        ]
        return Calibration(made_by, f"{self.data}; {self.machine}", tuple(rows))

    def largest(self) -> list[Standing]:
        """The standings at the largest size."""
        size = max(standing.items for standing in self.standings)
        return [standing for standing in self.standings if standing.items == size]

    def exponents(self, recall: float = 0.95) -> dict[str, dict[str, float]]:
        """name -> measure -> b of the fit measure = a * items ** b; queries at the quickest point of such a recall."""
        grown: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for seen in self.standings:
            point = seen.least(recall)
            measures = {
                "build_cpu_s": seen.build_cpu_s,
                "file_bytes": seen.file_bytes,
                "p50_ms": point.p50_ms if point else None,
            }
            for measure, value in measures.items():
                if value:
                    grown.setdefault(seen.name, {}).setdefault(measure, []).append((seen.items, value))
        return {
            name: {measure: exponent(pairs) for measure, pairs in measures.items() if len(pairs) > 1}
            for name, measures in grown.items()
            if any(len(pairs) > 1 for pairs in measures.values())
        }

    def bars(self) -> dict[str, Any]:
        """What the largest size says of the bars: the graph beside plain faiss, the smallest index of recall .97."""
        ours = [standing for standing in self.largest() if standing.library == "gavel"]
        graphs = [one for one in ours if IndexSpec.parse(one.spec).family == "hnsw"]
        graph = min(((point.p50_ms, one, point) for one in graphs if (point := one.least(0.99))), default=None, key=by_first)
        small = min(((one.file_bytes, one, point) for one in ours if (point := one.least(0.97))), default=None, key=by_first)
        said: dict[str, Any] = {}
        if graph:
            said["hnsw"] = self._bar_of_graph(*graph[1:])
        if small:
            said["quantised"] = _bar_of_codes(*small[1:])
        return said

    def _bar_of_graph(self, ours: Standing, point: Point) -> dict[str, Any]:
        said: dict[str, Any] = {"ef_search": point.effort, "recall": point.recall, "p50_ms": point.p50_ms}
        for plain in (one for one in self.largest() if one.library == "faiss" and one.spec == ours.spec):
            beside = next(other for other in plain.points if other.effort == point.effort)
            ratios = [a / b for a, b in zip(point.p50_rounds_ms, beside.p50_rounds_ms, strict=True)]
            said["p50_over_faiss"] = round(float(np.median(ratios)), 3)
        return {**said, "resident_gb": round(ours.resident_bytes / 1e9, 3)}


def _bar_of_codes(ours: Standing, point: Point) -> dict[str, Any]:
    return {
        "name": ours.name,
        "share_of_float32": round(ours.file_bytes / (4 * ours.items * ours.dimensions), 3),
        "recall": point.recall,
        "p50_ms": point.p50_ms,
    }


def exponent(pairs: Sequence[tuple[int, float]]) -> float:
    """b of the fit value = a * size ** b, by least squares on logarithms."""
    sizes, values = np.log([size for size, _ in pairs]), np.log([value for _, value in pairs])
    return round(float(np.polyfit(sizes, values, 1)[0]), 2)
