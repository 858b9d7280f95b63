"""What each buyer had done before they saw a list, from the click log that a re-ranker learns from."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from catalog.folder import Click
from retrieval.contracts.events import Interaction
from retrieval.search.service import MAX_INTERACTIONS


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as a search gets it: what was typed, and what the buyer had done lately.

    Attributes:
        query: what was typed.
        recent: the buyer's acts before, the latest 200 at most; empty when nothing is known of them.
    """

    query: str
    recent: tuple[Interaction, ...] = ()


class BuyerHistories:
    """The acts of all buyers of a log, in the order of time.

    Args:
        log: impressions; those that were touched are acts.
    """

    def __init__(self, log: Iterable[Click]) -> None:
        acts: dict[str, list[Interaction]] = defaultdict(list)
        for click in log:
            if click.event_type is not None:
                acts[click.buyer_id].append(Interaction(click.buyer_id, click.item_id, click.event_type, click.timestamp))
        self._acts = {buyer: sorted(done, key=lambda act: (act.timestamp, act.item_id)) for buyer, done in acts.items()}

    def before(self, buyer_id: str, moment: datetime) -> tuple[Interaction, ...]:
        """The latest 200 acts of a buyer before a moment: what a shop sends with that buyer's search."""
        acts = self._acts.get(buyer_id, [])
        end = bisect_left(acts, moment, key=lambda act: act.timestamp)
        return tuple(acts[max(0, end - MAX_INTERACTIONS) : end])

    def questions(self, clicks: Sequence[Click]) -> dict[Asked, list[Click]]:
        """The impressions of lists whose buyers had done something before, by what they asked."""
        shown: dict[Asked, list[Click]] = defaultdict(list)
        for click in clicks:
            if recent := self.before(click.buyer_id, click.timestamp):
                shown[Asked(click.query, recent)].append(click)
        return shown
