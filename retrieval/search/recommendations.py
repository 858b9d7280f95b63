"""What is known of a buyer, and what is found by it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from retrieval.buyers.history_store import BuyerStore, merge_interactions, parse_buyer_id
from retrieval.contracts.documents import listed_fields
from retrieval.contracts.events import Interaction
from retrieval.deadline import Deadline
from retrieval.errors import FeedbackUnavailable, InvalidQuery
from retrieval.index.port import Filter
from retrieval.resilience import Circuit
from retrieval.search.candidates import FirstStage
from retrieval.search.live_index import ActiveIndex
from retrieval.search.nearest import nearest_items, popular_and_fresh
from retrieval.search.request import MAX_INTERACTIONS, SearchRequest
from retrieval.search.response import SearchAnswer

logger = logging.getLogger(__name__)

Exclude = Literal["acted", "purchased", "none"]
EXCLUDES: tuple[Exclude, ...] = get_args(Exclude)


@dataclass(frozen=True, slots=True)
class PastInteraction:
    """One act of a buyer, with its lot as it is now.

    Attributes:
        act: what they did.
        fields: what a buyer may see of the lot, whose auction may have ended; None when it is gone.
    """

    act: Interaction
    fields: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class KnownBuyer:
    """Who lots are retrieved for.

    Attributes:
        acts: what the caller tells of them, checked.
        buyer_id: whose acts are kept; empty when nobody is named.
        exclude: lots that shall not come back: those of any of the acts, those that were purchased, or none.
    """

    acts: Sequence[Interaction] = ()
    buyer_id: str = ""
    exclude: Exclude = "acted"


class BuyerSearch:
    """Looks buyers up and finds lots for them. Threads may share it.

    A store that fails costs an answer the buyer's history, never the answer: it is left alone for a while and said to be missing.
    """

    def __init__(self, first_stage: FirstStage, store: BuyerStore) -> None:
        """Ask nothing yet.

        Args:
            first_stage: how the index is asked.
            store: of buyers' recent acts.
        """
        self._first_stage, self._store = first_stage, store
        self.circuit = Circuit("the store of buyers' acts", FeedbackUnavailable)

    def keep(self, acts: Sequence[Interaction]) -> None:
        """Keep acts if that can be done; they were told to the log of events before, which training reads."""
        try:
            with self.circuit.guard():
                self._store.append(acts)
        except FeedbackUnavailable as error:
            logger.warning("%d acts are in no buyer's history: %s", len(acts), error)

    def erase(self, buyer_id: str) -> int:
        """Forget a buyer; how many acts went.

        Raises:
            InvalidQuery: this is no id.
            FeedbackUnavailable: the store does not answer.
        """
        return self._store.erase(parse_buyer_id(buyer_id))  # whatever the circuit says: who asks for this wants it tried

    def history(self, live: ActiveIndex, buyer_id: str, limit: int, deadline: Deadline) -> list[PastInteraction]:
        """What a buyer did, the latest first, each with its lot.

        Raises:
            InvalidQuery: this is no id, or the limit is none.
            FeedbackUnavailable: the store does not answer.
            IndexUnavailable: the index does not answer.
        """
        if not 1 <= limit <= MAX_INTERACTIONS:
            raise InvalidQuery(f"limit is {limit}; allowed are 1 to {MAX_INTERACTIONS}")
        acts = self._recent(parse_buyer_id(buyer_id), limit)
        named = list(dict.fromkeys(act.item_id for act in acts))
        stored = self._first_stage.fetch(live.index, named, deadline) if named else []
        lots = {lot.item_id: listed_fields(lot.document) for lot in stored}
        return [PastInteraction(act, lots.get(act.item_id)) for act in reversed(acts)]

    def with_histories(self, requests: Sequence[SearchRequest]) -> tuple[list[SearchRequest], set[str]]:
        """Searches with what is kept of their buyers beside what was sent along.

        Returns:
            The requests in their order, and the ids of the buyers that could not be looked up.
        """
        known: dict[str, list[Interaction]] = {}
        missing: set[str] = set()
        for buyer_id in {request.buyer_id for request in requests if request.buyer_id}:
            known[buyer_id], found = self._if_known(buyer_id)
            missing |= set() if found else {buyer_id}
        joint = [
            replace(request, recent=tuple(merge_interactions(known[request.buyer_id], request.recent)))
            if request.buyer_id
            else request
            for request in requests
        ]
        return joint, missing

    def retrieve(self, live: ActiveIndex, buyer: KnownBuyer, k: int, where: Filter, deadline: Deadline) -> SearchAnswer:
        """The lots nearest to a buyer; for a named one of whom nothing is known, popular and fresh ones.

        Raises:
            InvalidQuery: no lot of the acts is known, and nobody is named.
            IndexUnavailable: the index does not answer.
        """
        stored, found = self._if_known(buyer.buyer_id)
        acts = merge_interactions(stored, buyer.acts) if buyer.buyer_id else buyer.acts
        degraded = [] if found else ["buyer"]
        left_out = {act.item_id for act in acts if _leaves_out(buyer.exclude, act)}
        try:
            vector = self._first_stage.buyer(live.index, acts, live.buyer_tower, deadline) if acts else None
        except InvalidQuery:  # lots that are all gone tell nothing
            if not buyer.buyer_id:
                raise
            vector = None
        if vector is None:
            answer = popular_and_fresh(self._first_stage, live, k, where, deadline, without=left_out)
            unknown: Sequence[str] = list(dict.fromkeys(act.item_id for act in acts))
        else:
            left_out &= set(vector.known_items)
            answer = nearest_items(self._first_stage, live, vector.vector, k, where, deadline, without=left_out, source="history")
            unknown = vector.unknown_items
        return replace(answer, degraded=degraded, unknown_items=unknown)

    def _if_known(self, buyer_id: str) -> tuple[list[Interaction], bool]:
        """What is kept of a buyer, and whether the store could be asked; nobody has done nothing."""
        if not buyer_id:
            return [], True
        try:
            return self._recent(parse_buyer_id(buyer_id), MAX_INTERACTIONS), True
        except FeedbackUnavailable as error:
            logger.warning("answering without the buyer's history: %s", error)
            return [], False

    def _recent(self, buyer_id: str, limit: int) -> list[Interaction]:
        with self.circuit.guard():
            return self._store.recent(buyer_id, limit)


def _leaves_out(exclude: Exclude, act: Interaction) -> bool:
    return exclude == "acted" or (exclude == "purchased" and act.event_type == "purchase")
