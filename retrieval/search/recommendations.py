"""Items without a query: those nearest to a vector or a buyer, or popular and fresh ones for a new buyer; and buyers' histories."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.buyers.history_store import BuyerStore, merge_interactions, parse_buyer_id
from retrieval.buyers.vector import BuyerVector
from retrieval.contracts.buyer_habits import BuyerHabits
from retrieval.contracts.documents import Vector, listed_fields
from retrieval.contracts.events import Interaction
from retrieval.errors import FeedbackUnavailable, InvalidQuery
from retrieval.index.filters import Filter
from retrieval.index.port import Candidate
from retrieval.ranker.features import feature_matrix
from retrieval.resilience import Circuit
from retrieval.search.candidates import encode_interactions, fetch_items
from retrieval.search.context import SearchContext
from retrieval.search.diversification import Diversity
from retrieval.search.expected_value import rank_by_expected_value
from retrieval.search.pipeline import search_results
from retrieval.search.request import MAX_INTERACTIONS, MAX_REACH, SearchRequest
from retrieval.search.reranking import Scored, rerank, spread
from retrieval.search.response import RankBy, SearchAnswer

logger = logging.getLogger(__name__)

Exclude = Literal["acted", "purchased", "none"]
EXCLUDES: tuple[Exclude, ...] = get_args(Exclude)
RANK_BYS: tuple[RankBy, ...] = get_args(RankBy)


@dataclass(frozen=True, slots=True)
class PastInteraction:
    """One interaction of a buyer, with its item as it is now.

    Attributes:
        interaction: interaction of the buyer.
        fields: listed fields of the item, whose auction may have ended; None if the index does not have the item.
    """

    interaction: Interaction
    fields: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class RankingOptions:
    """The order of recommended items.

    Attributes:
        rerank: False keeps the order of the cosines.
        rank_by: `expected_value` orders re-ranked items by chance times price (search.expected_value); `relevance` by the scores.
            Without scores of the re-ranker the order is always that of relevance.
        diversity: parameters of the diversification; None leaves the order.

    Raises:
        InvalidQuery: rank_by is unknown, or it is `expected_value` and rerank is False.
    """

    rerank: bool = True
    rank_by: RankBy = "relevance"
    diversity: Diversity | None = None

    def __post_init__(self) -> None:
        if self.rank_by not in RANK_BYS:
            raise InvalidQuery(f"rank_by is {self.rank_by!r}; allowed are {', '.join(RANK_BYS)}")
        if self.rank_by == "expected_value" and not self.rerank:
            raise InvalidQuery("rank_by expected_value takes its chances from the re-ranker; leave rerank=false out")


@dataclass(frozen=True, slots=True)
class BuyerEncoding:
    """A buyer as a vector, with its tower.

    Attributes:
        tower_id: id of the active index's tower, in whose space the vector is.
        buyer: vector of the buyer, with the items that it was made of.
        failed_components: ["buyer"] if the stored interactions could not be read, else empty.
    """

    tower_id: str
    buyer: BuyerVector
    failed_components: Sequence[str]


@dataclass(frozen=True, slots=True)
class BuyerProfile:
    """A buyer to recommend items to.

    Attributes:
        interactions: checked interactions that the caller sent.
        buyer_id: id of the buyer whose stored interactions are added; empty adds none.
        exclude: items to leave out: "acted" for those of any interaction, "purchased" for purchased ones, or "none".
    """

    interactions: Sequence[Interaction] = ()
    buyer_id: str = ""
    exclude: Exclude = "acted"


class BuyerSearch:
    """Recommendations to buyers, and their histories. Threads may share it.

    If the store of histories fails, its circuit opens, and recommendations go on without it; `buyer` is then a failed component.
    """

    def __init__(self, store: BuyerStore, circuit: Circuit) -> None:
        """Keep the arguments; nothing is read yet.

        Args:
            store: store of recent interactions.
            circuit: circuit breaker of the store.
        """
        self._store, self._circuit = store, circuit

    def append(self, interactions: Sequence[Interaction]) -> None:
        """Store interactions, or log a warning if the store fails. Training loses nothing, because the event log has them."""
        try:
            with self._circuit.guard():
                self._store.append(interactions)
        except FeedbackUnavailable as error:
            logger.warning("%d acts are in no buyer's history: %s", len(interactions), error)

    def erase(self, buyer_id: str) -> int:
        """Erase the stored interactions of a buyer, and return their number.

        Raises:
            InvalidQuery: buyer_id is not a valid id.
            FeedbackUnavailable: the store does not answer.
        """
        return self._store.erase(parse_buyer_id(buyer_id))  # even with an open circuit: a request to erase must be tried

    def history(self, context: SearchContext, buyer_id: str, limit: int) -> list[PastInteraction]:
        """Return the interactions of a buyer, the latest first, each with its item.

        Raises:
            InvalidQuery: buyer_id is not a valid id, or limit is not in 1 to MAX_INTERACTIONS.
            FeedbackUnavailable: the store does not answer.
            IndexUnavailable: the index does not answer.
        """
        if not 1 <= limit <= MAX_INTERACTIONS:
            raise InvalidQuery(f"limit is {limit}; allowed are 1 to {MAX_INTERACTIONS}")
        buyer_id = parse_buyer_id(buyer_id)
        with self._circuit.guard():
            interactions = self._store.recent(buyer_id, limit)
        item_ids = list(dict.fromkeys(one.item_id for one in interactions))
        items = fetch_items(context, item_ids) if item_ids else []
        fields = {item.item_id: listed_fields(item.document) for item in items}
        return [PastInteraction(one, fields.get(one.item_id)) for one in reversed(interactions)]

    def with_histories(self, requests: Sequence[SearchRequest]) -> tuple[list[SearchRequest], set[str]]:
        """Add to each request the stored interactions of its buyer.

        Returns:
            The requests in their order, and the ids of the buyers whose interactions could not be read.
        """
        buyer_ids = {request.buyer_id for request in requests if request.buyer_id}
        histories = {buyer_id: self._recent(buyer_id) for buyer_id in buyer_ids}
        with_histories = [
            replace(request, recent=tuple(merge_interactions(histories[request.buyer_id] or [], request.recent)))
            if request.buyer_id
            else request
            for request in requests
        ]
        return with_histories, {buyer_id for buyer_id, stored in histories.items() if stored is None}

    def encode(self, context: SearchContext, buyer_id: str, sent: Sequence[Interaction]) -> BuyerEncoding:
        """Encode a buyer from stored and sent interactions.

        Args:
            context: context of the request.
            buyer_id: id of the buyer whose stored interactions are added; empty adds none.
            sent: checked interactions that the caller sent.

        Returns:
            The buyer's unit vector, with the tower whose space it is in and the components that failed.

        Raises:
            InvalidQuery: there are no interactions, or none of their items is known.
            IndexUnavailable: the index does not answer.
        """
        interactions = self._interactions(context, buyer_id, sent)
        if not interactions:
            raise InvalidQuery("nothing is known of this buyer; send what they did as recent_interactions")
        return BuyerEncoding(context.active.index.tower_id, encode_interactions(context, interactions), context.failed_components)

    def recommend(
        self, context: SearchContext, buyer: BuyerProfile, k: int, filters: Filter, options: RankingOptions
    ) -> SearchAnswer:
        """Return the items nearest to a buyer; popular and fresh ones if there is a buyer_id, but no known item.

        Raises:
            InvalidQuery: no item of the interactions is known, and there is no buyer_id.
            IndexUnavailable: the index does not answer.
        """
        started = time.perf_counter()
        interactions = self._interactions(context, buyer.buyer_id, buyer.interactions)
        filters = _block_items(
            filters,
            {
                one.item_id
                for one in interactions
                if buyer.exclude == "acted" or (buyer.exclude == "purchased" and one.event_type == "purchase")
            },
        )
        try:
            with context.timed("encode"):
                vector = encode_interactions(context, interactions) if interactions else None
        except InvalidQuery:  # none of the items exists any more
            if not buyer.buyer_id:
                raise
            vector = None
        context.record("total", started)
        if vector is None:
            answer = popular_and_fresh(context, k, filters, options)
            return replace(answer, unknown_items=list(dict.fromkeys(one.item_id for one in interactions)))
        answer = nearest_items(context, vector.vector, k, filters, options, vector.habits)
        return replace(answer, unknown_items=vector.unknown_items, source="history")

    def _interactions(self, context: SearchContext, buyer_id: str, sent: Sequence[Interaction]) -> Sequence[Interaction]:
        """Return the sent interactions, merged with the stored ones of the buyer_id if there is one."""
        if not buyer_id:
            return sent
        with context.timed("history"):
            stored = self._recent(buyer_id)
        if stored is None:
            context.fail("buyer")
        return merge_interactions(stored or [], sent)

    def _recent(self, buyer_id: str) -> list[Interaction] | None:
        """Return the stored interactions of a buyer; None if the store does not answer."""
        try:
            with self._circuit.guard():
                return self._store.recent(parse_buyer_id(buyer_id), MAX_INTERACTIONS)
        except FeedbackUnavailable as error:
            logger.warning("answering without the buyer's history: %s", error)
            return None


def nearest_items(
    context: SearchContext,
    vector: Vector,
    k: int,
    filters: Filter,
    options: RankingOptions,
    habits: BuyerHabits | None = None,
) -> SearchAnswer:
    """Return the items nearest to a vector, in the order of the options.

    The re-ranker gets `vector` as the vector of the query and of the buyer, and a query without words.

    Args:
        context: context of the request.
        vector: (D,) float32 of unit length.
        k: checked number of items.
        filters: checked conditions on the items.
        options: order of the items.
        habits: the habits of the buyer whose vector it is; None for another vector.

    Raises:
        IndexUnavailable: the index does not answer.
    """
    ranker = context.active.ranker if options.rerank else None

    def compute_features(candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        return feature_matrix("", vector, candidates, filters.moment(), vector, habits)

    def rank(depth: int) -> _Ranking:
        with context.timed("retrieve"):
            nearest = context.ask("semantic", lambda index: index.semantic(vector, depth, filters))
        scored, reranked = rerank(context, ranker, nearest, compute_features)
        if options.rank_by == "expected_value" and reranked:
            return _Ranking(rank_by_expected_value(scored), reranked, "expected_value")
        if options.rank_by == "expected_value" and nearest:
            context.fail("rerank")
        return _Ranking(scored, reranked)

    with context.timed("total", span="answer"):
        page, ranking = _select(context, k, options, rank, reorders=ranker is not None)
        results = search_results(page, vector)
    return SearchAnswer(
        results,
        context.active.index.tower_id,
        "semantic",
        ranking.reranked,
        context.failed_components,
        context.timings_ms,
        ranked_by=ranking.ranked_by,
    )


def popular_and_fresh(context: SearchContext, k: int, filters: Filter, options: RankingOptions) -> SearchAnswer:
    """Return the items with the most bids and the newest items in turn, each item once. An item without bids is not popular.

    The arguments and errors are those of nearest_items(); of the options only the diversity is used. The score of an item is
    1 / its rank in the list that it comes from.
    """

    def rank(depth: int) -> _Ranking:
        with context.timed("retrieve"):
            popular = [c for c in context.ask("top", lambda index: index.top("bid_count", depth, filters)) if c.score > 0]
            fresh = context.ask("top", lambda index: index.top("listed_at", depth, filters))
        return _Ranking(list(_interleave(popular, fresh)))

    with context.timed("total", span="answer"):
        page, _ = _select(context, k, options, rank, reorders=False)
        results = search_results(page, None)
    return SearchAnswer(
        results,
        context.active.index.tower_id,
        "popular",
        False,
        context.failed_components,
        context.timings_ms,
        source="popular_and_fresh",
    )


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Ranked items before diversity and caps."""

    scored: list[Scored]
    reranked: bool = False
    ranked_by: RankBy = "relevance"


