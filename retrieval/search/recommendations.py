"""Items without a query: nearest to a vector or to a buyer, or popular and fresh ones for a new buyer; and a buyer's history."""

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
        interaction: what the buyer did.
        fields: visible fields of the item, whose auction may have ended; None if the item is deleted.
    """

    interaction: Interaction
    fields: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class RankingOptions:
    """How recommended items are ordered.

    Attributes:
        rerank: False keeps the order of nearness.
        rank_by: `expected_value` orders re-ranked items by chance times price (search.expected_value). Without scores of the
            re-ranker the order is that of relevance.
        diversity: how much the items differ, and how many of one label come; None leaves their order.

    Raises:
        InvalidQuery: the expected value is requested without the re-ranker.
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
        tower_id: of the active index, in whose space the vector is.
        buyer: the vector and the items that it was made of.
        failed_components: "buyer" if the stored interactions could not be read.
    """

    tower_id: str
    buyer: BuyerVector
    failed_components: Sequence[str]


@dataclass(frozen=True, slots=True)
class BuyerProfile:
    """A buyer to recommend items to.

    Attributes:
        interactions: sent by the caller, checked.
        buyer_id: whose stored interactions count, too; empty for nobody's.
        exclude: items to leave out: those of any interaction, those that were purchased, or none.
    """

    interactions: Sequence[Interaction] = ()
    buyer_id: str = ""
    exclude: Exclude = "acted"


class BuyerSearch:
    """Looks up buyers and recommends items to them. Threads may share it.

    A store that fails costs an answer the buyer's history, never the answer: its circuit opens, and `buyer` is a failed component.
    """

    def __init__(self, store: BuyerStore, circuit: Circuit) -> None:
        """Read nothing yet.

        Args:
            store: of recent interactions.
            circuit: of the store.
        """
        self._store, self._circuit = store, circuit

    def append(self, interactions: Sequence[Interaction]) -> None:
        """Store interactions if possible; the event log, which training reads, has them already."""
        try:
            with self._circuit.guard():
                self._store.append(interactions)
        except FeedbackUnavailable as error:
            logger.warning("%d acts are in no buyer's history: %s", len(interactions), error)

    def erase(self, buyer_id: str) -> int:
        """Forget a buyer; return the number of erased interactions.

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
        """Add the stored interactions of their buyers to requests.

        Returns:
            The requests in their order, and the ids of the buyers that could not be looked up.
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
            context: of the request.
            buyer_id: whose stored interactions count, too; empty for nobody's.
            sent: by the caller, checked.

        Raises:
            InvalidQuery: there are no interactions, or no item of them is known.
            IndexUnavailable: the index does not answer.
        """
        interactions = self._interactions(context, buyer_id, sent)
        if not interactions:
            raise InvalidQuery("nothing is known of this buyer; send what they did as recent_interactions")
        return BuyerEncoding(context.active.index.tower_id, encode_interactions(context, interactions), context.failed_components)

    def recommend(
        self, context: SearchContext, buyer: BuyerProfile, k: int, filters: Filter, options: RankingOptions
    ) -> SearchAnswer:
        """Return the items nearest to a buyer; popular and fresh ones for a buyer_id without known items.

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
        answer = nearest_items(context, vector.vector, k, filters, options)
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


def nearest_items(context: SearchContext, vector: Vector, k: int, filters: Filter, options: RankingOptions) -> SearchAnswer:
    """Return the items nearest to a vector, in the order of the options.

    The re-ranker takes the vector for that of the query and of the buyer; its features of words are those of a query without words.

    Args:
        context: of the request.
        vector: (D,) float32 of unit length.
        k: how many, checked.
        filters: checked.
        options: how the items are ordered.

    Raises:
        IndexUnavailable: the index does not answer.
    """
    ranker = context.active.ranker if options.rerank else None

    def compute_features(candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        return feature_matrix("", vector, candidates, filters.moment(), vector)

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
    """Return the items with the most bids and the newest ones in turn, each once; an item without bids is not popular.

    Arguments and errors as those of nearest_items(), of the options only the diversity. A score is 1 / the rank in the list that
    the item comes from.
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
    """Return k items of a ranking, spread as requested, and the ranking; look deeper if caps leave fewer than k.

    Args:
        context: of the request.
        k: how many.
        options: of the request.
        rank: number of candidates -> their ranking.
        reorders: True if the ranking depends on the number of candidates.
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
    """Add items to the block list of filters."""
    return replace(filters, blocked=replace(filters.blocked, items=filters.blocked.items | frozenset(item_ids)))


def _interleave(*lists: list[Candidate]) -> Iterator[Scored]:
    """Yield the items of several lists in turn, each item at its first place."""
    item_ids: set[str] = set()
    for rank, row in enumerate(zip_longest(*lists), 1):
        for candidate in row:
            if candidate is not None and candidate.item_id not in item_ids:
                item_ids.add(candidate.item_id)
                yield candidate, 1 / rank
