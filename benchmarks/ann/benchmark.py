"""Recall, latency, memory and build time of vector indices, beside plain faiss, hnswlib and usearch in the same run.

Every index is built in one process and opened in another, so that each process holds the memory of one index only. Then all
indices get the same single queries on one thread, in turns, every other round in the opposite order. Recall is relative to exact
search.
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
from benchmarks.ann.data import VectorSource
from benchmarks.ann.targets import AnnResult, IndexResult, Point
from benchmarks.machine import describe_machine
from processing.evaluation.runs import summarise_ms
from retrieval.contracts.documents import Vector
from retrieval.errors import IndexUnavailable
from retrieval.files import crc32_of
from retrieval.index.ann.recall import exact_cut, recall_of
from retrieval.progress import Progress, ProgressCounter

VECTORS, QUERIES = "vectors.npy", "queries.npy"
BUILT_FILE = "built.json"  # in the folder of an index, written last: checksum of the vectors, and the cost of the build

Message = dict[str, Any]
Ask = Callable[[Message], Message]
AnswersByEffort = dict[int, list[Message]]  # effort -> the answers of each round


def run_benchmark(
    vectors: Vector,
    queries: Vector,
    candidate_indices: Sequence[CandidateIndex],
    folder: Path,
    *,
    rounds: int = 3,
    reuse: bool = False,
    on_built: Progress | None = None,
    on_pass: Progress | None = None,
    on_ids: Callable[[CandidateIndex, int, list[list[int]]], None] | None = None,
) -> list[IndexResult]:
    """Measure candidate indices over one set of vectors.

    Args:
        vectors: (N, D) unit vectors.
        queries: (Q, D) queries, none of them among the vectors.
        candidate_indices: indices to measure. Gavel's come before plain faiss, which opens Gavel's files.
        folder: folder for all files.
        rounds: passes over the queries, in which the indices take turns.
        reuse: True reuses an index that an earlier run built from the same vectors, with the cost of that build.
        on_built: called with (candidates done, candidates in all).
        on_pass: called with (passes done, passes in all).
        on_ids: called with (candidate, effort, ids of each query, best first), so that answers can be compared.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / VECTORS, vectors)
    np.save(folder / QUERIES, queries)
    crc32 = crc32_of(folder / VECTORS)
    cut = exact_cut(vectors, queries, K)
    count = ProgressCounter(len(candidate_indices), on_built)
    built: dict[CandidateIndex, Message] = {}
    for candidate in candidate_indices:
        if candidate.builds:
            built[candidate] = (reuse and _read_build(candidate, folder, crc32)) or _build(candidate, folder, crc32)
        count.tick()
    with ExitStack() as stack:
        workers = [(candidate, stack.enter_context(_open_worker(candidate, folder))) for candidate in candidate_indices]
        by_effort = _ask_in_turns(workers, len(queries), rounds, on_pass)
        for candidate, answers in by_effort.items():
            for effort, rounds_of in answers.items():
                if on_ids:
                    on_ids(candidate, effort, rounds_of[0]["ids"])
        return [
            _index_result(candidate, built.get(candidate), folder, opened, by_effort[candidate], (vectors, queries, cut))
            for candidate, (_, opened) in workers
        ]


def _ask_in_turns(
    workers: Sequence[tuple[CandidateIndex, tuple[Ask, Message]]], queries: int, rounds: int, progress: Progress | None
) -> dict[CandidateIndex, AnswersByEffort]:
    passes = [(candidate, ask, effort) for candidate, (ask, _) in workers for effort in candidate.efforts]
    passes.sort(key=lambda one: (one[0].spec.index_type, one[2]))  # equal specs at equal effort follow each other
    by_effort: dict[CandidateIndex, AnswersByEffort] = {candidate: {} for candidate, _ in workers}
    count = ProgressCounter(rounds * len(passes), progress)
    for number in range(rounds):
        for candidate, ask, effort in passes if number % 2 else passes[::-1]:
            answer = ask({"effort": effort, "k": K, "first": 0, "last": queries})
            by_effort[candidate].setdefault(effort, []).append(answer)
            count.tick()
    return by_effort


def _index_result(
    candidate: CandidateIndex,
    built: Message | None,
    folder: Path,
    opening: Message,
    by_effort: AnswersByEffort,
    truth: tuple[Vector, Vector, np.ndarray],
) -> IndexResult:
    vectors = truth[0]
    last = max((answer["memory"] for answers in by_effort.values() for answer in answers), key=lambda used: used["resident"])
    files = [path for path in (folder / candidate.folder).iterdir() if path.name.startswith("index.")]
    return IndexResult(
        candidate.name,
        candidate.library,
        str(candidate.spec),
        len(vectors),
        vectors.shape[1],
        round(built["build_s"], 2) if built else None,
        round(built["build_cpu_s"], 2) if built else None,
        sum(path.stat().st_size for path in files if path.suffix != ".json"),
        round(opening["open_s"], 3),
        last["resident"] - opening["before"]["resident"],
        last["own"] - opening["before"]["own"],
        tuple(_point(effort, answers, truth) for effort, answers in sorted(by_effort.items())),
    )


