"""The embedded index with several index types over the same items: memory, time and recall of its vector searches.

python -m benchmarks.ann.embedded_index_types ROOT ALIAS --spec hnsw --spec hnsw_sq8 …

For every index type, one process builds the file if it is missing, and another process opens and searches the file. A query is
the vector of an item plus noise of the size that benchmarks.speed.many_lots adds to copies. The files stay in the index's folder.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.ann.worker import memory
from benchmarks.machine import describe_machine
from benchmarks.speed.many_lots import NOISE
from gavel.workspace.console import console, progress, show_table
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.contracts.documents import Vector
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.index.embedded.database import ItemDatabase
from retrieval.index.embedded.index import LOTS_FILE
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter

KS = (10, 50)
WARM_UP = 50
DEFAULT_SPECS = ("hnsw:ef_search=100", "hnsw", "hnsw_sq8", "ivf_sq8", "pq:pq_m=64,rescore=4")


@dataclass(frozen=True, slots=True)
class IndexTypeResult:
    """The measurements of one index type.

    Attributes:
        spec: requested spec.
        built_s: seconds from the items to the saved file; None if the file existed.
        file_bytes: size of the saved file.
        opened_s: seconds from opening the index to the first answer.
        resident_bytes: resident memory of the process after the searches, with the touched pages of mapped files.
        own_bytes: part of `resident_bytes` without a file behind it.
        recall: k -> mean share of the exact answer that is found.
        latency: latency of searches for KS[0] items.
        cpu_ms: mean processor time of such a search in milliseconds, independent of other programs.
    """

    spec: str
    built_s: float | None
    file_bytes: int
    opened_s: float
    resident_bytes: int
    own_bytes: int
    recall: dict[int, float]
    latency: Latency
    cpu_ms: float


def main(
    root: Annotated[Path, typer.Argument(help="Root folder of a store; missing files of index types are written there.")],
    alias: Annotated[str, typer.Argument(help="Alias of the store's index.")],
    spec: Annotated[list[str] | None, typer.Option(help="Index type and parameters; may be repeated.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Number of different queries.")] = 200,
    repetitions: Annotated[int, typer.Option(min=1, help="Timed passes over the queries.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line per index type, for scripts.")] = False,
) -> None:
    """Measure several index types one after the other."""
    machine, specs, results = describe_machine(), spec or DEFAULT_SPECS, []
    with progress("index types") as step:
        for result in measure(root, alias, specs, queries, repetitions):
            results.append(result)
            step(len(results), len(specs))
            if as_json:  # at once, because an index may take an hour to build
                print(json.dumps({**asdict(result), "machine": machine}), flush=True)
    if as_json:
        return
    sizes = ("resident MB", "own MB", "file MB", "opened s", "built s")
    header = ("index", *(f"recall@{k}" for k in KS), "p50 ms", "p99 ms", "cpu ms", *sizes)
    show_table("searches by vectors", header, [_row(result) for result in results])
    console.print(machine, style="dim", highlight=False)


def measure(root: Path, alias: str, specs: Sequence[str], queries: int, repetitions: int) -> Iterator[IndexTypeResult]:
    """Build and measure one index type after the other.

    Args:
        root: root folder of a store.
        alias: alias of the live index.
        specs: index types as embedded_spec() reads them.
        queries: number of different queries.
        repetitions: timed passes over the queries.

    Yields:
        The result of each spec, in the order of the specs.
    """
    index = EmbeddedStore(root, alias).live()
    folder = root / index.name
    index.close()
    job = {"root": str(root), "alias": alias, "queries": _queries(folder, queries).tolist(), "repetitions": repetitions}
    exact = _in_process("exact", {**job, "spec": "flat"})["ids"]
    built_specs = {spec.index_type: spec.built for spec in (embedded_spec(), embedded_spec("flat"))}
    for text in specs:
        spec = embedded_spec(text)
        path = folder / f"{spec.index_type}.faiss"
        if built_specs.setdefault(spec.index_type, spec.built) != spec.built:
            path.unlink(missing_ok=True)
            built_specs[spec.index_type] = spec.built
        built_s = None if path.is_file() else _in_process("build", {**job, "spec": text})["seconds"]
        measured = _in_process("ask", {**job, "spec": text})
        latency = summarise_ms(measured.pop("times_ms"))
        recall = {k: _recall(ids, exact, k) for k, ids in zip(KS, measured.pop("ids"), strict=True)}
        yield IndexTypeResult(text, built_s, path.stat().st_size, recall=recall, latency=latency, **measured)


def work() -> None:
    """Run one job in a subprocess: read the job from stdin, write its result to stdout."""
    job = json.load(sys.stdin)
    queries = np.array(job["queries"], dtype=np.float32)
    index = EmbeddedStore(Path(job["root"]), job["alias"], spec=embedded_spec(job["spec"])).live()
    start = time.perf_counter()

    def ids(k: int, exact: bool = False) -> list[list[str]]:
        return [[item.item_id for item in index.semantic(query, k, Filter(), exact=exact)] for query in queries]

    index.semantic(queries[0], 1, Filter())
    result: dict[str, Any]
    if job["step"] == "exact":
        result = {"ids": ids(max(KS), exact=True)}
    elif job["step"] == "build":
        index.close()
        result = {"seconds": round(time.perf_counter() - start, 1)}
    else:
        opened_s = round(time.perf_counter() - start, 2)
        times_ms, cpu_ms = _timed(lambda query: index.semantic(query, KS[0], Filter()), queries, job["repetitions"])
        used = memory()
        result = {"opened_s": opened_s, "resident_bytes": used["resident"], "own_bytes": used["own"]}
        result |= {"times_ms": times_ms, "cpu_ms": cpu_ms}
        result["ids"] = [ids(k) for k in KS]
    index.close()
    print(json.dumps(result))


def _timed(search: Callable[[Vector], Any], queries: Vector, repetitions: int) -> tuple[list[float], float]:
    """Return the milliseconds of every search, and the mean processor time of a search in milliseconds."""
    for query in queries[:WARM_UP]:
        search(query)
    times_ms, before = [], time.process_time()
    for _ in range(repetitions):
        for query in queries:
            start = time.perf_counter()
            search(query)
            times_ms.append((time.perf_counter() - start) * 1000)
    return times_ms, round((time.process_time() - before) * 1000 / len(times_ms), 3)


def _queries(folder: Path, count: int) -> Vector:
    """Return (count, D) vectors near items of the index."""
    items = ItemDatabase(folder / LOTS_FILE)
    with items.snapshot() as snapshot:
        last = int(snapshot.connection.execute("SELECT max(position) FROM lots").fetchone()[0])
    row_ids = random.Random(7).sample(range(1, last + 1), min(2 * count, last))
    vectors = np.stack([item.vector for item in items.by_row_id(row_ids).values()])[:count]
    items.close()
    noise = np.random.default_rng(7).normal(scale=NOISE / np.sqrt(vectors.shape[1]), size=vectors.shape)
    return to_unit_length((vectors + noise).astype(np.float32))


def _in_process(step: str, job: dict[str, Any]) -> Any:
    command = [sys.executable, "-c", "from benchmarks.ann.embedded_index_types import work; work()"]
    text = json.dumps({**job, "step": step})
    process = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(process.stdout)


def _recall(results: Sequence[Sequence[str]], exact: Sequence[Sequence[str]], k: int) -> float:
    recalls = [len(set(some) & set(best[:k])) / k for some, best in zip(results, exact, strict=True)]
    return round(float(np.mean(recalls)), 4)


def _row(result: IndexTypeResult) -> tuple[str, ...]:
    latency = (f"{result.latency.p50_ms:.2f}", f"{result.latency.p99_ms:.2f}", f"{result.cpu_ms:.2f}")
    sizes = (f"{size / 1e6:,.0f}" for size in (result.resident_bytes, result.own_bytes, result.file_bytes))
    built = "" if result.built_s is None else f"{result.built_s:.0f}"
    return (result.spec, *(f"{result.recall[k]:.3f}" for k in KS), *latency, *sizes, f"{result.opened_s:.1f}", built)


if __name__ == "__main__":
    typer.run(main)
