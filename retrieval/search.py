"""A search from the buyer's words to the ranked lots: encode, retrieve, re-rank."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidQuery, RankerUnavailable, TowerMismatch
from retrieval.fuse import Fusion
from retrieval.index.base import Candidate, Filter, IndexStore, Vector, VectorIndex, cosines
from retrieval.items import MAX_PRICE, MAX_SELLER_RATING, has_half_character, query_text
from retrieval.ranker.base import Ranker
from retrieval.ranker.features import feature_matrix
from retrieval.schema import visible_fields

logger = logging.getLogger(__name__)

Mode = Literal["hybrid", "semantic", "keyword"]
MODES: tuple[Mode, ...] = get_args(Mode)
MAX_QUERY_CHARS = 512  # and so fewer words than the 1,024 clauses that OpenSearch allows a query
MAX_K = 100
LIVE_CHECK_S = 5.0  # how long a swapped alias may go unseen


class Encoder(Protocol):
    """What a search needs of a query tower."""

    @property
    def tower_id(self) -> str:
        """The tower it belongs to."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, dimensions) float32 of unit length for N texts."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a buyer asks.

    Attributes:
        query: 1 to 512 characters, as typed and as query_text() writes it.
        k: how many lots to answer with, 1 to 100.
        mode: which retrievers look: both, vectors alone, words alone.
        where: which lots may come back.
        rerank: False keeps the first stage's order.
        fusion: how a hybrid search fuses its two lists; None as was tuned for the tower.
    """

    query: str
    k: int = 10
    mode: Mode = "hybrid"
    where: Filter = field(default_factory=Filter)
    rerank: bool = True
    fusion: Fusion | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One lot of an answer.

    Attributes:
        rank: place, from 1.
        item_id: its id.
        score: what it was ordered by: the re-ranker's score, or the first stage's.
        similarity: cosine of query and lot in [-1, 1].
        fields: what a buyer may see of the lot; times in ms since 1970.
    """

    rank: int
    item_id: str
    score: float
    similarity: float
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The ranked lots and how they came about.

    Attributes:
        results: at most k, best first.
        tower_id: the tower that encoded query and lots.
        mode: as asked.
        reranked: whether the re-ranker gave the order.
        degraded: stages that failed and were done without, such as "rerank".
        timings_ms: stage -> milliseconds: load (of index and models, the first time), encode, retrieve, rerank, total.
    """

    results: Sequence[SearchResult]
    tower_id: str
    mode: Mode
    reranked: bool
    degraded: Sequence[str]
    timings_ms: Mapping[str, float]


class _UnusableRanker:
    """Stands for a re-ranker that is there but could not be loaded, so that every answer says that it was done without."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RankerUnavailable(self._reason)


@dataclass(frozen=True, slots=True)
class _Live:
    """The live index with the models that belong to its tower."""

    index: VectorIndex
    encoder: Encoder
    ranker: Ranker | None
    checked_at: float


class SearchService:
    """Answers searches over the live index of a store."""

    def __init__(
        self,
        store: IndexStore,
        load_encoder: Callable[[str], Encoder],
        load_ranker: Callable[[str], Ranker | None] = lambda tower_id: None,
        *,
        candidates: int = 50,
        tower_id: str = "",
    ) -> None:
        """Wire a service; nothing is loaded before the first search.

        Args:
            store: where the live index stands.
            load_encoder: tower_id -> the query tower of that id.
            load_ranker: tower_id -> the re-ranker trained on that tower's candidates, or None.
            candidates: how many first-stage candidates are re-ranked.
            tower_id: the only tower to accept; empty accepts the one that the live index names.
        """
        self._store = store
        self._load_encoder = load_encoder
        self._load_ranker = load_ranker
        self._candidates = candidates
        self._pinned_tower = tower_id
        self._live: _Live | None = None
        self._lock = threading.Lock()

    def search(self, request: SearchRequest) -> SearchAnswer:
        """Find the lots for a query.

        Raises:
            InvalidQuery: query, k, mode or filters are out of their limits.
            TowerMismatch: the live index is of another tower than the one to accept.
            FeatureMismatch: the re-ranker was trained on other features.
            IndexUnavailable: the index does not answer; IndexMissing when there is none.
        """
        check_request(request)
        timings: dict[str, float] = {}
        degraded: list[str] = []
        with _timed(timings, "total"):
            with _timed(timings, "load"):
                live = self.live()
            with _timed(timings, "encode"):
                vector = live.encoder.encode([query_text(request.query)])[0]  # (D,)
            with _timed(timings, "retrieve"):
                candidates = retrieve(live.index, request, vector, max(self._candidates, request.k))
            scores = None
            if live.ranker is not None and request.rerank and candidates:
                with _timed(timings, "rerank"):
                    scores = _rerank_scores(live.ranker, request, vector, candidates, degraded)
        return SearchAnswer(
            results=_results(candidates, scores, vector, request.k),
            tower_id=live.index.tower_id,
            mode=request.mode,
            reranked=scores is not None,
            degraded=degraded,
            timings_ms=timings,
        )

    def live(self) -> _Live:
        """The live index and its models; the alias is looked at again every few seconds."""
        with self._lock:
            now = time.monotonic()
            if self._live is None or now - self._live.checked_at > LIVE_CHECK_S:
                index = self._store.live()
                if self._live is not None and self._live.index.name == index.name:
                    self._live = replace(self._live, index=index, checked_at=now)
                else:
                    self._live = self._open(index, now)
            return self._live

    def _open(self, index: VectorIndex, now: float) -> _Live:
        encoder = self._load_encoder(self._pinned_tower or index.tower_id)
        if encoder.tower_id != index.tower_id:
            raise TowerMismatch(
                f"index {index.name!r} was built with tower {index.tower_id}, the query with {encoder.tower_id}; "
                f"load tower {index.tower_id} or rebuild the index with `gavel embed` and `gavel index`"
            )
        try:
            ranker = self._load_ranker(index.tower_id)
        except RankerUnavailable as error:
            ranker = _UnusableRanker(str(error))
        return _Live(index, encoder, ranker, now)


