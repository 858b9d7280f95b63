"""What buyers did with the lots that a search showed them, in the rows that training reads (catalog/click_log.py).

A row is one lot of one shown list. Rows of one list share query, buyer and `timestamp`, the moment when the list was shown: by
these three the reader knows that an impression and the click that followed are one. An `event_id` tells rows that say one act
once more: a page that got no answer sends again, and Firehose delivers at least once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from retrieval.contracts.events import EVENT_TYPES, Interaction
from retrieval.contracts.items import query_text, require_id
from retrieval.errors import InvalidQuery
from retrieval.feedback.served_lists import LONGEST_OPEN, UNSIGNED, ServedLists
from retrieval.text.analysis import check_asked

# what a page may say: events.IMPRESSION, the EVENT_TYPES, and click, which is written down as a view
InteractionKind = Literal["impression", "click", "view", "add_to_cart", "bid", "purchase"]
MAX_ACTS = 200
MAX_POSITION = 1_000
MAX_QUERY_CHARS = 512
CLOCK_AHEAD = timedelta(days=1)  # what a buyer's clock may be wrong by


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that a buyer did with one lot of a list.

    Attributes:
        kind: impression (it was seen), or what the buyer did.
        item_id: the lot.
        position: its place in the list, from 1.
        at: when; it has a time zone.
        proof: that a search answered with the lot at this position; empty where the page has none.
    """

    kind: InteractionKind
    item_id: str
    position: int
    at: datetime
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Feedback:
    """Acts on one list.

    Attributes:
        query_id: of the list, as the search answered it; every answer has its own.
        session_id: stands for the buyer.
        query: as typed.
        shown_at: when the list was shown; it has a time zone.
        acts: 1 to MAX_ACTS.
    """

    query_id: str
    session_id: str
    query: str
    shown_at: datetime
    acts: Sequence[Act]


class EventSink(Protocol):
    """Where feedback goes."""

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows, all of them or none.

        Raises:
            FeedbackUnavailable: they could not be kept.
        """


def feedback_rows(feedback: Feedback, now: datetime, lists: ServedLists = UNSIGNED, address: str = "") -> list[dict[str, Any]]:
    """The rows of a click log, with `query_id`, `happened_at`, `event_id`, `served` and `client` besides.

    Proofs are verified here, once, so that training needs no key.

    Args:
        feedback: what a page sent.
        now: UTC; decides which times can be.
        lists: verifies the proofs.
        address: network address that the request came from.

    Returns:
        One row an act, in their order; times in ISO 8601, UTC. Where `served` is true, the proof holds and `timestamp` is the
        moment of the search's answer instead of the page's word.

    Raises:
        InvalidQuery: a value is out of its limits; the message names it.
    """
    query_id, buyer_id = require_id("query_id", feedback.query_id), require_id("session_id", feedback.session_id)
    item_ids = [require_id("item_id", act.item_id) for act in feedback.acts]
    if not 1 <= len(item_ids) <= MAX_ACTS:
        raise InvalidQuery(f"there are {len(item_ids)} events; allowed are 1 to {MAX_ACTS}, send the rest in another request")
    query, shown_at = parse_query(feedback.query), _moment("shown_at", feedback.shown_at, now)
    client, rows = lists.client(address), []
    for item_id, act in zip(item_ids, feedback.acts, strict=True):
        row = {
            "query": query,
            "item_id": item_id,
            "position": _position(act.position),
            "event_type": "view" if act.kind == "click" else act.kind,
            "buyer_id": buyer_id,
            "timestamp": shown_at,
            "query_id": query_id,
            "happened_at": _moment("timestamp", act.at, now),
        }
        served_at = lists.served_at(query_id, query, item_id, act.position, act.proof, now)
        served = served_at is not None and act.at >= served_at - CLOCK_AHEAD  # nobody acts on a list before it is there
        told = {"event_id": event_id(row), "served": served, "client": client}
        rows.append({**row, **({"timestamp": _written(served_at)} if served_at and served else {}), **told})
    return rows


def interactions_in(rows: Sequence[Mapping[str, Any]]) -> list[Interaction]:
    """What rows of feedback_rows() say of their buyers: each act at the moment when it happened; a lot that was shown is none."""
    return [
        Interaction(row["buyer_id"], row["item_id"], row["event_type"], datetime.fromisoformat(row["happened_at"]))
        for row in rows
        if row["event_type"] in EVENT_TYPES
    ]


def parse_query(text: str) -> str:
    """The words of a search, as the encoders read them.

    Raises:
        InvalidQuery: there are none, or too many, or they are no valid Unicode.
    """
    check_asked(text, "query")
    if len(text) > MAX_QUERY_CHARS or not query_text(text):
        raise InvalidQuery(f"query has {len(text)} characters; send the words of the search, 1 to {MAX_QUERY_CHARS}")
    return query_text(text)


def event_id(row: Mapping[str, Any]) -> str:
    """The id of an event: the one that its row has, else one made of all that the row says, 32 hexadecimal digits."""
    said = json.dumps(row, sort_keys=True, default=str)
    return str(row.get("event_id") or hashlib.sha256(said.encode()).hexdigest()[:32])


def _position(position: int) -> int:
    if not 1 <= position <= MAX_POSITION:
        raise InvalidQuery(f"position is {position}; allowed are 1 to {MAX_POSITION}")
    return position


def _moment(field: str, moment: datetime, now: datetime) -> str:
    if not now - LONGEST_OPEN <= moment <= now + CLOCK_AHEAD:
        raise InvalidQuery(f"{field} is {moment.isoformat()}; allowed is what lies between 30 days ago and tomorrow")
    return _written(moment)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
