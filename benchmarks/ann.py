"""Recall, latency, memory and build time of vector indices, beside plain faiss, hnswlib and usearch in the same run.

Every index is built in a process of its own and opened in another, so that memory is its own. Then all are asked the same single
queries on one thread, in rounds, in turns, every other round in the opposite order. Recall counts against exact search.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ann_contenders import BUILD_THREADS, Contender, K
from benchmarks.machine import describe_machine
from processing.runs import Counter, Progress, summarise_ms
from retrieval.errors import IndexUnavailable
from retrieval.index.ann_recall import exact_cut, recall_of
from retrieval.index.base import Vector
from retrieval.index.index_advice import Calibration, Measured
from retrieval.index.index_spec import IndexSpec

VECTORS, QUERIES = "vectors.npy", "queries.npy"


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
                seen.build_s,
            )
            for seen in self.standings
            for point in seen.points
            if seen.build_s is not None and seen.library == "gavel"
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
                "build_s": seen.build_s,
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
        seen = self.largest()
        ours, plain = (next((one for one in seen if one.name == f"{library} hnsw"), None) for library in ("gavel", "faiss"))
        said: dict[str, Any] = {}
        if ours and plain and (point := ours.least(0.99)):
            beside = next(other for other in plain.points if other.effort == point.effort)
            ratios = [a / b for a, b in zip(point.p50_rounds_ms, beside.p50_rounds_ms, strict=True)]
            said["hnsw"] = {
                "ef_search": point.effort,
                "recall": point.recall,
                "p50_ms": point.p50_ms,
                "p50_over_faiss": round(float(np.median(ratios)), 3),
                "resident_gb": round(ours.resident_bytes / 1e9, 3),
            }
        small = [(standing, point) for standing in seen if standing.library == "gavel" and (point := standing.least(0.97))]
        if small:
            standing, point = min(small, key=lambda pair: pair[0].file_bytes)
            said["quantised"] = {
                "name": standing.name,
                "share_of_float32": round(standing.file_bytes / (4 * standing.items * standing.dimensions), 3),
                "recall": point.recall,
                "p50_ms": point.p50_ms,
            }
        return said


def exponent(pairs: Sequence[tuple[int, float]]) -> float:
    """b of the fit value = a * size ** b, by least squares on logarithms."""
    sizes, values = np.log([size for size, _ in pairs]), np.log([value for _, value in pairs])
    return round(float(np.polyfit(sizes, values, 1)[0]), 2)


def run_benchmark(
    vectors: Vector,
    queries: Vector,
    contenders: Sequence[Contender],
    folder: Path,
    *,
    rounds: int = 3,
    on_built: Progress | None = None,
    on_asked: Progress | None = None,
) -> list[Standing]:
    """Measure contenders over one set of vectors.

    Args:
        vectors: (N, D) of unit length.
        queries: (Q, D), none of them among the vectors.
        contenders: those of Gavel before plain faiss, which opens their files.
        folder: for files; what lies there from an earlier run is built again.
        rounds: passes over the queries, in which contenders take turns.
        on_built: called with (built, to build).
        on_asked: called with (passes done, passes).
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / VECTORS, vectors)
    np.save(folder / QUERIES, queries)
    cut = exact_cut(vectors, queries, K)
    count = Counter(len(contenders), on_built)
    built: dict[Contender, float | None] = {}
    for contender in contenders:
        built[contender] = _built(contender, folder) if contender.builds else None
        count.tick()
    with ExitStack() as stack:
        served = [(contender, stack.enter_context(_served(contender, folder))) for contender in contenders]
        asked = _ask_in_turns(served, len(queries), rounds, on_asked)
        return [
            _standing(contender, built[contender], folder, opened, asked[contender], (vectors, queries, cut))
            for contender, (_, opened) in served
        ]


Said = dict[str, Any]
Ask = Callable[[Said], Said]
Asked = dict[int, list[Said]]  # effort -> the answers of each round


def _ask_in_turns(
    served: Sequence[tuple[Contender, tuple[Ask, Said]]], queries: int, rounds: int, progress: Progress | None
) -> dict[Contender, Asked]:
    passes = [(contender, ask, effort) for contender, (ask, _) in served for effort in contender.efforts]
    passes.sort(key=lambda one: (one[0].spec.family, one[2]))  # equal specs at equal effort follow each other
    asked: dict[Contender, Asked] = {contender: {} for contender, _ in served}
    count = Counter(rounds * len(passes), progress)
    for number in range(rounds):
        for contender, ask, effort in passes if number % 2 else passes[::-1]:
            answer = ask({"effort": effort, "k": K, "first": 0, "last": queries})
            asked[contender].setdefault(effort, []).append(answer)
            count.tick()
    return asked