def check_request(request: SearchRequest) -> None:
    """Hold a request against its limits.

    Raises:
        InvalidQuery: the message names the value and the limit.
    """
    where = request.where
    if any(has_half_character(text) for text in (request.query, where.category or "", where.brand or "")):
        raise InvalidQuery("query, category or brand holds half a character (a lone surrogate); send valid UTF-8")
    text = request.query if len(request.query) > MAX_QUERY_CHARS else query_text(request.query)  # which writes ligatures out
    if not text:
        raise InvalidQuery("the query is empty; type at least one word")
    if len(text) > MAX_QUERY_CHARS:
        raise InvalidQuery(f"the query has {len(text)} characters, at most {MAX_QUERY_CHARS} are allowed; shorten it")
    if not 1 <= request.k <= MAX_K:
        raise InvalidQuery(f"k is {request.k}; allowed are 1 to {MAX_K}")
    if request.mode not in MODES:
        raise InvalidQuery(f"mode is {request.mode!r}; allowed are {', '.join(MODES)}")
    for name, most in (("min_price", MAX_PRICE), ("max_price", MAX_PRICE), ("min_seller_rating", MAX_SELLER_RATING)):
        bound = getattr(where, name)
        if bound is not None and not 0 <= bound <= most:
            raise InvalidQuery(f"{name} is {bound}; allowed are numbers from 0 to {most:.15g}")
    if where.min_price is not None and where.max_price is not None and where.min_price > where.max_price:
        raise InvalidQuery(f"min_price {where.min_price:g} is above max_price {where.max_price:g}; swap them")


def retrieve(index: VectorIndex, request: SearchRequest, vector: Vector, k: int) -> list[Candidate]:
    """The first stage: k candidates by the request's mode."""
    text = query_text(request.query)
    match request.mode:
        case "semantic":
            return index.semantic(vector, k, request.where)
        case "keyword":
            return index.keyword(text, k, request.where)
        case _:
            return index.hybrid(text, vector, k, request.where, request.fusion)


def _rerank_scores(
    ranker: Ranker, request: SearchRequest, vector: Vector, candidates: Sequence[Candidate], degraded: list[str]
) -> NDArray[np.float32] | None:
    """The re-ranker's scores, or None with a word in `degraded` when it fails."""
    try:
        return ranker.score(feature_matrix(request.query, vector, candidates, request.where.now))
    except RankerUnavailable as error:
        logger.warning("answered without the re-ranker: %s", error)
        degraded.append("rerank")
        return None


def _results(candidates: Sequence[Candidate], scores: NDArray[np.float32] | None, vector: Vector, k: int) -> list[SearchResult]:
    """Candidates in the re-ranker's order; equal scores keep the first stage's."""
    ordered = [(c, c.score) for c in candidates[:k]]
    if scores is not None:
        ordered = [(candidates[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]
    similarities = cosines(vector, [c for c, _ in ordered])
    return [
        SearchResult(rank, c.item_id, score, similarity, visible_fields(c.document))
        for rank, ((c, score), similarity) in enumerate(zip(ordered, similarities, strict=True), 1)
    ]


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[stage] = round((time.perf_counter() - start) * 1000, 3)
