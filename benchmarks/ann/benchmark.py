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
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ann.candidates import BUILD_THREADS, CandidateIndex, K
from benchmarks.ann.targets import AnnResult, Point, Standing
from benchmarks.machine import describe_machine
from processing.evaluation.runs import summarise_ms
from retrieval.contracts.documents import Vector
from retrieval.errors import IndexUnavailable
from retrieval.files import crc32_of
from retrieval.index.ann.recall import exact_cut, recall_of
from retrieval.progress import Progress, ProgressCounter

VECTORS, QUERIES = "vectors.npy", "queries.npy"
BUILT_FILE = "built.json"  # in an index's folder, written last: of what vectors it is, and what it cost

Said = dict[str, Any]
Ask = Callable[[Said], Said]
Asked = dict[int, list[Said]]  # effort -> the answers of each round


def run_benchmark(
    vectors: Vector,
    queries: Vector,
    candidate_indices: Sequence[CandidateIndex],
    folder: Path,
    *,
    rounds: int = 3,
    reuse: bool = False,
    on_built: Progress | None = None,
    on_asked: Progress | None = None,
) -> list[Standing]:
    """Measure contenders over one set of vectors.

    Args:
        vectors: (N, D) of unit length.
        queries: (Q, D), none of them among the vectors.
        contenders: those of Gavel before plain faiss, which opens their files.
        folder: for files.
        rounds: passes over the queries, in which contenders take turns.
        reuse: whether an index that an earlier run built of the same vectors is taken as it lies there, with what it cost then.
        on_built: called with (built, to build).
        on_asked: called with (passes done, passes).
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / VECTORS, vectors)
    np.save(folder / QUERIES, queries)
    crc32 = crc32_of(folder / VECTORS)
    cut = exact_cut(vectors, queries, K)
    count = ProgressCounter(len(candidate_indices), on_built)
    built: dict[CandidateIndex, Said] = {}
    for candidate_index in candidate_indices:
        if candidate_index.builds:
            built[candidate_index] = (reuse and _built_before(candidate_index, folder, crc32)) or _built(
                candidate_index, folder, crc32
            )
        count.tick()
    with ExitStack() as stack:
        served = [(candidate_index, stack.enter_context(_served(candidate_index, folder))) for candidate_index in candidate_indices]
        asked = _ask_in_turns(served, len(queries), rounds, on_asked)
        return [
            _standing(candidate_index, built.get(candidate_index), folder, opened, asked[candidate_index], (vectors, queries, cut))
            for candidate_index, (_, opened) in served
        ]


def _ask_in_turns(
    served: Sequence[tuple[CandidateIndex, tuple[Ask, Said]]], queries: int, rounds: int, progress: Progress | None
) -> dict[CandidateIndex, Asked]:
    passes = [(candidate_index, ask, effort) for candidate_index, (ask, _) in served for effort in candidate_index.efforts]
    passes.sort(key=lambda one: (one[0].spec.family, one[2]))  # equal specs at equal effort follow each other
    asked: dict[CandidateIndex, Asked] = {candidate_index: {} for candidate_index, _ in served}
    count = ProgressCounter(rounds * len(passes), progress)
    for number in range(rounds):
        for candidate_index, ask, effort in passes if number % 2 else passes[::-1]:
            answer = ask({"effort": effort, "k": K, "first": 0, "last": queries})
            asked[candidate_index].setdefault(effort, []).append(answer)
            count.tick()
    return asked


def _standing(
    candidate_index: CandidateIndex,
    built: Said | None,
    folder: Path,
    said: Said,
    asked: Asked,
    truth: tuple[Vector, Vector, np.ndarray],
) -> Standing:
    vectors = truth[0]
    last = max((answer["memory"] for answers in asked.values() for answer in answers), key=lambda seen: seen["resident"])
    files = [path for path in (folder / candidate_index.folder).iterdir() if path.name.startswith("index.")]
    return Standing(
        candidate_index.name,
        candidate_index.library,
        str(candidate_index.spec),
        len(vectors),
        vectors.shape[1],
        round(built["build_s"], 2) if built else None,
        round(built["build_cpu_s"], 2) if built else None,
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


def _command(verb: str, candidate_index: CandidateIndex, folder: Path) -> list[str]:
    files = [folder / candidate_index.folder, folder / VECTORS, folder / QUERIES]
    return [
        sys.executable,
        "-m",
        "benchmarks.ann.worker",
        verb,
        candidate_index.library,
        str(candidate_index.spec),
        *map(str, files),
    ]


def _built(candidate_index: CandidateIndex, folder: Path, crc32: int) -> Said:
    (folder / candidate_index.folder / BUILT_FILE).unlink(missing_ok=True)
    done = subprocess.run(
        _command("build", candidate_index, folder), env=_threads(BUILD_THREADS), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise IndexUnavailable(f"{candidate_index.name} could not be built: {done.stderr.strip()[-500:]}")
    built: Said = {**_identity(candidate_index, crc32), **json.loads(done.stdout.splitlines()[-1])}
    (folder / candidate_index.folder / BUILT_FILE).write_text(json.dumps(built))
    return built


def _built_before(candidate_index: CandidateIndex, folder: Path, crc32: int) -> Said | None:
    """What an index cost that lies there whole, if it is of these vectors and this release of its library."""
    try:
        built: Said = json.loads((folder / candidate_index.folder / BUILT_FILE).read_text())
    except (OSError, ValueError):
        return None
    return built if _identity(candidate_index, crc32).items() <= built.items() else None


def _identity(candidate_index: CandidateIndex, crc32: int) -> Said:
    module = "faiss" if candidate_index.library == "gavel" else candidate_index.library
    package = packages_distributions()[module][0]  # of faiss there are several
    return {"crc32": crc32, "spec": str(candidate_index.spec.built), "library": f"{package} {version(package)}"}


@contextmanager
def _served(candidate_index: CandidateIndex, folder: Path) -> Iterator[tuple[Ask, Said]]:
    """A process that has the index open; asks it, and says what it said first."""
    command = _command("serve", candidate_index, folder)
    with subprocess.Popen(command, env=_threads(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent, answers = process.stdin, process.stdout

        def hear() -> Said:
            line = answers.readline()
            if not line:
                raise IndexUnavailable(f"{candidate_index.name} ended; what it said stands above")
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
    candidate_indices: Callable[[int], Sequence[CandidateIndex]],
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
        standings += run_benchmark(vectors, queries, candidate_indices(size), folder / str(size), **options)
    return AnnResult(data, tuple(standings), machine)
