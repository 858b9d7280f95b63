"""Latency from a buyer's interactions to items over HTTP: `POST /encode_buyer`, then `POST /retrieve` with the vector.

For comparison, plain faiss searches the index's own graph for the same vectors and the same number of items.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from gavel.web.http_server import served_in_thread
from lambdas.query_api.app import create_app
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.buyers.attention import Attention
from retrieval.buyers.vector import BuyerTower
from retrieval.contracts.events import EVENT_TYPES
from retrieval.errors import GavelError, TowerError
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.filters import utc_now
from retrieval.index.port import IndexStore
from retrieval.progress import Progress, ProgressCounter
from retrieval.search.context import UNHURRIED
from retrieval.search.service import MAX_INTERACTIONS, SearchModels, SearchService

K = 10
WARM_UP = 20
GRAPH_FILE = "hnsw.faiss"
Interaction = dict[str, str]
_Post = Callable[[str, Mapping[str, Any]], Any]  # path and body -> answer


@dataclass(frozen=True)
class BuyerPathResult(Measurement):
    """Latencies per buyer in milliseconds.

    Attributes:
        index: physical name of the index.
        lots: number of items in the index.
        dimensions: length of the vectors.
        mean_interactions: mean number of interactions per buyer.
        encode_buyer: latency of `POST /encode_buyer` with all interactions.
        retrieve: latency of `POST /retrieve` with the vector.
        both: sum of the two latencies for each buyer.
        in_one: latency of `POST /retrieve` with the interactions, which does both.
        bare: latency of plain faiss for the same vector.
    """

    index: str
    lots: int
    dimensions: int
    mean_interactions: float
    encode_buyer: Latency
    retrieve: Latency
    both: Latency
    in_one: Latency
    bare: Latency
    derived: ClassVar = ("overhead",)

    @property
    def overhead(self) -> float:
        """Median latency of both requests divided by the median latency of plain faiss."""
        return round(self.both.p50_ms / self.bare.p50_ms, 1)


class _NoEncoder:
    """A query tower for a service without text queries."""

    def __init__(self, tower_id: str) -> None:
        self.tower_id = tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise TowerError("no words are encoded here")


def run_benchmark(
    store: IndexStore,
    folder: Path,
    buyer_tower: BuyerTower,
    item_ids: Sequence[str],
    *,
    buyers: int = 300,
    repetitions: int = 3,
    seed: int = 7,
    progress: Progress | None = None,
) -> BuyerPathResult:
    """Measure the live embedded index of a store, with requests one after the other.

    Args:
        store: store of the index.
        folder: folder with the store's indices.
        buyer_tower: tower that encodes buyers.
        item_ids: ids of the items in the index.
        buyers: number of different buyers. Each has 1 to 200 interactions; most buyers have few.
        repetitions: passes over the buyers.
        seed: seed of the random histories.
        progress: called with (buyers done, buyers in all).
    """
    machine = describe_machine()
    service = SearchService(
        store,
        SearchModels(_NoEncoder, load_buyer_tower=lambda _: buyer_tower),
        replace(UNHURRIED, cached_queries=0),  # buyers are repeated
    )
    index = service.live().index
    plain: Any = faiss.read_index(str(folder / index.name / GRAPH_FILE))
    histories = draw_histories(item_ids, buyers, seed)
    times: dict[str, list[float]] = {name: [] for name in ("encode_buyer", "retrieve", "both", "in_one", "bare")}
    with served_in_thread(create_app(lambda: service)) as url, _connect(url) as post:
        for interactions in histories[:WARM_UP]:
            _time_buyer(post, interactions, plain)
        count = ProgressCounter(repetitions * buyers, progress)
        for interactions in histories * repetitions:
            for name, milliseconds in _time_buyer(post, interactions, plain).items():
                times[name].append(milliseconds)
            count.tick()
    latencies = {name: summarise_ms(milliseconds) for name, milliseconds in times.items()}
    mean = sum(map(len, histories)) / len(histories)
    return BuyerPathResult(index.name, index.count(), index.dimensions, round(mean, 1), *latencies.values(), machine=machine)


def random_attention(dimensions: int, heads: int, seed: int = 7) -> Attention:
    """Return a buyer tower with random weights, as slow as a trained one."""
    rng = np.random.default_rng(seed)
    blend = rng.normal(scale=0.1, size=(dimensions, heads * dimensions))
    return Attention(rng.normal(size=(heads, dimensions)), np.ones(heads), np.ones(heads), blend, np.zeros(dimensions), 60.0)


def draw_histories(item_ids: Sequence[str], buyers: int, seed: int = 7) -> list[list[Interaction]]:
    """Return random histories in the API's form: 1 to 200 interactions of the last 30 days each.

    Args:
        item_ids: ids of all items.
        buyers: number of histories.
        seed: seed of the random histories.
    """
    rng, now = np.random.default_rng(seed), utc_now()
    kinds = EVENT_TYPES

    def interaction() -> Interaction:
        moment = now - timedelta(minutes=int(rng.integers(1, 43_200)))
        return {
            "item_id": item_ids[int(rng.integers(len(item_ids)))],
            "event_type": kinds[int(rng.integers(len(kinds)))],
            "timestamp": moment.isoformat(),
        }

    lengths = np.clip(rng.lognormal(np.log(12), 1.2, buyers), 1, MAX_INTERACTIONS).astype(int)
    return [[interaction() for _ in range(length)] for length in lengths]


def _time_buyer(post: _Post, interactions: Sequence[Interaction], plain: Any) -> dict[str, float]:
    """Return the milliseconds of every request for one buyer, and of plain faiss."""
    encode_ms, encoded = _timed(lambda: post("/encode_buyer", {"events": interactions}))
    retrieve_ms, _ = _timed(lambda: post("/retrieve", {"vector": encoded["vector"], "k": K}))
    in_one_ms, _ = _timed(lambda: post("/retrieve", {"recent_interactions": interactions, "k": K}))
    vector: NDArray[np.float32] = np.array([encoded["vector"]], dtype=np.float32)  # (1, D)
    parameters = vars(faiss)["SearchParametersHNSW"](efSearch=embedded_spec().ef_search_for(plain.ntotal))
    bare_ms, _ = _timed(lambda: plain.search(vector, K, params=parameters))
    both = encode_ms + retrieve_ms
    return {"encode_buyer": encode_ms, "retrieve": retrieve_ms, "both": both, "in_one": in_one_ms, "bare": bare_ms}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1000, result


@contextmanager
def _connect(url: str) -> Iterator[_Post]:
    """Yield a function that posts JSON over one open connection and returns the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def post(path: str, body: Mapping[str, Any]) -> Any:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != http.client.OK:
            raise GavelError(f"POST {path} was answered with {response.status}: {answer}")
        return answer

    try:
        yield post
    finally:
        connection.close()