def _point(effort: int, answers: list[Message], truth: tuple[Vector, Vector, np.ndarray]) -> Point:
    vectors, queries, cut = truth
    recalls = [
        recall_of(vectors[ids].astype(np.float64) @ query.astype(np.float64), limit, K)
        for ids, query, limit in zip(_without_padding(answers[0]["ids"]), queries, cut, strict=True)
    ]
    latency = summarise_ms(time for answer in answers for time in answer["times_ms"])
    each = tuple(round(float(np.median(answer["times_ms"])), 4) for answer in answers)
    cpu = round(float(np.median([time for answer in answers for time in answer["cpu_ms"]])), 4)
    return Point(effort, round(float(np.mean(recalls)), 4), latency.p50_ms, latency.p99_ms, each, cpu)


def _without_padding(ids: list[list[int]]) -> Iterator[np.ndarray]:
    """Yield the ids of each answer without the -1 that FAISS pads short answers with."""
    for row in ids:
        padded = np.asarray(row, dtype=np.int64)
        yield padded[padded >= 0]


def _command(verb: str, candidate: CandidateIndex, folder: Path) -> list[str]:
    files = [folder / candidate.folder, folder / VECTORS, folder / QUERIES]
    return [
        sys.executable,
        "-m",
        "benchmarks.ann.worker",
        verb,
        candidate.library,
        str(candidate.spec),
        *map(str, files),
    ]


def _build(candidate: CandidateIndex, folder: Path, crc32: int) -> Message:
    (folder / candidate.folder / BUILT_FILE).unlink(missing_ok=True)
    process = subprocess.run(
        _command("build", candidate, folder), env=_thread_environment(BUILD_THREADS), capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise IndexUnavailable(f"{candidate.name} could not be built: {process.stderr.strip()[-500:]}")
    built: Message = {**_identity(candidate, crc32), **json.loads(process.stdout.splitlines()[-1])}
    (folder / candidate.folder / BUILT_FILE).write_text(json.dumps(built))
    return built


def _read_build(candidate: CandidateIndex, folder: Path, crc32: int) -> Message | None:
    """Return the cost of an existing complete index of the same vectors, spec and version of the library, or None."""
    try:
        built: Message = json.loads((folder / candidate.folder / BUILT_FILE).read_text())
    except (OSError, ValueError):
        return None
    return built if _identity(candidate, crc32).items() <= built.items() else None


def _identity(candidate: CandidateIndex, crc32: int) -> Message:
    module = "faiss" if candidate.library == "gavel" else candidate.library
    package = packages_distributions()[module][0]  # several packages provide faiss
    return {"crc32": crc32, "spec": str(candidate.spec.built), "library": f"{package} {version(package)}"}


@contextmanager
def _open_worker(candidate: CandidateIndex, folder: Path) -> Iterator[tuple[Ask, Message]]:
    """Start a process that opens the index; yield a function that sends it a request, and its first message."""
    command = _command("serve", candidate, folder)
    with subprocess.Popen(command, env=_thread_environment(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent, answers = process.stdin, process.stdout

        def receive() -> Message:
            line = answers.readline()
            if not line:
                raise IndexUnavailable(f"{candidate.name} ended; its output stands above")
            message: Message = json.loads(line)
            return message

        def ask(question: Message) -> Message:
            sent.write(json.dumps(question) + "\n")
            sent.flush()
            return receive()

        try:
            yield ask, receive()
        finally:
            sent.close()
            process.wait(timeout=60)


def _thread_environment(count: int) -> dict[str, str]:
    """Return the environment of a process with `count` threads. Its idle threads do not spin."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(count))
    return {**os.environ, **limits, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run_sizes(
    data: str,
    source: VectorSource,
    sizes: Sequence[int],
    candidate_indices: Callable[[int], Sequence[CandidateIndex]],
    folder: Path,
    **options: Any,
) -> AnnResult:
    """Measure candidate indices at several sizes.

    Args:
        data: description of the vectors.
        source: source of vectors and queries.
        sizes: numbers of vectors, in any order.
        candidate_indices: returns the indices to measure at a size.
        folder: folder with a subfolder for each size.
        options: further arguments of run_benchmark().
    """
    machine, results = describe_machine(), []
    for size in sorted(sizes):
        vectors, queries = source(size)
        results += run_benchmark(vectors, queries, candidate_indices(size), folder / str(size), **options)
    return AnnResult(data, tuple(results), machine)