def _select(
    context: SearchContext, k: int, options: RankingOptions, rank: Callable[[int], _Ranking], *, reorders: bool
) -> tuple[list[Scored], _Ranking]:
    """Return at most k items of a ranking, diversified as requested, and the ranking.

    If caps leave fewer than k items, MAX_REACH candidates are ranked instead.

    Args:
        context: context of the request.
        k: maximum number of items.
        options: options of the request.
        rank: number of candidates -> ranking of so many.
        reorders: True if the order depends on the number of candidates.
    """
    diversity = options.diversity if options.diversity is not None and options.diversity.is_active else None
    first = max(k, context.limits.rerank_candidates) if reorders or diversity else k
    ranking = rank(first)
    if diversity is None:
        return ranking.scored[:k], ranking
    page = spread(context, ranking.scored, diversity, k)
    if len(page) < k and len(ranking.scored) >= first and first < MAX_REACH:
        ranking = rank(MAX_REACH)
        page = spread(context, ranking.scored, diversity, k)
    return page, ranking


def _block_items(filters: Filter, item_ids: Collection[str]) -> Filter:
    """Return the filters with these items added to their block list."""
    return replace(filters, blocked=replace(filters.blocked, items=filters.blocked.items | frozenset(item_ids)))


def _interleave(*lists: list[Candidate]) -> Iterator[Scored]:
    """Yield the items of several lists in turn, each item only once, with the score 1 / rank in its list."""
    item_ids: set[str] = set()
    for rank, row in enumerate(zip_longest(*lists), 1):
        for candidate in row:
            if candidate is not None and candidate.item_id not in item_ids:
                item_ids.add(candidate.item_id)
                yield candidate, 1 / rank
