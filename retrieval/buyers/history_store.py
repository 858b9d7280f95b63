"""What buyers did lately, kept by buyer: the port, and which acts are worth keeping.

A repeated act is one. Times are kept to the millisecond, the words of searches not at all: a buyer's vector needs none.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from retrieval.contracts.events import Interaction
from retrieval.contracts.items import EPOCH, epoch_ms, require_id
from retrieval.feedback.rows import CLOCK_AHEAD

MOST_ACTS = 200  # of one buyer: as many as a search takes (search_request.MAX_INTERACTIONS)

InteractionKey = tuple[int, str, str]  # (ms since 1970, event type, item_id): acts of one buyer with the same key are one


class BuyerStore(Protocol):
    """Where the latest acts of each buyer are kept. Threads may share it."""

    def append(self, acts: Sequence[Interaction]) -> int:
        """Keep acts of any buyers, in any order; those of worth_keeping() alone, and one that is there already once.

        Returns:
            How many were worth keeping.

        Raises:
            FeedbackUnavailable: some could not be kept; it is safe to send all of them again.
        """

    def recent(self, buyer_id: str, limit: int = MOST_ACTS) -> list[Interaction]:
        """The latest acts of a buyer, the oldest first, ties by event type and item; none of an unknown buyer.

        Raises:
            FeedbackUnavailable: the store does not answer.
        """

    def erase(self, buyer_id: str) -> int:
        """Forget a buyer; how many acts went, 0 when nothing is known.

        Raises:
            FeedbackUnavailable: the store does not answer; some acts may have gone, and it is safe to ask again.
        """


class NoBuyerStore:
    """Keeps nothing: where no store was set up, every buyer is a new one."""

    def append(self, acts: Sequence[Interaction]) -> int:
        """Keep none."""
        return 0

    def recent(self, buyer_id: str, limit: int = MOST_ACTS) -> list[Interaction]:
        """Know nothing."""
        return []

    def erase(self, buyer_id: str) -> int:
        """Have nothing to forget."""
        return 0


def oldest_kept(now: datetime, days: int) -> datetime:
    """The moment before which acts are forgotten."""
    return now - timedelta(days=days)


def worth_keeping(acts: Sequence[Interaction], now: datetime, days: int) -> list[Interaction]:
    """The acts that a store keeps: none before oldest_kept(), none from the future, the latest MOST_ACTS of each buyer.

    A clock may be a day ahead (feedback.CLOCK_AHEAD); what says to be of a later day would stay the latest act for good.

    Args:
        acts: of any buyers, in any order.
        now: UTC.
        days: how long an act is kept.

    Returns:
        Each act once, buyer by buyer, the oldest first, without the words of searches, its time in whole milliseconds.
    """
    by_buyer: dict[str, dict[InteractionKey, Interaction]] = defaultdict(dict)
    for act in acts:
        if oldest_kept(now, days) <= act.timestamp <= now + CLOCK_AHEAD:
            key = interaction_key(act)
            by_buyer[act.buyer_id][key] = replace(act, timestamp=moment_of(key[0]), query="")
    return [kept[key] for kept in by_buyer.values() for key in sorted(kept)[-MOST_ACTS:]]


def joined(stored: Sequence[Interaction], sent: Sequence[Interaction]) -> list[Interaction]:
    """The latest MOST_ACTS of what is kept of a buyer and what a caller sends along, the oldest first, each act once."""
    known = {interaction_key(act): act for act in (*sent, *stored)}
    return [known[key] for key in sorted(known)[-MOST_ACTS:]]


def interaction_key(act: Interaction) -> InteractionKey:
    """What tells the acts of one buyer apart, in the order in which they are told."""
    return epoch_ms(act.timestamp), act.event_type, act.item_id


def moment_of(ms: int) -> datetime:
    """The UTC time of so many milliseconds since 1970."""
    return EPOCH + timedelta(milliseconds=ms)


def parse_buyer_id(text: str) -> str:
    """A buyer's id in the form in which events carry it.

    Raises:
        InvalidQuery: it is empty, too long, or holds what nobody can see.
    """
    return require_id("buyer_id", text)
