"""Each buyer's interactions before a result list, from the click log that trains a re-ranker."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from catalog.folder import Click
from retrieval.contracts.events import Interaction
from retrieval.search.service import MAX_INTERACTIONS


@dataclass(frozen=True, slots=True)
class BuyerQuery:
    """A query with its buyer's latest interactions.

    Attributes:
        query: query as typed.
        recent: the buyer's latest interactions before the query, at most 200; empty for an unknown buyer.
    """

    query: str
    recent: tuple[Interaction, ...] = ()


class BuyerHistories:
    """The interactions of all buyers of a log, in order of time.

    Args:
        log: impressions; those with an event type are interactions.
    """

    def __init__(self, log: Iterable[Click]) -> None:
        interactions: dict[str, list[Interaction]] = defaultdict(list)
        for click in log:
            if click.event_type is not None:
                interactions[click.buyer_id].append(Interaction(click.buyer_id, click.item_id, click.event_type, click.timestamp))
        self._by_buyer = {
            buyer: sorted(events, key=lambda event: (event.timestamp, event.item_id)) for buyer, events in interactions.items()
        }

    def before(self, buyer_id: str, moment: datetime) -> tuple[Interaction, ...]:
        """Return the latest interactions of a buyer before a moment, at most 200, as a shop sends them with a search."""
        events = self._by_buyer.get(buyer_id, [])
        end = bisect_left(events, moment, key=lambda event: event.timestamp)
        return tuple(events[max(0, end - MAX_INTERACTIONS) : end])

    def by_query(self, clicks: Sequence[Click]) -> dict[BuyerQuery, list[Click]]:
        """Group the impressions of buyers with earlier interactions by query and these interactions."""
        shown: dict[BuyerQuery, list[Click]] = defaultdict(list)
        for click in clicks:
            if recent := self.before(click.buyer_id, click.timestamp):
                shown[BuyerQuery(click.query, recent)].append(click)
        return shown
