"""The search service: encodes queries, retrieves candidates, re-ranks them, and caches query vectors and answers."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from retrieval.buyers.history_store import BuyerStore, NoBuyerStore, parse_buyer_id
from retrieval.buyers.vector import BuyerVector, unit_vector
from retrieval.contracts.documents import IndexedItem, UpsertReport, Vector, visible_fields
from retrieval.contracts.events import Interaction
from retrieval.contracts.item_states import ItemState
from retrieval.contracts.items import EPOCH, query_text, require_id
from retrieval.deadline import uncounted
from retrieval.errors import GavelError, InvalidQuery, NoQueryEncoder, TowerError, TowerMismatch, UnknownItem
from retrieval.index.filters import Filter, is_closed
from retrieval.index.port import Candidate, IndexStore
from retrieval.search.cache import CacheUse, LruCache
from retrieval.search.candidates import fetch_items, retrieve
from retrieval.search.context import SearchContext, SearchLimits, new_circuits
from retrieval.search.image_query import PhotoQueries, with_words
from retrieval.search.live_index import ActiveIndex, ActiveIndexCache, Encoder, SearchModels
from retrieval.search.pipeline import answer_request
from retrieval.search.recommendations import (
    EXCLUDES,
    BuyerEncoding,
    BuyerProfile,
    BuyerSearch,
    Exclude,
    PastInteraction,
    RankingOptions,
    nearest_items,
)
from retrieval.search.request import (
    MAX_INTERACTIONS,
    MAX_K,
    MAX_OFFSET,
    MAX_QUERIES,
    MAX_QUERY_CHARS,
    MODES,
    Mode,
    SearchRequest,
    check_filters,
    check_interactions,
    check_page,
    check_query,
    check_request,
)
from retrieval.search.response import Explanation, SearchAnswer, SearchResult
from retrieval.spans import start_span

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
    "RankingOptions",
    "SearchAnswer",
    "SearchLimits",
    "SearchModels",
    "SearchRequest",
    "SearchResult",
    "SearchService",
    "check_request",
    "retrieve",
]

logger = logging.getLogger(__name__)

CACHED_ANSWERS = 1_000
CACHED_QUERIES_S = 3_600.0
CACHED_BUYERS_S = 60.0  # maximum delay until the new vector of an item changes those of its buyers


class SearchService:
    """The search over the active index of a store. Threads may share it.

    Attributes:
        query_tower: kind of the query encoder, `full` or `small`.
        buyers: search for buyers, with their histories.
    """

    def __init__(
        self,
        store: IndexStore,
        models: SearchModels,
        limits: SearchLimits = SearchLimits(),  # noqa: B008  # frozen
        buyer_store: BuyerStore | None = None,
    ) -> None:
        """Prepare the service; nothing is loaded before the first search.

        Args:
            store: store of the indices.
            models: loaders of the models of a tower.
            limits: limits of this service.
            buyer_store: store of buyers' recent interactions; None stores none.
        """
        self._limits, self.query_tower = limits, models.query_tower
        self._active = ActiveIndexCache(store, models)
        self._circuits = new_circuits()
        self.buyers = BuyerSearch(buyer_store or NoBuyerStore(), self._circuits["buyers"])
        self._vectors: LruCache[Vector] = LruCache(limits.cached_queries, CACHED_QUERIES_S, limits.cached_bytes)
        self._answers: LruCache[SearchAnswer] = LruCache(CACHED_ANSWERS, limits.cached_answers_s, limits.cached_bytes)
        self._buyer_vectors: LruCache[BuyerVector] = LruCache(limits.cached_queries, CACHED_BUYERS_S, limits.cached_bytes)
        self._photos = PhotoQueries(models.load_image_encoder, limits.cached_bytes)

    def live(self) -> ActiveIndex:
        """Return the active index and its models; the alias is read again every few seconds."""
        with uncounted():
            return self._active.get()

    def caches(self) -> Mapping[str, CacheUse]:
        """Return name of each cache -> its counts."""
        return {
            "embeddings": self._vectors.use(),
            "photos": self._photos.use(),
            "buyers": self._buyer_vectors.use(),
            "answers": self._answers.use(),
        }

    def circuits(self) -> Mapping[str, str]:
        """Return component -> state of its circuit: `closed`, `open` or `half_open`."""
        return {name: circuit.state for name, circuit in self._circuits.items()}

    def search(self, request: SearchRequest) -> SearchAnswer:
        """Find the items for a query.

        Raises:
            InvalidQuery: a value of the request is not allowed.
            TowerMismatch: the active index is not of the tower that the service must use.
            TowerError: the query cannot be encoded, and the mode is semantic.
            FeatureMismatch: the re-ranker was trained on other features.
            IndexUnavailable: the index does not answer; IndexMissing if there is none.
        """
        return self.search_many([request])[0]

    def search_many(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Find the items for several queries, which are encoded together; return the answers in the order of the requests.

        Raises:
            InvalidQuery: a value of a request is not allowed. Other errors are those of search().
        """
        for request in requests:
            check_request(request)
        requests = [replace(request, filters=_at_this_moment(request.filters)) for request in requests]
        started = time.perf_counter()
        with start_span("load"):
            context = self._context()
        context.record("load", started)
        missing_histories: set[str] = set()
        if any(request.buyer_id for request in requests):
            with context.timed("history"):
                requests, missing_histories = self.buyers.with_histories(requests)
        keys = [self._cache_key(context.active, request) for request in requests]  # before the search: a later state has another
        cached = [self._cached_answer(context.active, *pair) for pair in zip(keys, requests, strict=True)]
        pending = [query_text(request.query) for request, answer in zip(requests, cached, strict=True) if answer is None]
        vectors: Mapping[str, Vector] = {}
        if pending:
            context.deadline.limit(self._limits.deadline_s)  # encode nothing for a client that has hung up
            with context.timed("encode"):
                vectors = self._encode(context.active.encoder, pending)
        context.record("total", started)
        answers = []
        for key, request, answer in zip(keys, requests, cached, strict=True):
            if answer is None:
                answer = answer_request(context.branch(), request, vectors.get(query_text(request.query)))
                if not answer.failed_components:
                    self._answers.put(key, answer)
            else:
                answer = replace(answer, cached=True, timings_ms=dict(context.timings_ms))
            if request.buyer_id in missing_histories:
                answer = replace(answer, failed_components=[*answer.failed_components, "buyer"])
            answers.append(answer)
        return answers

    def search_image(self, photo: bytes, request: SearchRequest) -> SearchAnswer:
        """Find the items whose vectors are nearest to a photo, or to a photo and words combined.

        Only vectors are searched, and nothing is re-ranked, because the re-ranker was trained on queries of words.

        Args:
            photo: bytes of a still JPEG, PNG or WebP.
            request: request whose query may be empty; its mode and rerank are ignored.

        Raises:
            InvalidQuery: a value of the request is not allowed.
            InvalidPhoto: the photo cannot be read.
            NoImageBranch: the active tower has no image encoder.
            TowerError: photo or words cannot be encoded.
            IndexUnavailable: the index does not answer; IndexMissing if there is none.
        """
        check_request(request, words_needed=False)
        request = replace(request, mode="semantic", rerank=False, filters=_at_this_moment(request.filters))
        text = query_text(request.query)
        started = time.perf_counter()
        with start_span("load"):
            context = self._context()
            with uncounted():
                encoder = self._photos.encoder(context.active.index.tower_id)
        context.record("load", started)
        context = context.branch()  # its deadline starts when all is loaded
        context.deadline.limit(self._limits.deadline_s)
        with context.timed("encode"):
            vector = self._photos.vector(encoder, photo)
            words = self._encode(context.active.encoder, [text]).get(text) if text else None
        context.record("total", started)
        if text and words is None:
            raise TowerError("the words beside the photo could not be encoded; the log says why, and the photo alone can be sent")
        return answer_request(context.branch(), request, with_words(vector, words))

    def item(self, item_id: str) -> dict[str, Any]:
        """Return all visible fields of an item; its auction may have ended.

        Raises:
            InvalidQuery: item_id is not a valid id.
            UnknownItem: no item has this id.
            IndexUnavailable: the index does not answer.
        """
        item_id = require_id("item_id", item_id)
        return visible_fields(_fetch_item(self._context(), item_id).document)

    def item_state(self, item_id: str) -> ItemState | None:
        """Return the state of an item with the versions of its fields; None if no update was sent.

        Raises:
            InvalidQuery: item_id is not a valid id.
            IndexUnavailable: the index does not answer.
        """
        item_id = require_id("item_id", item_id)
        return self.live().index.states([item_id]).get(item_id)

    def put_items(self, items: Sequence[IndexedItem]) -> UpsertReport:
        """Write items to the active index; the next search finds them.

        Args:
            items: items with vectors of the active index's tower, each id once.

        Raises:
            TowerMismatch: another tower's index is active by now; encode the items again.
            IndexUnavailable: the index does not answer; all items may be sent again.
        """
        index = self.live().index
        if others := {item.document["tower_id"] for item in items} - {index.tower_id}:
            raise TowerMismatch(f"index {index.name} is of tower {index.tower_id}, the lots are of {others.pop()}; send them again")
        report = index.upsert(items)
        index.refresh()
        self.forget_answers()
        return report

    def forget_answers(self) -> None:
        """Clear the cached answers, because an item was written or deleted."""
        self._answers.clear()

    def similar(self, item_id: str, k: int = 10, filters: Filter | None = None) -> SearchAnswer:
        """Return the items nearest to an item by its stored vector, without the item itself. Its own auction may have ended.

        Raises:
            InvalidQuery: item_id is not a valid id, or k or a filter is not in its range.
            UnknownItem: no item has this id.
            IndexUnavailable: the index does not answer.
        """
        item_id = require_id("item_id", item_id)
        context = self._context()
        vector = _fetch_item(context, item_id).vector
        filters = _checked_filters(k, filters)
        filters = replace(filters, blocked=replace(filters.blocked, items=filters.blocked.items | {item_id}))
        return nearest_items(context, vector, k, filters, RankingOptions(rerank=False))

    def nearest(
        self,
        numbers: Sequence[float],
        k: int = 10,
        filters: Filter | None = None,
        options: RankingOptions = RankingOptions(),  # noqa: B008  # frozen
    ) -> SearchAnswer:
        """Return the items nearest to a vector, such as encode_buyer() returns.

        Args:
            numbers: (D,) vector with any norm above 0.
            k: maximum number of items, 1 to MAX_K.
            filters: conditions on the items; None excludes only ended auctions.
            options: order of the items.

        Raises:
            InvalidQuery: the vector has another length than those of the active index, or only zeros; or k or a filter is not in
                its range.
            IndexUnavailable: the index does not answer.
        """
        context = self._context()
        index = context.active.index
        if len(numbers) != index.dimensions:
            raise InvalidQuery(f"the vector has {len(numbers)} numbers; index {index.name} takes {index.dimensions}")
        return nearest_items(context, unit_vector(numbers), k, _checked_filters(k, filters), options)

    def nearest_to_buyer(
        self,
        interactions: Sequence[Interaction],
        k: int = 10,
        filters: Filter | None = None,
        *,
        buyer_id: str = "",
        exclude: Exclude = "acted",
        options: RankingOptions = RankingOptions(),  # noqa: B008  # frozen
    ) -> SearchAnswer:
        """Return the items nearest to a buyer, who is known by the given interactions and the stored ones.

        Args:
            interactions: interactions that the caller knows; may be empty.
            k: maximum number of items, 1 to MAX_K.
            filters: conditions on the items; None excludes only ended auctions.
            buyer_id: id of the buyer whose stored interactions are added; empty adds none. If no item of this buyer is known,
                the answer has popular and fresh items, and its `source` says so.
            exclude: items to leave out: "acted" for those of any interaction, "purchased" for purchased ones, or "none".
            options: order of the items.

        Raises:
            InvalidQuery: no item of the interactions is known, and there is no buyer_id; or an argument is not in its range.
            IndexUnavailable: the index does not answer.
        """
        check_interactions(tuple(interactions))
        filters = _checked_filters(k, filters)
        if exclude not in EXCLUDES:
            raise InvalidQuery(f"exclude is {exclude!r}; allowed are {', '.join(EXCLUDES)}")
        buyer = BuyerProfile(interactions, parse_buyer_id(buyer_id) if buyer_id else "", exclude)
        return self.buyers.recommend(self._context(), buyer, k, filters, options)

    def record_interactions(self, interactions: Sequence[Interaction]) -> list[str]:
        """Add interactions to the histories of their buyers, except those with items that the active index does not have.

        Invented ids would push real interactions out of a history. If index or store does not answer, a warning is logged.

        Returns:
            The item ids that the index does not have, each once, in the order of the interactions. It is empty if the index does
            not answer.
        """
        item_ids = list(dict.fromkeys(interaction.item_id for interaction in interactions))
        try:
            items = fetch_items(self._context(), item_ids)
        except GavelError as error:
            logger.warning("%d acts are in no buyer's history: %s", len(interactions), error)
            return []
        indexed = {item.item_id for item in items}
        self.buyers.append([interaction for interaction in interactions if interaction.item_id in indexed])
        return [item_id for item_id in item_ids if item_id not in indexed]

    def history(self, buyer_id: str, limit: int = MAX_INTERACTIONS) -> list[PastInteraction]:
        """Return the stored interactions of a buyer, the latest first, each with its item.

        Raises:
            InvalidQuery: buyer_id is not a valid id, or limit is not in 1 to MAX_INTERACTIONS.
            FeedbackUnavailable: the store does not answer.
            IndexUnavailable: the index does not answer.
        """
        return self.buyers.history(self._context(), buyer_id, limit)

    def encode_buyer(self, interactions: Sequence[Interaction], *, buyer_id: str = "") -> BuyerEncoding:
        """Return the vector of a buyer, who is known by the given interactions and the stored ones.

        Args:
            interactions: interactions that the caller knows; may be empty.
            buyer_id: id of the buyer whose stored interactions are added; empty adds none.

        Raises:
            InvalidQuery: there are no interactions or too many, none of their items is known, or buyer_id is not a valid id.
            IndexUnavailable: the index does not answer.
        """
        check_interactions(tuple(interactions))
        return self.buyers.encode(self._context(), parse_buyer_id(buyer_id) if buyer_id else "", interactions)

    def encode_query(self, query: str) -> tuple[Vector, str]:
        """Return the vector of a query, comparable with those of the items.

        Args:
            query: text as typed, with the limits of a search.

        Returns:
            The (D,) float32 vector of unit length, and the id of its tower.

        Raises:
            InvalidQuery: the query is empty or too long.
            TowerError: the query cannot be encoded.
            IndexUnavailable: the index, which names the tower, does not answer.
        """
        check_query(query)
        text, encoder = query_text(query), self.live().encoder
        vector = self._encode(encoder, [text]).get(text)
        if vector is None:
            raise TowerError("the query could not be encoded; the log says why")
        return vector, encoder.tower_id

    def _context(self) -> SearchContext:
        return SearchContext(self.live(), self._limits, self._circuits, self._buyer_vectors)

    def _cache_key(self, active: ActiveIndex, request: SearchRequest) -> tuple[object, ...]:
        """Return the cache key of a request, in which its time does not count, but the states of items do."""
        if not self._answers.size:
            return ()
        timeless = replace(request, query=query_text(request.query), filters=replace(request.filters, now=EPOCH))
        stamp = active.index.state_stamp(request.filters)
        return active.index.name, active.encoder.tower_id, active.ranker_stamp, timeless, request.exact_id, stamp

    def _cached_answer(self, active: ActiveIndex, key: tuple[object, ...], request: SearchRequest) -> SearchAnswer | None:
        """Return the cached answer of a request, unless one of its items has ended or changed its state since."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        states = active.index.states([result.item_id for result in answer.results])
        for result in answer.results:
            state = states.get(result.item_id)
            changed = state is not None and state.over(result.fields, _version_of(result)) != result.fields
            if changed or is_closed(result.fields, request.filters):
                self._answers.drop(key)
                return None
        return answer

    def _encode(self, encoder: Encoder, texts: Sequence[str]) -> dict[str, Vector]:
        """Return text -> (D,) vector; texts that are not cached are encoded together, and left out if that fails."""
        cached = {text: self._vectors.get((encoder.tower_id, text)) for text in texts}
        vectors = {text: vector for text, vector in cached.items() if vector is not None}
        new = [text for text in cached if text not in vectors]
        if new:
            try:
                encoded = encoder.encode(new)  # (N, D)
            except NoQueryEncoder:
                return vectors
            except TowerError as error:
                logger.error("searching by words alone: %s", error)
                return vectors
            for text, vector in zip(new, encoded, strict=True):
                vectors[text] = vector
                self._vectors.put((encoder.tower_id, text), vector.copy())  # a view of a row would keep the whole batch in memory
        return vectors


def _at_this_moment(filters: Filter) -> Filter:
    """Return filters with a fixed `now`, so that all lists of one answer agree on which auctions have ended."""
    return replace(filters, now=filters.moment())


def _checked_filters(k: int, filters: Filter | None) -> Filter:
    """Check k and filters; return the filters with a fixed `now`."""
    check_page(k)
    filters = filters or Filter()
    check_filters(filters)
    return _at_this_moment(filters)


def _fetch_item(context: SearchContext, item_id: str) -> Candidate:
    items = fetch_items(context, [item_id])
    if not items:
        raise UnknownItem(f"index {context.active.index.name} has no lot {item_id!r}; take an item_id that a search answered with")
    return items[0]


def _version_of(result: SearchResult) -> int:
    """Return the version of a result's row, as Item.version does."""
    return max(0, result.fields.get("updated_at") or result.fields.get("listed_at") or 0)