def _standing(
    contender: Contender,
    build_s: float | None,
    folder: Path,
    said: Said,
    asked: Asked,
    truth: tuple[Vector, Vector, np.ndarray],
) -> Standing:
    vectors = truth[0]
    last = max((answer["memory"] for answers in asked.values() for answer in answers), key=lambda seen: seen["resident"])
    files = [path for path in (folder / contender.folder).iterdir() if path.name.startswith("index.")]
    return Standing(
        contender.name,
        contender.library,
        str(contender.spec),
        len(vectors),
        vectors.shape[1],
        None if build_s is None else round(build_s, 2),
        sum(path.stat().st_size for path in files if path.suffix != ".json"),
        round(said["open_s"], 3),
        last["resident"] - said["before"]["resident"],
        last["own"] - said["before"]["own"],
        tuple(_point(effort, answers, truth) for effort, answers in sorted(asked.items())),
    )


def _point(effort: int, answers: list[Said], truth: tuple[Vector, Vector, np.ndarray]) -> Point:
    vectors, queries, cut = truth
    recalls = [
        recall_of(vectors[ids].astype(np.float64) @ query.astype(np.float64), limit, K)
        for ids, query, limit in zip(_whole(answers[0]["ids"]), queries, cut, strict=True)
    ]
    taken = summarise_ms(time for answer in answers for time in answer["times_ms"])
    each = tuple(round(float(np.median(answer["times_ms"])), 4) for answer in answers)
    return Point(effort, round(float(np.mean(recalls)), 4), taken.p50_ms, taken.p99_ms, each)


def _whole(ids: list[list[int]]) -> Iterator[np.ndarray]:
    """The answers without what fills up short ones."""
    for row in ids:
        found = np.asarray(row, dtype=np.int64)
        yield found[found >= 0]


def _command(verb: str, contender: Contender, folder: Path) -> list[str]:
    files = [folder / contender.folder, folder / VECTORS, folder / QUERIES]
    return [sys.executable, "-m", "benchmarks.ann_worker", verb, contender.library, str(contender.spec), *map(str, files)]


def _built(contender: Contender, folder: Path) -> float:
    done = subprocess.run(
        _command("build", contender, folder), env=_threads(BUILD_THREADS), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise IndexUnavailable(f"{contender.name} could not be built: {done.stderr.strip()[-500:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["build_s"])


@contextmanager
def _served(contender: Contender, folder: Path) -> Iterator[tuple[Ask, Said]]:
    """A process that has the index open; asks it, and says what it said first."""
    command = _command("serve", contender, folder)
    with subprocess.Popen(command, env=_threads(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent, answers = process.stdin, process.stdout

        def hear() -> Said:
            line = answers.readline()
            if not line:
                raise IndexUnavailable(f"{contender.name} ended; what it said stands above")
            said: Said = json.loads(line)
            return said

        def ask(question: Said) -> Said:
            sent.write(json.dumps(question) + "\n")
            sent.flush()
            return hear()

        try:
            yield ask, hear()
        finally:
            sent.close()
            process.wait(timeout=60)


def _threads(count: int) -> dict[str, str]:
    """The environment of a process that computes with so many threads, and whose idle ones do not spin."""
    named = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(count))
    return {**os.environ, **named, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run_sizes(
    data: str,
    drawn: Callable[[int], tuple[Vector, Vector]],
    sizes: Sequence[int],
    contenders: Callable[[int], Sequence[Contender]],
    folder: Path,
    **options: Any,
) -> AnnResult:
    """The same at several sizes.

    Args:
        data: what the vectors are.
        drawn: size -> vectors and queries.
        sizes: in any order.
        contenders: of a size.
        folder: one below it for each size.
        options: of run_benchmark().
    """
    machine, standings = describe_machine(), []
    for size in sorted(sizes):
        vectors, queries = drawn(size)
        standings += run_benchmark(vectors, queries, contenders(size), folder / str(size), **options)
    return AnnResult(data, tuple(standings), machine)
