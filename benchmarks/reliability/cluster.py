"""Compare a cluster of OpenSearch nodes with one unsharded exact index, and kill its nodes under load.

python -m benchmarks.reliability.cluster

Three nodes are started in a temporary folder, and lots are indexed in three shards with one replica. The cluster and an embedded
index with exact search answer the same questions. Then threads search and write, connected to all nodes. Meanwhile first the
cluster manager and then another node is killed with SIGKILL and started again. Every answer is compared with the correct answer.
"""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from benchmarks.reliability.cluster_items import TOWER, K, Question, ask, fill, ids, make_lots
from benchmarks.reliability.cluster_load import Load, PhaseResult, Writes, fault, recall_of
from gavel.opensearch.cluster import find_cluster, start_cluster, stop_cluster, urls_of
from gavel.workspace.console import console, notes, show_table
from gavel.workspace.entry import run_command
from gavel.workspace.options import Json, print_json
from retrieval.config.settings import Settings
from retrieval.contracts.documents import IndexedItem
from retrieval.errors import IndexUnavailable
from retrieval.index.opensearch.client import connect
from retrieval.index.opensearch.store import OpenSearchIndex, OpenSearchStore

SHARDS, REPLICAS = 3, 1
NODES, THREADS = 3, 4
VICTIMS = ("cluster manager", "another node")
GREEN_S, POLL_S = 180.0, 0.3


@dataclass(frozen=True)
class ClusterResult(Measurement):
    """Agreement with the exact index, and searches and writes around killed nodes.

    Attributes:
        lots: number of indexed lots.
        questions: number of different questions.
        exact: number of exact searches by vector with the correct ids in the correct order.
        by_words: number of searches by words with the correct ids in the correct order.
        sound: number of approximate searches without a forbidden lot, a wrong score, a wrong order or too few lots.
        recall: mean recall of approximate searches against exact searches.
        phases: "before", "killed" (a node is down), "returning" (the node starts and recovers its shards) or "after" -> searches.
        written: number of lots whose writes were acknowledged while nodes were killed.
        writes_failed: errors of writes that were not acknowledged.
        lost: number of acknowledged lots that are missing at the end.
    """

    lots: int
    questions: int
    exact: int
    by_words: int
    sound: int
    recall: float
    phases: dict[str, PhaseResult]
    written: int
    writes_failed: list[str]
    lost: int

    def to_dict(self) -> dict[str, Any]:
        """Return all fields for JSON, with a summary of each phase."""
        return {**super().to_dict(), "phases": {phase: result.to_dict() for phase, result in self.phases.items()}}


def run_benchmark(
    folder: Path,
    *,
    lots: int = 20_000,
    dimensions: int = 128,
    questions: int = 600,
    seconds: float = 10.0,
    victims: Sequence[str] = VICTIMS,
    heap: str = "512m",
    on_phase: Callable[[str], None] = lambda phase: None,
) -> ClusterResult:
    """Start a cluster, compare it with exact search, and kill nodes.

    Args:
        folder: empty folder. The nodes are stopped at the end; their data stays in the folder.
        lots: number of lots.
        dimensions: length of the lots' vectors.
        questions: number of questions, a sixth of them without a filter.
        seconds: seconds of load before the first kill, while each node is down, and after the last kill.
        victims: names of VICTIMS, killed one after the other.
        heap: memory of each node, such as "512m".
        on_phase: called with the name of each phase as it begins.
    """
    machine = describe_machine()
    try:
        on_phase("start three nodes")
        url = urls_of(start_cluster(folder / "cluster", NODES, None, heap=heap))
        on_phase("index")
        entries = make_lots(lots, dimensions)
        answered = ask(folder / "exact", entries, questions)
        store = OpenSearchStore(url, "lots", timeout_s=60, shards=SHARDS, replicas=REPLICAS)
        index = fill(store.create(TOWER, dimensions), entries)
        assert isinstance(index, OpenSearchIndex)
        store.publish(index.name)
        wait_until_green(url)
        on_phase("compare")
        items = {entry.item_id: entry for entry in entries}
        agreed = _compare(index, answered, items)
        written_index = OpenSearchStore(url, "written", shards=SHARDS, replicas=REPLICAS).create(TOWER, dimensions)
        load = Load(url, "lots", answered, items, threads=THREADS, seconds=Settings().request_timeout_s)
        with load, Writes(written_index, entries) as writes:
            time.sleep(seconds)
            for victim in victims:
                _lose(victim, folder / "cluster", load, seconds, heap, on_phase)
            load.phase = "after"
            time.sleep(seconds)
        lost = writes.lost()
        return ClusterResult(
            lots, questions, *agreed, dict(load.phases), len(writes.acknowledged), writes.failed, lost, machine=machine
        )
    finally:
        stop_cluster(folder / "cluster")


