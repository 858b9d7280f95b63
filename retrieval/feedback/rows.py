"""Convert buyers' events on a list of search results into the rows that training reads (catalog/click_log.py).

A row is one event on one item of a list. Rows of one list share query, buyer and `timestamp`, the time when the list was shown. By
these three the reader joins an impression with the click that followed. Rows with equal `event_id`s are repetitions: a page that
got no answer sends again, and Firehose delivers at least once.
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
from retrieval.text.analysis import check_request_text

# IMPRESSION and EVENT_TYPES of contracts.events, and click, which is stored as a view
ListEventKind = Literal["impression", "click", "view", "add_to_cart", "bid", "purchase"]
MAX_EVENTS = 200
MAX_POSITION = 1_000
MAX_QUERY_CHARS = 512
MAX_CLOCK_SKEW = timedelta(days=1)  # largest error of a buyer's clock


@dataclass(frozen=True, slots=True)
class ListEvent:
    """One event on one item of a list.

    Attributes:
        kind: impression if the buyer only saw the item, else the interaction.
        item_id: id of the item.
        position: position of the item in the list, 1 to MAX_POSITION.
        at: time of the event, with a time zone.
        proof: signature of the search that returned the item at this position; empty if the page has none.
    """

    kind: ListEventKind
    item_id: str
    position: int
    at: datetime
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Feedback:
    """Events on one list.

    Attributes:
        query_id: id of the list, as the search returned it; unique per response.
        session_id: id of the session, which stands for the buyer.
        query: text of the query, as typed.
        shown_at: time when the list was shown, with a time zone.
        events: 1 to MAX_EVENTS events.
    """

    query_id: str
    session_id: str
    query: str
    shown_at: datetime
    events: Sequence[ListEvent]


class EventSink(Protocol):
    """A store of feedback."""

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows, all of them or none.

        Raises:
            FeedbackUnavailable: the rows could not be stored.
        """


def feedback_rows(feedback: Feedback, now: datetime, lists: ServedLists = UNSIGNED, address: str = "") -> list[dict[str, Any]]:
    """Convert feedback into rows of a click log with the further columns query_id, happened_at, event_id, served and client.

    Proofs are verified here, once, so that training needs no key.

    Args:
        feedback: feedback as a page sent it.
        now: present time in UTC; times of the feedback may be 30 days older to 1 day later.
        lists: verifier of the proofs.
        address: network address of the request's sender.

    Returns:
        One row per event, in the order of the events; times in ISO 8601, UTC. If `served` is true, the proof is valid, and
        `timestamp` is the time of the search's response instead of the time that the page sent.

    Raises:
        InvalidQuery: a value is not in its range; the message names it.
    """
    query_id, buyer_id = require_id("query_id", feedback.query_id), require_id("session_id", feedback.session_id)
    item_ids = [require_id("item_id", event.item_id) for event in feedback.events]
    if not 1 <= len(item_ids) <= MAX_EVENTS:
        raise InvalidQuery(f"there are {len(item_ids)} events; allowed are 1 to {MAX_EVENTS}, send the rest in another request")
    query, shown_at = parse_query(feedback.query), _moment("shown_at", feedback.shown_at, now)
    client, rows = lists.client(address), []
    for item_id, event in zip(item_ids, feedback.events, strict=True):
        row = {
            "query": query,
            "item_id": item_id,
            "position": _position(event.position),
            "event_type": "view" if event.kind == "click" else event.kind,
            "buyer_id": buyer_id,
            "timestamp": shown_at,
            "query_id": query_id,
            "happened_at": _moment("timestamp", event.at, now),
        }
        served_at = lists.served_at(query_id, query, item_id, event.position, event.proof, now)
        served = served_at is not None and event.at >= served_at - MAX_CLOCK_SKEW  # no event precedes its list
        verified = {"event_id": event_id(row), "served": served, "client": client}
        rows.append({**row, **({"timestamp": _written(served_at)} if served_at and served else {}), **verified})
    return rows


def interactions_in(rows: Sequence[Mapping[str, Any]]) -> list[Interaction]:
    """Return the interactions in rows of feedback_rows(), with the times when they happened; impressions are left out."""
    return [
        Interaction(row["buyer_id"], row["item_id"], row["event_type"], datetime.fromisoformat(row["happened_at"]))
        for row in rows
        if row["event_type"] in EVENT_TYPES
    ]


def parse_query(text: str) -> str:
    """Return the text of a query in the normal form that the encoders read.

    Raises:
        InvalidQuery: the text is empty, has more than MAX_QUERY_CHARS characters, or is not valid Unicode.
    """
    check_request_text(text, "query")
    if len(text) > MAX_QUERY_CHARS or not query_text(text):
        raise InvalidQuery(f"query has {len(text)} characters; send the words of the search, 1 to {MAX_QUERY_CHARS}")
    return query_text(text)


def event_id(row: Mapping[str, Any]) -> str:
    """Return the event_id in a row; if there is none, a hash of the row with 32 hexadecimal digits."""
    text = json.dumps(row, sort_keys=True, default=str)
    return str(row.get("event_id") or hashlib.sha256(text.encode()).hexdigest()[:32])


def _position(position: int) -> int:
    if not 1 <= position <= MAX_POSITION:
        raise InvalidQuery(f"position is {position}; allowed are 1 to {MAX_POSITION}")
    return position


def _moment(field: str, moment: datetime, now: datetime) -> str:
    if not now - LONGEST_OPEN <= moment <= now + MAX_CLOCK_SKEW:
        raise InvalidQuery(f"{field} is {moment.isoformat()}; allowed is what lies between 30 days ago and tomorrow")
    return _written(moment)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
