"""The interaction contract: the fields, types and weights of buyers' interactions with items."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from retrieval.config.settings import scoring_parameters
from retrieval.contracts.items import MAX_DESCRIPTION_CHARS, first_value, parse_id, parse_text, parse_time
from retrieval.errors import InvalidInput

EventType = Literal["view", "add_to_cart", "bid", "purchase"]  # the fields of settings.EventWeights
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)  # by rising interest
IMPRESSION = "impression"  # an item was shown: not an interaction, so not an EventType
SHOWN = (IMPRESSION, "impressions", "shown")  # names of impressions in logs

ALIASES: Mapping[str, tuple[str, ...]] = {
    "buyer_id": ("buyer_id", "distinct_id"),
    "item_id": ("item_id", "product_id"),
    "event_type": ("event_type", "event_name"),
    "timestamp": ("timestamp", "created_at"),
}

# event type -> its names in shops and analytics, without MARKS and capitals. Ambiguous names are left out on purpose: "cart" may
# be a look at the cart, "click" and "page view" may be of any page, and a "checkout" may have been broken off.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "view": ("views", "viewed", "viewitem", "viewproduct", "itemview", "itemviewed", "productview", "productviewed",
             "detailpageview"),
    "add_to_cart": ("addedtocart", "addtobasket", "addedtobasket", "addtobag", "addedtobag", "itemaddedtocart",
                    "productaddedtocart", "productadded"),
    "bid": ("bids", "bidplaced", "placebid", "placedbid", "placeabid"),
    "purchase": ("purchases", "purchased", "buy", "bought", "itempurchased", "productpurchased", "ordercompleted"),
}  # fmt: skip
MAX_NAME_CHARS = 60  # a longer unknown name is cut in a message
MARKS = re.compile(r"[\s_.:\-\u2010-\u2015]+")  # separators of the words in a name


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction of one buyer with one item.

    Attributes:
        buyer_id: id of the buyer.
        item_id: id of the item.
        event_type: type of the interaction, one of EVENT_TYPES.
        timestamp: UTC time of the interaction.
        query: text of the search that led to the item; empty if there was none.
    """

    buyer_id: str
    item_id: str
    event_type: str
    timestamp: datetime
    query: str = ""

    @property
    def weight(self) -> float:
        """Return the weight of this interaction's type; see event_weight()."""
        return event_weight(self.event_type)


def parse_interaction(row: Mapping[str, Any]) -> Interaction:
    """Read one row of an event log.

    Args:
        row: column name -> value, with the names in ALIASES; event types as parse_event_type() reads them.

    Raises:
        InvalidInput: a field is missing, or its value cannot be read; the message names field and value.
    """
    values = {field: first_value(row, names) for field, names in ALIASES.items()}
    for field, value in values.items():
        if value is None:
            raise InvalidInput(missing(field))
    timestamp = parse_time("timestamp", values["timestamp"])
    assert timestamp is not None
    return Interaction(
        buyer_id=parse_id("buyer_id", values["buyer_id"]),
        item_id=parse_id("item_id", values["item_id"]),
        event_type=parse_event_type(values["event_type"]),
        timestamp=timestamp,
        query=parse_text("query", row.get("query"), MAX_DESCRIPTION_CHARS),
    )


def event_weight(event_type: str) -> float:
    """Return the weight of an event type: view 1, add_to_cart 5, bid 7, purchase 10, unless GAVEL_EVENT_WEIGHTS differs."""
    weight: float = getattr(scoring_parameters().event_weights, event_type)
    return weight


def missing(field: str) -> str:
    """Return the message for a row without a field."""
    return f"{field} is missing (accepted column names: {', '.join(ALIASES[field])})"


def parse_event_type(value: Any) -> str:
    """Read the name of an event type. Case and separators do not matter, as in "Add To Cart" or "product_viewed".

    Returns:
        One of EVENT_TYPES.

    Raises:
        InvalidInput: the name is unknown or ambiguous.
    """
    name = MARKS.sub("", str(value).lower())
    event_type = _EVENT_TYPES.get(name)
    if name in SHOWN:
        raise InvalidInput(f"event_type {value!r} says that a lot was shown, which is no act; acts are {', '.join(EVENT_TYPES)}")
    if event_type is None:
        raise InvalidInput(f"event_type {str(value)[:MAX_NAME_CHARS]!r} is unknown; known are {', '.join(EVENT_TYPES)}")
    return event_type


_EVENT_TYPES = {MARKS.sub("", name): kind for kind, names in SPELLINGS.items() for name in (kind, *names)}