def _compare(index: OpenSearchIndex, questions: Sequence[Question], items: dict[str, IndexedItem]) -> tuple[int, int, int, float]:
    """Return the numbers of correct exact, keyword and approximate answers, and the mean recall of the approximate answers."""
    exact = sum(ids(index.semantic(q.vector, K, q.filters, exact=True)) == q.nearest for q in questions)
    by_words = sum(ids(index.keyword(q.text, K, q.filters)) == q.by_words for q in questions)
    near = [index.semantic(q.vector, K, q.filters) for q in questions]
    sound = sum(not fault(q, candidates, items) for q, candidates in zip(questions, near, strict=True))
    recall = float(np.mean([recall_of(q, candidates) for q, candidates in zip(questions, near, strict=True)]))
    return exact, by_words, sound, round(recall, 4)


def _lose(victim: str, cluster: Path, load: Load, seconds: float, heap: str, on_phase: Callable[[str], None]) -> None:
    """Kill a node under load, start it again after `seconds`, and wait until every shard has its copies."""
    nodes = find_cluster(cluster)
    url = urls_of(nodes)
    with connect(url, 30) as client:
        manager = client.cat.cluster_manager(params={"format": "json"})[0]["node"]
    node = next(node for node in nodes if (f"gavel-{node.port}" == manager) == (victim == VICTIMS[0]))
    on_phase(f"kill {victim}")
    load.phase = "killed"
    os.kill(node.pid, signal.SIGKILL)
    time.sleep(seconds)
    on_phase("start it again")
    load.phase = "returning"
    start_cluster(cluster, NODES, None, heap=heap)
    wait_until_green(url)


def wait_until_green(url: str) -> None:
    """Wait until every shard has all its copies.

    Raises:
        IndexUnavailable: the cluster is not green in time.
    """
    deadline = time.monotonic() + GREEN_S
    with connect(url, 30) as client:
        while (health := _health(client)) != ("green", NODES):
            if time.monotonic() > deadline:
                raise IndexUnavailable(f"the cluster at {url} is {health[0]} with {health[1]} nodes")
            time.sleep(POLL_S)


def _health(client: OpenSearch) -> tuple[str, int]:
    """Return colour and number of nodes, or an error's name and 0: while a cluster manager is elected, no node may answer."""
    try:
        health = client.cluster.health()
    except OpenSearchException as error:
        return type(error).__name__, 0
    return health["status"], int(health["number_of_nodes"])


def main(
    lots: Annotated[int, typer.Option(min=100, help="Number of lots.")] = 20_000,
    dimensions: Annotated[int, typer.Option(min=8, help="Length of the lots' vectors.")] = 128,
    questions: Annotated[int, typer.Option(min=6, help="Number of different questions, with and without filters.")] = 600,
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds of load before a kill, while a node is down, and after.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Compare a cluster with an exact index, kill its nodes under load, and print the result."""
    with tempfile.TemporaryDirectory(prefix="gavel-cluster-") as folder:
        result = run_benchmark(
            Path(folder),
            lots=lots,
            dimensions=dimensions,
            questions=questions,
            seconds=seconds,
            on_phase=lambda phase: notes.print(phase, style="dim"),
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        (
            phase,
            *(str(n) for n in (searches.answers, len(searches.failed), len(searches.wrong))),
            f"{searches.latency.p50_ms:.1f}",
            f"{searches.latency.p99_ms:.1f}",
            f"{max(searches.ms):.0f}",
        )
        for phase, searches in result.phases.items()
    ]
    show_table(
        f"{lots:,} lots, {NODES} nodes, {SHARDS} shards, {REPLICAS} replica, {THREADS} threads",
        ("", "answers", "failed", "wrong", "p50 ms", "p99 ms", "longest"),
        rows,
    )
    right = f"{result.exact} exact, {result.by_words} by words"
    console.print(f"of {result.questions} questions, answered as by the unsharded exact index: {right}", highlight=False)
    writes = f"{result.written} lots written meanwhile, {len(result.writes_failed)} writes failed, {result.lost} lots lost"
    console.print(f"HNSW recall@{K} {result.recall:.4f}; {writes}", highlight=False)
    console.print(result.machine, style="dim", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(lambda: typer.run(main), "benchmarks.reliability.cluster")
