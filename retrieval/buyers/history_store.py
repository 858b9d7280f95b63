"""The port of the stores of buyers' recent interactions, and the rules by which interactions are stored.

A repeated interaction is stored once. Times are stored to the millisecond. The words of searches are not stored, because the vector
of a buyer does not need them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from retrieval.contracts.events import Interaction
from retrieval.contracts.items import epoch_ms, moment_of, require_id
from retrieval.feedback.rows import MAX_CLOCK_SKEW

MAX_PER_BUYER = 200  # interactions; also the most that a search takes (search.request.MAX_INTERACTIONS)

InteractionKey = tuple[int, str, str]  # (ms since 1970, event type, item_id); equal keys of one buyer mean the same interaction


class BuyerStore(Protocol):
    """A store of the latest interactions of each buyer. Threads may share it."""

    def append(self, interactions: Sequence[Interaction]) -> int:
        """Store those interactions that select_storable() returns, each only once.

        Args:
            interactions: interactions of any buyers, in any order.

        Returns:
            Number of storable interactions.

        Raises:
            FeedbackUnavailable: some interactions could not be stored; it is safe to send all of them again.
        """

    def recent(self, buyer_id: str, limit: int = MAX_PER_BUYER) -> list[Interaction]:
        """Return the latest `limit` interactions of a buyer, the oldest first, ties by event type and item_id.

        The list is empty for an unknown buyer.

        Raises:
            FeedbackUnavailable: the store does not answer.
        """

    def erase(self, buyer_id: str) -> int:
        """Delete a buyer's interactions and return their number, 0 for an unknown buyer.

        Raises:
            FeedbackUnavailable: the store does not answer. Some interactions may be deleted, and it is safe to call again.
        """


class NoBuyerStore:
    """A store that stores nothing, so that every buyer is a new one."""

    def append(self, interactions: Sequence[Interaction]) -> int:
        """Store nothing."""
        return 0

    def recent(self, buyer_id: str, limit: int = MAX_PER_BUYER) -> list[Interaction]:
        """Return nothing."""
        return []

    def erase(self, buyer_id: str) -> int:
        """Delete nothing."""
        return 0


def oldest_stored(now: datetime, days: int) -> datetime:
    """Return the time before which interactions are deleted."""
    return now - timedelta(days=days)


def select_storable(interactions: Sequence[Interaction], now: datetime, days: int) -> list[Interaction]:
    """Select the latest MAX_PER_BUYER interactions of each buyer, none before oldest_stored() and none from the future.

    A client's clock may be a day ahead (feedback.rows.MAX_CLOCK_SKEW). An interaction with a later time would stay the latest one
    until that time.

    Args:
        interactions: interactions of any buyers, in any order.
        now: present time in UTC.
        days: days that an interaction is stored.

    Returns:
        The selected interactions, each once, buyer by buyer, the oldest first. They have no query, and times in whole ms.
    """
    by_buyer: dict[str, dict[InteractionKey, Interaction]] = defaultdict(dict)
    for one in interactions:
        if oldest_stored(now, days) <= one.timestamp <= now + MAX_CLOCK_SKEW:
            key = interaction_key(one)
            by_buyer[one.buyer_id][key] = replace(one, timestamp=moment_of(key[0]), query="")
    return [by_key[key] for by_key in by_buyer.values() for key in sorted(by_key)[-MAX_PER_BUYER:]]


def merge_interactions(stored: Sequence[Interaction], sent: Sequence[Interaction]) -> list[Interaction]:
    """Return the latest MAX_PER_BUYER of a buyer's stored and sent interactions, the oldest first, each once."""
    by_key = {interaction_key(one): one for one in (*sent, *stored)}
    return [by_key[key] for key in sorted(by_key)[-MAX_PER_BUYER:]]


def interaction_key(interaction: Interaction) -> InteractionKey:
    """Return the key by which the interactions of one buyer are distinguished and sorted."""
    return epoch_ms(interaction.timestamp), interaction.event_type, interaction.item_id


def parse_buyer_id(text: str) -> str:
    """Return the id of a buyer in the form that events have.

    Raises:
        InvalidQuery: the id is empty, too long, or has invisible characters.
    """
    return require_id("buyer_id", text)
