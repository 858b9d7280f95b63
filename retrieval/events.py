"""The interaction contract: what buyers did with lots, and how much each act weighs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from retrieval.errors import InvalidInput
from retrieval.items import first_value, parse_id, parse_time

EVENT_WEIGHTS: Mapping[str, float] = {"view": 1.0, "add_to_cart": 5.0, "purchase": 10.0}

ALIASES: Mapping[str, tuple[str, ...]] = {
    "buyer_id": ("buyer_id", "distinct_id"),
    "item_id": ("item_id", "product_id"),
    "event_type": ("event_type", "event_name"),
    "timestamp": ("timestamp", "created_at"),
}


@dataclass(frozen=True, slots=True)
class Interaction:
    """One act of one buyer on one lot.

    Attributes:
        buyer_id: who.
        item_id: which lot.
        event_type: a key of EVENT_WEIGHTS.
        timestamp: UTC.
        query: the search that led there; empty when there was none.
    """

    buyer_id: str
    item_id: str
    event_type: str
    timestamp: datetime
    query: str = ""

    @property
    def weight(self) -> float:
        """How much this act says about interest: view 1, add_to_cart 5, purchase 10."""
        return EVENT_WEIGHTS[self.event_type]


def parse_interaction(row: Mapping[str, Any]) -> Interaction:
    """Read one row of an event log.

    Args:
        row: column name -> value, under the contract's names or their aliases.

    Returns:
        The interaction; event types are matched without regard to case, spaces, dashes or underscores.

    Raises:
        InvalidInput: a field is missing or the event type is unknown; the message names field and value.
    """
    values = {field: first_value(row, names) for field, names in ALIASES.items()}
    for field, value in values.items():
        if value is None:
            raise InvalidInput(f"{field} is missing (accepted column names: {', '.join(ALIASES[field])})")
    timestamp = parse_time("timestamp", values["timestamp"])
    assert timestamp is not None
    return Interaction(
        buyer_id=parse_id("buyer_id", values["buyer_id"]),
        item_id=parse_id("item_id", values["item_id"]),
        event_type=_event_type(str(values["event_type"])),
        timestamp=timestamp,
        query=str(row.get("query") or ""),
    )


def _event_type(text: str) -> str:
    key = text.lower().replace(" ", "").replace("_", "").replace("-", "")
    for known in EVENT_WEIGHTS:
        if key == known.replace("_", ""):
            return known
    raise InvalidInput(f"event_type {text!r} is unknown; known are {', '.join(EVENT_WEIGHTS)}")
