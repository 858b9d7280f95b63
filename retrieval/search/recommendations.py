"""Items without a query: nearest to a vector or to a buyer, or popular and fresh ones for a new buyer; and a buyer's history."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Any, Literal, get_args

from retrieval.buyers.history_store import BuyerStore, merge_interactions, parse_buyer_id
from retrieval.contracts.documents import Vector, listed_fields
from retrieval.contracts.events import Interaction
from retrieval.errors import FeedbackUnavailable, InvalidQuery
from retrieval.index.filters import Filter
from retrieval.index.port import Candidate
from retrieval.resilience import Circuit
from retrieval.search.candidates import encode_interactions, fetch_items
from retrieval.search.context import SearchContext
from retrieval.search.pipeline import Scored, search_results
from retrieval.search.request import MAX_INTERACTIONS, SearchRequest
from retrieval.search.response import SearchAnswer, Source

logger = logging.getLogger(__name__)

Exclude = Literal["acted", "purchased", "none"]
EXCLUDES: tuple[Exclude, ...] = get_args(Exclude)


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

    def recommend(self, context: SearchContext, buyer: BuyerProfile, k: int, filters: Filter) -> SearchAnswer:
        """Return the items nearest to a buyer; popular and fresh ones for a buyer_id without known items.

        Raises:
            InvalidQuery: no item of the interactions is known, and there is no buyer_id.
            IndexUnavailable: the index does not answer.
        """
        interactions = buyer.interactions
        if buyer.buyer_id:
            stored = self._recent(buyer.buyer_id)
            interactions = merge_interactions(stored or [], interactions)
            if stored is None:
                context.fail("buyer")
        exclude_ids = {
            one.item_id
            for one in interactions
            if buyer.exclude == "acted" or (buyer.exclude == "purchased" and one.event_type == "purchase")
        }
        try:
            vector = encode_interactions(context, interactions) if interactions else None
        except InvalidQuery:  # none of the items exists any more
            if not buyer.buyer_id:
                raise
            vector = None
        if vector is None:
            answer = popular_and_fresh(context, k, filters, exclude_ids)
            return replace(answer, unknown_items=list(dict.fromkeys(one.item_id for one in interactions)))
        exclude_ids &= set(vector.known_items)
        answer = nearest_items(context, vector.vector, k, filters, exclude_ids, source="history")
        return replace(answer, unknown_items=vector.unknown_items)

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
    exclude_ids: Collection[str] = (),
    source: Source | None = None,
) -> SearchAnswer:
    """Return the items nearest to a vector.

    Args:
        context: of the request.
        vector: (D,) float32 of unit length.
        k: how many, checked.
        filters: checked.
        exclude_ids: items to leave out.
        source: of the answer.

    Raises:
        IndexUnavailable: the index does not answer.
    """
    with context.timed("total", span="answer"), context.timed("retrieve"):
        nearest = context.ask("semantic", lambda index: index.semantic(vector, k + len(exclude_ids), filters))
    page = [(c, c.score) for c in nearest if c.item_id not in exclude_ids][:k]
    results = search_results(page, vector)
    return SearchAnswer(
        results, context.active.index.tower_id, "semantic", False, context.failed_components, context.timings_ms, source=source
    )


def popular_and_fresh(context: SearchContext, k: int, filters: Filter, exclude_ids: Collection[str] = ()) -> SearchAnswer:
    """Return the items with the most bids and the newest ones in turn, each once; an item without bids is not popular.

    Arguments and errors as those of nearest_items(). A score is 1 / the rank in the list that the item comes from.
    """
    with context.timed("total", span="answer"), context.timed("retrieve"):
        depth = k + len(exclude_ids)
        popular = [c for c in context.ask("top", lambda index: index.top("bid_count", depth, filters)) if c.score > 0]
        fresh = context.ask("top", lambda index: index.top("listed_at", depth, filters))
    page = islice((scored for scored in _interleave(popular, fresh) if scored[0].item_id not in exclude_ids), k)
    results = search_results(list(page), None)
    return SearchAnswer(
        results,
        context.active.index.tower_id,
        "popular",
        False,
        context.failed_components,
        context.timings_ms,
        source="popular_and_fresh",
    )


def _interleave(*lists: list[Candidate]) -> Iterator[Scored]:
    """Yield the items of several lists in turn, each item at its first place."""
    item_ids: set[str] = set()
    for rank, row in enumerate(zip_longest(*lists), 1):
        for candidate in row:
            if candidate is not None and candidate.item_id not in item_ids:
                item_ids.add(candidate.item_id)
                yield candidate, 1 / rank
