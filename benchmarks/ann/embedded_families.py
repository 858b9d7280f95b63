"""The embedded index in several families over the same lots: memory, time and recall of its searches by vectors.

python -m benchmarks.ann.embedded_families ROOT ALIAS --spec hnsw --spec hnsw_sq8 …

Every family is built from the lots by a process of its own where its file is not there yet, saved, and opened and asked by another.
A query is a lot, moved as the copies of benchmarks.speed.many_lots are. The files stay in the folder of the index.
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
from retrieval.index.port import Filter

KS = (10, 50)
WARM_UP = 50
DEFAULT_SPECS = ("hnsw:ef_search=100", "hnsw", "hnsw_sq8", "ivf_sq8", "pq:pq_m=64,rescore=4")


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """One family.

    Attributes:
        spec: as it was asked for.
        built_s: from the lots to the saved file; None where that was there.
        file_bytes: of the saved file.
        opened_s: until the first answer.
        resident_bytes: of the process after the searches, pages of mapped files that they touched included.
        own_bytes: of these, what no file stands behind.
        recall: k -> share of the exact answer.
        latency: of searches for KS[0] lots.
        cpu_ms: of the processor that such a search takes on average; other programs do not lengthen it.
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
    root: Annotated[Path, typer.Argument(help="Of a store; files of families that it has not are written there.")],
    alias: Annotated[str, typer.Argument(help="Of its index.")],
    spec: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Different ones.")] = 200,
    repetitions: Annotated[int, typer.Option(min=1, help="Of each, timed.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line a family, for scripts.")] = False,
) -> None:
    """Measure families one after the other."""
    machine, specs, results = describe_machine(), spec or DEFAULT_SPECS, []
    with progress("families") as step:
        for result in measure(root, alias, specs, queries, repetitions):
            results.append(result)
            step(len(results), len(specs))
            if as_json:  # at once, for a family may take an hour to build
                print(json.dumps({**asdict(result), "machine": machine}), flush=True)
    if as_json:
        return
    sizes = ("resident MB", "own MB", "file MB", "opened s", "built s")
    header = ("index", *(f"recall@{k}" for k in KS), "p50 ms", "p99 ms", "cpu ms", *sizes)
    show_table("searches by vectors", header, [_row(result) for result in results])
    console.print(machine, style="dim", highlight=False)


def measure(root: Path, alias: str, specs: Sequence[str], queries: int, repetitions: int) -> Iterator[FamilyResult]:
    """Build and ask one family after the other.

    Args:
        root: of a store.
        alias: of the index that is live there.
        specs: texts of embedded_spec().
        queries: how many different ones.
        repetitions: passes over them that are timed.

    Yields:
        One result a spec, in their order.
    """
    index = EmbeddedStore(root, alias).live()
    folder = root / index.name
    index.close()
    given = {"root": str(root), "alias": alias, "queries": _queries(folder, queries).tolist(), "repetitions": repetitions}
    exact = _in_process("exact", {**given, "spec": "flat"})["ids"]
    of_files = {spec.index_type: spec.built for spec in (embedded_spec(), embedded_spec("flat"))}
    for text in specs:
        spec = embedded_spec(text)
        path = folder / f"{spec.index_type}.faiss"
        if of_files.setdefault(spec.index_type, spec.built) != spec.built:
            path.unlink(missing_ok=True)
            of_files[spec.index_type] = spec.built
        built_s = None if path.is_file() else _in_process("build", {**given, "spec": text})["seconds"]
        told = _in_process("ask", {**given, "spec": text})
        latency = summarise_ms(told.pop("times_ms"))
        recall = {k: _recall(ids, exact, k) for k, ids in zip(KS, told.pop("ids"), strict=True)}
        yield FamilyResult(text, built_s, path.stat().st_size, recall=recall, latency=latency, **told)


def work() -> None:
    """What a process of its own does: reads what from stdin, writes what came of it to stdout."""
    given = json.load(sys.stdin)
    queries = np.array(given["queries"], dtype=np.float32)
    index = EmbeddedStore(Path(given["root"]), given["alias"], spec=embedded_spec(given["spec"])).live()
    start = time.perf_counter()

    def ids(k: int, exact: bool = False) -> list[list[str]]:
        return [[lot.item_id for lot in index.semantic(query, k, Filter(), exact=exact)] for query in queries]

    index.semantic(queries[0], 1, Filter())
    told: dict[str, Any]
    if given["what"] == "exact":
        told = {"ids": ids(max(KS), exact=True)}
    elif given["what"] == "build":
        index.close()
        told = {"seconds": round(time.perf_counter() - start, 1)}
    else:
        opened_s = round(time.perf_counter() - start, 2)
        times_ms, cpu_ms = _timed(lambda query: index.semantic(query, KS[0], Filter()), queries, given["repetitions"])
        used = memory()
        told = {"opened_s": opened_s, "resident_bytes": used["resident"], "own_bytes": used["own"]}
        told |= {"times_ms": times_ms, "cpu_ms": cpu_ms}
        told["ids"] = [ids(k) for k in KS]
    index.close()
    print(json.dumps(told))


def _timed(search: Callable[[Vector], Any], queries: Vector, repetitions: int) -> tuple[list[float], float]:
    """Milliseconds of every search, and of the processor on average."""
    for query in queries[:WARM_UP]:
        search(query)
    taken, before = [], time.process_time()
    for _ in range(repetitions):
        for query in queries:
            start = time.perf_counter()
            search(query)
            taken.append((time.perf_counter() - start) * 1000)
    return taken, round((time.process_time() - before) * 1000 / len(taken), 3)


def _queries(folder: Path, count: int) -> Vector:
    """(count, D) vectors near lots of the index."""
    lots = ItemDatabase(folder / LOTS_FILE)
    with lots.snapshot() as snapshot:
        last = int(snapshot.connection.execute("SELECT max(position) FROM lots").fetchone()[0])
    drawn = random.Random(7).sample(range(1, last + 1), min(2 * count, last))
    vectors = np.stack([lot.vector for lot in lots.at(drawn).values()])[:count]
    lots.close()
    noise = np.random.default_rng(7).normal(scale=NOISE / np.sqrt(vectors.shape[1]), size=vectors.shape)
    return to_unit_length((vectors + noise).astype(np.float32))


def _in_process(what: str, given: dict[str, Any]) -> Any:
    command = [sys.executable, "-c", "from benchmarks.ann.embedded_families import work; work()"]
    asked = json.dumps({**given, "what": what})
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(done.stdout)


def _recall(found: Sequence[Sequence[str]], exact: Sequence[Sequence[str]], k: int) -> float:
    shares = [len(set(some) & set(best[:k])) / k for some, best in zip(found, exact, strict=True)]
    return round(float(np.mean(shares)), 4)


def _row(result: FamilyResult) -> tuple[str, ...]:
    latency = (f"{result.latency.p50_ms:.2f}", f"{result.latency.p99_ms:.2f}", f"{result.cpu_ms:.2f}")
    sizes = (f"{size / 1e6:,.0f}" for size in (result.resident_bytes, result.own_bytes, result.file_bytes))
    built = "" if result.built_s is None else f"{result.built_s:.0f}"
    return (result.spec, *(f"{result.recall[k]:.3f}" for k in KS), *latency, *sizes, f"{result.opened_s:.1f}", built)


if __name__ == "__main__":
    typer.run(main)
