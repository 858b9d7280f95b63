"""What it takes to go from a buyer's acts to lots over HTTP: `POST /encode_buyer`, then `POST /retrieve` with the vector.

Beside it the bare vector search: the same vectors and as many lots, asked of plain faiss on the graph that the index saved.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from gavel.web.http_server import served_in_thread
from lambdas.query_api.app import create_app
from processing.evaluation.runs import Counter, Latency, Progress, summarise_ms
from retrieval.buyers.attention import Attention
from retrieval.buyers.vector import BuyerTower
from retrieval.contracts.events import EVENT_TYPES
from retrieval.errors import GavelError, TowerError
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.port import IndexStore, utc_now
from retrieval.search.service import MAX_INTERACTIONS, SearchService

K = 10
WARM_UP = 20
GRAPH_FILE = "hnsw.faiss"
Act = dict[str, str]
_Ask = Callable[[str, Mapping[str, Any]], Any]  # path and body -> the answer


@dataclass(frozen=True, slots=True)
class BuyerPathResult:
    """Milliseconds a buyer.

    Attributes:
        index: physical name.
        lots: in the index.
        dimensions: of the vectors.
        acts: mean number of acts a buyer.
        encode_buyer: `POST /encode_buyer`, with all acts.
        retrieve: `POST /retrieve` with the vector.
        both: the two, one after the other.
        in_one: `POST /retrieve` with the acts, which does both.
        bare: plain faiss for the same vector.
        machine: what it ran on, and the load before.
    """

    index: str
    lots: int
    dimensions: int
    acts: float
    encode_buyer: Latency
    retrieve: Latency
    both: Latency
    in_one: Latency
    bare: Latency
    machine: str

    def to_dict(self) -> dict[str, object]:
        """As JSON can write it."""
        return {**asdict(self), "overhead": round(self.both.p50_ms / self.bare.p50_ms, 1)}


class _NoEncoder:
    """Stands for a query tower where no words are asked."""

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
        store: what is measured.
        folder: of the store, where its indices lie.
        buyer_tower: encodes buyers.
        item_ids: of the lots in the index.
        buyers: how many different ones; a buyer has 1 to 200 acts, few of them many.
        repetitions: passes over them.
        seed: of the histories.
        progress: called with (buyers done, buyers in all).
    """
    machine = describe_machine()
    service = SearchService(
        store, _NoEncoder, load_buyer_tower=lambda _: buyer_tower, retrieve_timeout_s=60, deadline_s=120, cached_answers_s=0
    )
    index = service.live().index
    plain: Any = faiss.read_index(str(folder / index.name / GRAPH_FILE))
    histories = draw_histories(item_ids, buyers, seed)
    times: dict[str, list[float]] = {name: [] for name in ("encode_buyer", "retrieve", "both", "in_one", "bare")}
    with served_in_thread(create_app(lambda: service)) as url, _connected(url) as ask:
        for acts in histories[:WARM_UP]:
            _one_buyer(ask, acts, plain)
        count = Counter(repetitions * buyers, progress)
        for acts in histories * repetitions:
            for name, taken in _one_buyer(ask, acts, plain).items():
                times[name].append(taken)
            count.tick()
    shown = {name: summarise_ms(taken) for name, taken in times.items()}
    mean = sum(map(len, histories)) / len(histories)
    return BuyerPathResult(index.name, index.count(), index.dimensions, round(mean, 1), **shown, machine=machine)


def random_attention(dimensions: int, heads: int, seed: int = 7) -> Attention:
    """A buyer tower that takes as long as a trained one, of random weights."""
    rng = np.random.default_rng(seed)
    blend = rng.normal(scale=0.1, size=(dimensions, heads * dimensions))
    return Attention(rng.normal(size=(heads, dimensions)), np.ones(heads), np.ones(heads), blend, np.zeros(dimensions), 60.0)


def draw_histories(item_ids: Sequence[str], buyers: int, seed: int = 7) -> list[list[Act]]:
    """What buyers did, as the API takes it: 1 to 200 acts on lots drawn at random, in the course of a month.

    Args:
        item_ids: of the lots that there are.
        buyers: how many.
        seed: of the draw.
    """
    rng, now = np.random.default_rng(seed), utc_now()
    kinds = EVENT_TYPES

    def act() -> Act:
        moment = now - timedelta(minutes=int(rng.integers(1, 43_200)))
        return {
            "item_id": item_ids[rng.integers(len(item_ids))],
            "event_type": kinds[rng.integers(len(kinds))],
            "timestamp": moment.isoformat(),
        }

    lengths = np.clip(rng.lognormal(np.log(12), 1.2, buyers), 1, MAX_INTERACTIONS).astype(int)
    return [[act() for _ in range(length)] for length in lengths]


def _one_buyer(ask: _Ask, acts: Sequence[Act], plain: Any) -> dict[str, float]:
    """Milliseconds of every way to answer one buyer."""
    encode_ms, encoded = _timed(lambda: ask("/encode_buyer", {"events": acts}))
    retrieve_ms, _ = _timed(lambda: ask("/retrieve", {"vector": encoded["vector"], "k": K}))
    in_one_ms, _ = _timed(lambda: ask("/retrieve", {"recent_interactions": acts, "k": K}))
    vector: NDArray[np.float32] = np.array([encoded["vector"]], dtype=np.float32)  # (1, D)
    parameters = faiss.SearchParametersHNSW(efSearch=embedded_spec().ef_search_for(plain.ntotal))
    bare_ms, _ = _timed(lambda: plain.search(vector, K, params=parameters))
    both = encode_ms + retrieve_ms
    return {"encode_buyer": encode_ms, "retrieve": retrieve_ms, "both": both, "in_one": in_one_ms, "bare": bare_ms}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = work()
    return (time.perf_counter() - start) * 1000, made


@contextmanager
def _connected(url: str) -> Iterator[_Ask]:
    """What posts JSON over one connection that stays open, and reads the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def ask(path: str, body: Mapping[str, Any]) -> Any:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        if answer.status != http.client.OK:
            raise GavelError(f"POST {path} was answered with {answer.status}: {told}")
        return told

    try:
        yield ask
    finally:
        connection.close()
