"""A search from the buyer's words to the ranked lots: encode, retrieve, re-rank."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from retrieval.buyers.history_store import BuyerStore, NoBuyerStore, parse_buyer_id
from retrieval.buyers.vector import AVERAGE, BuyerTower, BuyerVector, unit_vector
from retrieval.contracts.documents import Vector, visible_fields
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import EPOCH, query_text, require_id
from retrieval.deadline import Deadline, uncounted
from retrieval.errors import GavelError, InvalidQuery, TowerError, UnknownItem
from retrieval.index.filters import has_ended
from retrieval.index.port import Candidate, Filter, IndexStore
from retrieval.ranker.port import Ranker
from retrieval.search.cache import CacheUse, LruCache
from retrieval.search.candidates import FirstStage, retrieve
from retrieval.search.image_query import PhotoEncoder, PhotoQueries, no_image_branch, with_words
from retrieval.search.live_index import ActiveIndex, ActiveIndexCache, Encoder
from retrieval.search.nearest import nearest_items
from retrieval.search.pipeline import TwoStages, timed
from retrieval.search.recommendations import EXCLUDES, BuyerSearch, Exclude, KnownBuyer, PastInteraction
from retrieval.search.request import (
    MAX_INTERACTIONS,
    MAX_K,
    MAX_OFFSET,
    MAX_QUERIES,
    MAX_QUERY_CHARS,
    MODES,
    Mode,
    SearchRequest,
    check_interactions,
    check_question,
    check_request,
)
from retrieval.search.response import Explanation, SearchAnswer, SearchResult

__all__ = [
    "MAX_INTERACTIONS",
    "MAX_K",
    "MAX_OFFSET",
    "MAX_QUERIES",
    "MAX_QUERY_CHARS",
    "MODES",
    "ActiveIndex",
    "Encoder",
    "Explanation",
    "Mode",
    "SearchAnswer",
    "SearchRequest",
    "SearchResult",
    "SearchService",
    "check_request",
    "retrieve",
]

logger = logging.getLogger(__name__)

CACHED_ANSWERS = 1_000
CACHED_QUERIES_S = 3_600.0


class SearchService:
    """Answers searches over the live index of a store. Threads may share it.

    Attributes:
        query_tower: what encodes queries, full or small.
        buyers: what is known of buyers.
    """

    def __init__(
        self,
        store: IndexStore,
        load_encoder: Callable[[str], Encoder],
        load_ranker: Callable[[str], Ranker | None] = lambda tower_id: None,
        *,
        candidates: int = 50,
        tower_id: str = "",
        retrieve_timeout_s: float = 2.0,
        deadline_s: float = 5.0,
        cached_queries: int = 10_000,
        cached_answers_s: float = 0.0,
        cached_bytes: float = 64e6,
        load_image_encoder: Callable[[str], PhotoEncoder] = no_image_branch,
        load_buyer_tower: Callable[[str], BuyerTower] = lambda tower_id: AVERAGE,
        query_tower: str = "full",
        buyer_store: BuyerStore | None = None,
    ) -> None:
        """Wire a service; nothing is loaded before the first search.

        Args:
            store: where the live index stands.
            load_encoder: tower_id -> the query tower of that id.
            load_ranker: tower_id -> the re-ranker trained on that tower's candidates, or None.
            candidates: how many first-stage candidates are re-ranked.
            tower_id: the only tower to accept; empty accepts the one that the live index names.
            retrieve_timeout_s: seconds until one request to the index is given up.
            deadline_s: seconds after which a search begins no further stage, counted from when its request had arrived; loading
                a tower, the first time, is not counted.
            cached_queries: how many encoded queries are kept.
            cached_answers_s: how long an answer is kept, seconds; 0 keeps none.
            cached_bytes: what each cache may take: of encoded queries, of encoded photos, of answers.
            load_image_encoder: tower_id -> the image branch of that tower; asked when the first photo comes.
            load_buyer_tower: tower_id -> what encodes buyers with the lots of that tower; else their weighted average.
            query_tower: which query tower load_encoder loads, full or small, for who asks.
            buyer_store: where the recent acts of buyers are kept; None keeps none.
        """
        self._live = ActiveIndexCache(store, load_encoder, load_ranker, load_buyer_tower, tower_id)
        self.query_tower = query_tower
        self._deadline_s = deadline_s
        self._first_stage = FirstStage(retrieve_timeout_s)
        self._stages = TwoStages(self._first_stage, candidates)
        self.buyers = BuyerSearch(self._first_stage, buyer_store or NoBuyerStore())
        self._vectors: LruCache[Vector] = LruCache(cached_queries, CACHED_QUERIES_S, cached_bytes)
        self._answers: LruCache[SearchAnswer] = LruCache(CACHED_ANSWERS, cached_answers_s, cached_bytes)
        self._photos = PhotoQueries(load_image_encoder, cached_bytes)

    def live(self) -> ActiveIndex:
        """The live index and its models; the alias is looked at again every few seconds."""
        with uncounted():
            return self._live.get()

    def caches(self) -> Mapping[str, CacheUse]:
        """Cache -> how it does."""
        return {"embeddings": self._vectors.use(), "photos": self._photos.use(), "answers": self._answers.use()}

    def circuits(self) -> Mapping[str, str]:
        """What is asked -> whether its circuit is closed, open or half_open."""
        circuits = {**self._first_stage.circuits, "rerank": self._stages.ranker_circuit, "buyers": self.buyers.circuit}
        return {name: circuit.state for name, circuit in circuits.items()}

    def search(self, request: SearchRequest) -> SearchAnswer:
        """Find the lots for a query.

        Raises:
            InvalidQuery: query, k, offset, mode, filters or acts are out of their limits.
            TowerMismatch: the live index is of another tower than the one to accept.
            TowerError: the query cannot be encoded, and words are not to be searched by.
            FeatureMismatch: the re-ranker was trained on other features.
            IndexUnavailable: the index does not answer; IndexMissing when there is none.
        """
        return self.search_many([request])[0]

    def search_many(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Find the lots for several queries, which are encoded together; answers in the order of the requests.

        Raises:
            InvalidQuery: one of them is out of its limits; else as search().
        """
        for request in requests:
            check_request(request)
        timings: dict[str, float] = {}
        with timed(timings, "total"):
            with timed(timings, "load"):
                live = self.live()
            with timed(timings, "history") if any(request.buyer_id for request in requests) else nullcontext():
                requests, missing = self.buyers.with_histories(requests)
            kept = [self._kept(live, request) for request in requests]
            pending = [request for request, answer in zip(requests, kept, strict=True) if answer is None]
            vectors: Mapping[str, Vector] = {}
            if pending:
                self._deadline().limit(self._deadline_s)  # encode for nobody who has left
                with timed(timings, "encode"):
                    vectors = self._encoded(live, [query_text(request.query) for request in pending])
        answers = [
            self._fresh(live, request, vectors.get(query_text(request.query)), timings)
            if answer is None
            else replace(answer, cached=True, timings_ms=dict(timings))
            for request, answer in zip(requests, kept, strict=True)
        ]
        return [
            replace(answer, degraded=[*answer.degraded, "buyer"]) if request.buyer_id in missing else answer
            for request, answer in zip(requests, answers, strict=True)
        ]

    def search_image(self, photo: bytes, request: SearchRequest) -> SearchAnswer:
        """Find the lots that look like a photo, or that photo and words describe together.

        Vectors alone are searched, and the answer has the first stage's order: the re-ranker learnt from words.

        Args:
            photo: the bytes of a still JPEG, PNG or WebP.
            request: what else is asked; its query may be empty, its mode and rerank are not looked at.

        Raises:
            InvalidQuery: the request is out of its limits.
            InvalidPhoto: the photo cannot be read.
            NoImageBranch: the live tower reads no photos.
            TowerError: photo or words cannot be encoded.
            IndexUnavailable: the index does not answer; IndexMissing when there is none.
        """
        check_request(request, words_needed=False)
        asked, text = replace(request, mode="semantic", rerank=False), query_text(request.query)
        timings: dict[str, float] = {}
        with timed(timings, "total"):
            with timed(timings, "load"):
                live = self.live()
                with uncounted():
                    encoder = self._photos.encoder(live.index.tower_id)
            self._deadline().limit(self._deadline_s)
            with timed(timings, "encode"):
                vector = self._photos.vector(encoder, photo)
                words = self._encoded(live, [text]).get(text) if text else None
        if text and words is None:
            raise TowerError("the words beside the photo could not be encoded; the log says why, and the photo alone can be sent")
        return self._stages.answer(live, asked, with_words(vector, words), timings, self._deadline())

    def item(self, item_id: str) -> dict[str, Any]:
        """Return all fields of a lot that a buyer may see; its auction may have ended.

        Raises:
            InvalidQuery: the id holds half a character.
            UnknownItem: no lot has this id.
            IndexUnavailable: the index does not answer.
        """
        item_id = require_id("item_id", item_id)
        return visible_fields(self._lot(self.live(), item_id, self._deadline()).document)

    def similar(self, item_id: str, k: int = 10, filters: Filter | None = None) -> SearchAnswer:
        """The lots nearest to a lot, by its stored vector; the lot itself is left out. Its own auction may have ended.

        Raises:
            InvalidQuery: k or filters are out of their limits.
            UnknownItem: no lot has this id.
            IndexUnavailable: the index does not answer.
        """
        item_id = require_id("item_id", item_id)
        live, deadline = self.live(), self._deadline()
        vector = self._lot(live, item_id, deadline).vector
        return self._nearest(live, vector, k, filters, deadline, exclude_ids=[item_id])

    def nearest(self, numbers: Sequence[float], k: int = 10, filters: Filter | None = None) -> SearchAnswer:
        """The lots nearest to a vector of any length above 0.

        Raises:
            InvalidQuery: the vector is of another number of dimensions than the live index, or has no direction; k or filters
                are out of their limits.
            IndexUnavailable: the index does not answer.
        """
        live = self.live()
        if len(numbers) != live.index.dimensions:
            raise InvalidQuery(f"the vector has {len(numbers)} numbers; index {live.index.name} takes {live.index.dimensions}")
        return self._nearest(live, unit_vector(numbers), k, filters, self._deadline())

    def nearest_to_buyer(
        self,
        acts: Sequence[Interaction],
        k: int = 10,
        filters: Filter | None = None,
        *,
        buyer_id: str = "",
        exclude: Exclude = "acted",
    ) -> SearchAnswer:
        """The lots nearest to a buyer, by the acts given and those that are kept of them.

        Args:
            acts: what the buyer did, as far as the caller knows.
            k: how many.
            filters: which lots may come back.
            buyer_id: whose kept acts count, too; where nothing is known of a named buyer the answer's lots are popular and
                fresh ones, and its `source` says so. Empty for nobody's.
            exclude: lots that shall not come back: of any of the acts, purchased ones, or none.

        Raises:
            InvalidQuery: no lot of the acts is known, and nobody is named; or acts, id, k or filters are out of their limits.
            IndexUnavailable: the index does not answer.
        """
        check_interactions(tuple(acts))
        check_question(k, filters)
        if exclude not in EXCLUDES:
            raise InvalidQuery(f"exclude is {exclude!r}; allowed are {', '.join(EXCLUDES)}")
        buyer = KnownBuyer(acts, parse_buyer_id(buyer_id) if buyer_id else "", exclude)
        return self.buyers.retrieve(self.live(), buyer, k, filters or Filter(), self._deadline())

    def record_interactions(self, interactions: Sequence[Interaction]) -> list[str]:
        """Add interactions to the histories of their buyers; those with items that the live index does not have are left out.

        Invented ids would push real interactions out of a history. Where index or store does not answer, a warning says so.

        Returns:
            The item ids that the index does not have, each once, in the order of the interactions.
        """
        item_ids = list(dict.fromkeys(interaction.item_id for interaction in interactions))
        try:
            items = self._first_stage.fetch(self.live().index, item_ids, self._deadline())
        except GavelError as error:
            logger.warning("%d acts are in no buyer's history: %s", len(interactions), error)
            return []
        indexed = {item.item_id for item in items}
        self.buyers.keep([interaction for interaction in interactions if interaction.item_id in indexed])
        return [item_id for item_id in item_ids if item_id not in indexed]

    def history(self, buyer_id: str, limit: int = MAX_INTERACTIONS) -> list[PastInteraction]:
        """What is kept of a buyer, the latest act first, each with its lot.

        Raises:
            InvalidQuery: this is no id, or the limit is none.
            FeedbackUnavailable: the store does not answer.
            IndexUnavailable: the index does not answer.
        """
        return self.buyers.history(self.live(), buyer_id, limit, self._deadline())

    def encode_buyer(self, acts: Sequence[Interaction]) -> tuple[str, BuyerVector]:
        """The tower of the live index, and where a buyer stands in its space.

        Raises:
            InvalidQuery: no lot of the acts is known, or there are too many of them.
            IndexUnavailable: the index does not answer.
        """
        live = self.live()
        check_interactions(tuple(acts))
        return live.index.tower_id, self._first_stage.buyer(live.index, acts, live.buyer_tower, self._deadline())

    def _deadline(self) -> Deadline:
        """Return the deadline of the request that is answered here."""
        return Deadline.of_request(self._deadline_s)

    def _lot(self, live: ActiveIndex, item_id: str, deadline: Deadline) -> Candidate:
        lots = self._first_stage.fetch(live.index, [item_id], deadline)
        if not lots:
            raise UnknownItem(f"index {live.index.name} has no lot {item_id!r}; take an item_id that a search answered with")
        return lots[0]

    def _nearest(
        self, live: ActiveIndex, vector: Vector, k: int, filters: Filter | None, deadline: Deadline, exclude_ids: Sequence[str] = ()
    ) -> SearchAnswer:
        check_question(k, filters)
        return nearest_items(self._first_stage, live, vector, k, filters or Filter(), deadline, exclude_ids=exclude_ids)

    def _fresh(
        self, live: ActiveIndex, request: SearchRequest, vector: Vector | None, timings: Mapping[str, float]
    ) -> SearchAnswer:
        """An answer of this moment, kept for a while if nothing failed on its way."""
        answer = self._stages.answer(live, request, vector, timings, self._deadline())
        if not answer.degraded:
            self._answers.put(_cache_key(live, request), answer)
        return answer

    def _kept(self, live: ActiveIndex, request: SearchRequest) -> SearchAnswer | None:
        """A kept answer, unless one of its lots has ended since."""
        key = _cache_key(live, request)
        answer = self._answers.get(key)
        if answer is not None and any(has_ended(result.fields, request.filters) for result in answer.results):
            self._answers.drop(key)
            return None
        return answer

    def _encoded(self, live: ActiveIndex, texts: Sequence[str]) -> dict[str, Vector]:
        """text -> (D,) vector, of those that could be encoded; what is not kept is encoded together."""
        tower_id = live.encoder.tower_id
        kept = {text: self._vectors.get((tower_id, text)) for text in texts}
        vectors = {text: vector for text, vector in kept.items() if vector is not None}
        fresh = [text for text in kept if text not in vectors]
        if fresh:
            try:
                encoded = live.encoder.encode(fresh)  # (N, D)
            except TowerError as error:
                logger.error("searching by words alone: %s", error)
                return vectors
            for text, vector in zip(fresh, encoded, strict=True):
                vectors[text] = vector
                self._vectors.put((tower_id, text), vector.copy())  # a row would keep the whole batch
        return vectors


def _cache_key(live: ActiveIndex, request: SearchRequest) -> tuple[object, ...]:
    """Build the cache key of a request: index, tower, all fields but the moment, the cleaned query, and the id it may be."""
    timeless = replace(request, query=query_text(request.query), filters=replace(request.filters, now=EPOCH))
    return live.index.name, live.encoder.tower_id, timeless, request.exact_id
