"""Latency of re-ranking: features and scores in this process, and scores through the local ranker server.

Candidates are synthetic items that an embedded index finds for random vectors. So features are as in a search: texts, prices, ranks
in both lists. The booster has random trees, as many as a training on clicks builds at most. Processor time is reported, too,
because the clock of a busy machine also measures other processes.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import psutil

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from catalog.lots import draw_lots
from catalog.questions import draw_questions
from gavel.opensearch.node import free_port
from processing.evaluation.corpus import publish_corpus
from processing.evaluation.runs import Latency, summarise_ms
from processing.reranker_endpoint.inference import BOOSTER_FILE
from retrieval.contracts.documents import IndexedItem, Vector, document_of
from retrieval.contracts.items import Item
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.port import Candidate
from retrieval.ranker.features import FEATURES, feature_matrix
from retrieval.ranker.parameters import BoosterParameters
from retrieval.ranker.port import Ranker
from retrieval.ranker.sagemaker_ranker import EndpointRanker
from retrieval.ranker.xgboost_ranker import BoosterRanker, RankingData, fit_booster

LOTS, DIMENSIONS, QUERIES = 2_000, 128, 200
ROUNDS = 300  # number of trees, the maximum of a training
TOWER_ID = "0" * 12
WARM_UP = 20
SERVER_START_S = 60.0
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Query:
    """A query with its candidates."""

    text: str
    vector: Vector
    candidates: list[Candidate]


@dataclass(frozen=True)
class RerankResult(Measurement):
    """Latencies per query in milliseconds.

    Attributes:
        candidates: number of candidates per query.
        features: latency of computing the feature matrix.
        in_process: latency of features, and of scores by the booster in this process.
        server: latency of features, and of scores through the endpoint's adapter and the ranker server.
        in_process_cpu_ms: mean processor time of `in_process`.
        server_cpu_ms: mean processor time of `server`, summed over both processes.
    """

    candidates: int
    features: Latency
    in_process: Latency
    server: Latency
    in_process_cpu_ms: float
    server_cpu_ms: float


def run_benchmark(*, candidates: int = 50, repetitions: int = 3) -> RerankResult:
    """Measure features, in-process re-ranking and the server on the same queries.

    Args:
        candidates: number of candidates per query.
        repetitions: passes over the queries.
    """
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="gavel-bench-") as scratch:
        queries = list(ask(Path(scratch) / "index", candidates))
        booster, model = trained_on_chance(), Path(scratch) / "model"
        booster.save(model / BOOSTER_FILE)
        local = BoosterRanker.load(model / BOOSTER_FILE)
        with ranker_server(model) as (endpoint, process):
            features, _ = _timed(features_of, queries, repetitions)
            in_process, in_process_cpu_ms = _timed(lambda query: _rerank(local, query), queries, repetitions)
            server, server_cpu_ms = _timed(lambda query: _rerank(endpoint, query), queries, repetitions, process)
    return RerankResult(candidates, features, in_process, server, in_process_cpu_ms, server_cpu_ms, machine=machine)


def ask(folder: Path, candidates: int) -> Iterator[Query]:
    """Yield queries over synthetic items with random vectors, and their hybrid candidates."""
    rng = np.random.default_rng(7)
    lots = draw_lots(LOTS, rng, NOW)
    vectors = rng.normal(size=(LOTS, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = EmbeddedStore(folder)
    publish_corpus(store, TOWER_ID, DIMENSIONS, (_entry(lot.item, vector) for lot, vector in zip(lots, vectors, strict=True)))
    index = store.live()
    for question in draw_questions(lots, {"train": QUERIES}, rng)["train"]:
        vector = vectors[int(rng.integers(LOTS))]
        yield Query(question.text, vector, index.hybrid(question.text, vector, candidates, Filter(now=NOW)))
    index.close()


def _entry(item: Item, vector: Vector) -> IndexedItem:
    return IndexedItem(item.item_id, item.version, document_of(item, has_image=True, tower_id=TOWER_ID, release_id="bench"), vector)


def trained_on_chance() -> BoosterRanker:
    """Train a booster of full size on random labels."""
    rng = np.random.default_rng(7)
    features = [rng.random((50, len(FEATURES)), dtype=np.float32) for _ in range(60)]
    data = RankingData(features, [rng.integers(0, 4, 50).astype(np.float32) for _ in features])
    return fit_booster(data, data, parameters=BoosterParameters(rounds=ROUNDS, early_stopping_rounds=ROUNDS))


@contextmanager
def ranker_server(model: Path) -> Iterator[tuple[EndpointRanker, psutil.Process]]:
    """Run a ranker server in a new process, and yield the adapter of its endpoint and the process."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "gavel.web.ranker_server", str(model), str(port)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    variables = {"AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": url, "AWS_DEFAULT_REGION": "eu-west-1"}
    variables |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    before = {name: os.environ.get(name) for name in variables}
    try:
        os.environ.update(variables)
        _wait_for(f"{url}/ping")
        yield EndpointRanker("bench", timeout_s=5.0), psutil.Process(server.pid)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.terminate()
        server.wait()


def features_of(query: Query) -> np.ndarray:
    """Return the feature matrix of a query, with the query's vector as the buyer's."""
    return feature_matrix(query.text, query.vector, query.candidates, NOW, query.vector)


def _rerank(ranker: Ranker, query: Query) -> np.ndarray:
    return ranker.score(features_of(query))


def _timed(
    work: Callable[[Query], object], queries: Sequence[Query], repetitions: int, helper: psutil.Process | None = None
) -> tuple[Latency, float]:
    """Return the latency, and the mean processor time in milliseconds of this process and of `helper`."""

    def cpu_s() -> float:
        return time.process_time() + (sum(helper.cpu_times()[:2]) if helper else 0.0)

    for query in queries[:WARM_UP]:
        work(query)
    times, cpu_before = [], cpu_s()
    for query in [*queries] * repetitions:
        start = time.perf_counter()
        work(query)
        times.append((time.perf_counter() - start) * 1000)
    return summarise_ms(times), round((cpu_s() - cpu_before) * 1000 / len(times), 3)


def _wait_for(url: str) -> None:
    until = time.monotonic() + SERVER_START_S
    while True:
        try:
            with urlopen(url, timeout=1):
                return
        except URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
