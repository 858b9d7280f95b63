"""The interaction contract: what buyers did with lots, and how much each act weighs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from retrieval.config.settings import scoring_parameters
from retrieval.contracts.items import MAX_DESCRIPTION_CHARS, first_value, parse_id, parse_text, parse_time
from retrieval.errors import InvalidInput

EventType = Literal["view", "add_to_cart", "bid", "purchase"]  # the fields of settings.EventWeights
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)  # from the least that a buyer does to the most
IMPRESSION = "impression"  # a lot was shown: no act of a buyer, so no EventType
SHOWN = (IMPRESSION, "impressions", "shown")  # how logs write it

ALIASES: Mapping[str, tuple[str, ...]] = {
    "buyer_id": ("buyer_id", "distinct_id"),
    "item_id": ("item_id", "product_id"),
    "event_type": ("event_type", "event_name"),
    "timestamp": ("timestamp", "created_at"),
}

# What shops and the analytics they use call the same acts, without marks and capitals. Names that may mean another act as well
# are unknown on purpose: "cart" may be a look at the cart, "click" and "page view" any page, "checkout" one that was broken off.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "view": ("views", "viewed", "viewitem", "viewproduct", "itemview", "itemviewed", "productview", "productviewed",
             "detailpageview"),
    "add_to_cart": ("addedtocart", "addtobasket", "addedtobasket", "addtobag", "addedtobag", "itemaddedtocart",
                    "productaddedtocart", "productadded"),
    "bid": ("bids", "bidplaced", "placebid", "placedbid", "placeabid"),
    "purchase": ("purchases", "purchased", "buy", "bought", "itempurchased", "productpurchased", "ordercompleted"),
}  # fmt: skip
MAX_NAME_CHARS = 60  # of an unknown name, in a message
MARKS = re.compile(r"[\s_.:\-\u2010-\u2015]+")  # what stands between the words of a name


@dataclass(frozen=True, slots=True)
class Interaction:
    """One act of one buyer on one lot.

    Attributes:
        buyer_id: who.
        item_id: which lot.
        event_type: one of EVENT_TYPES.
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
        """How much this act says about interest, see event_weight()."""
        return event_weight(self.event_type)


def parse_interaction(row: Mapping[str, Any]) -> Interaction:
    """Read one row of an event log.

    Args:
        row: column name -> value, under the contract's names or their aliases.

    Returns:
        The interaction; parse_event_type() says how event types may be written.

    Raises:
        InvalidInput: a field is missing or the event type is unknown; the message names field and value.
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
    """Weight of an act: view 1, add_to_cart 5, bid 7, purchase 10, unless GAVEL_EVENT_WEIGHTS says otherwise."""
    weight: float = getattr(scoring_parameters().event_weights, event_type)
    return weight


def missing(field: str) -> str:
    """Why a row without a field is refused."""
    return f"{field} is missing (accepted column names: {', '.join(ALIASES[field])})"


def parse_event_type(value: Any) -> str:
    """Read the name of an act, without regard to case and to what stands between its words: "Add To Cart", "product_viewed".

    Returns:
        One of EVENT_TYPES.

    Raises:
        InvalidInput: nobody knows what the name means, or it may mean more than one act.
    """
    name = MARKS.sub("", str(value).lower())
    known = _EVENT_TYPES.get(name)
    if name in SHOWN:
        raise InvalidInput(f"event_type {value!r} says that a lot was shown, which is no act; acts are {', '.join(EVENT_TYPES)}")
    if known is None:
        raise InvalidInput(f"event_type {str(value)[:MAX_NAME_CHARS]!r} is unknown; known are {', '.join(EVENT_TYPES)}")
    return known


_EVENT_TYPES = {MARKS.sub("", name): act for act, names in SPELLINGS.items() for name in (act, *names)}
