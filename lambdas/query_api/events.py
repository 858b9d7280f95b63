"""`POST /events`: store interactions of buyers with the items of a list."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from lambdas.query_api.problems import BAD_BODY, FOREIGN_ORIGIN
from lambdas.query_api.strict_route import StrictRoute
from retrieval.contracts.events import Interaction
from retrieval.feedback.rows import (
    MAX_EVENTS,
    MAX_POSITION,
    MAX_QUERY_CHARS,
    EventSink,
    Feedback,
    ListEvent,
    ListEventKind,
    feedback_rows,
    interactions_in,
)
from retrieval.feedback.served_lists import UNSIGNED, ServedLists


class Event(BaseModel):
    """One interaction with one lot of the list."""

    model_config = ConfigDict(extra="forbid")

    event_type: ListEventKind
    item_id: str = Field(min_length=1, max_length=512)
    position: int = Field(ge=1, le=MAX_POSITION, description="Place in the list, from 1.")
    timestamp: AwareDatetime = Field(description="When it happened.")
    proof: str = Field(
        "", max_length=64, description="The lot's `proof` in the answer of the search; without it the event teaches nothing."
    )


class ShownList(BaseModel):
    """A list of lots that was shown to a buyer, and the buyer's interactions with these lots."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "query_id": "19a8b1c2d3e.x1Yq0zK3aB7c",
                "session_id": "b2a7c1d4",
                "query": "red vase",
                "shown_at": "2026-11-21T18:00:00Z",
                "events": [
                    {
                        "event_type": "click",
                        "item_id": "lot-00042",
                        "position": 3,
                        "timestamp": "2026-11-21T18:00:09Z",
                        "proof": "p9rXq2m7VdE0aZc1",
                    },
                ],
            }
        },
    )

    query_id: str = Field(min_length=1, max_length=128, description="The `query_id` of the search's answer.")
    session_id: str = Field(
        min_length=1, max_length=128, description="Stands for the buyer, as `buyer_id` elsewhere; no name, no address."
    )
    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARS)
    shown_at: AwareDatetime
    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)

    def to_feedback(self) -> Feedback:
        """Return the feedback of the core."""
        events = [ListEvent(event.event_type, event.item_id, event.position, event.timestamp, event.proof) for event in self.events]
        return Feedback(self.query_id, self.session_id, self.query, self.shown_at, events)


class EventsResult(BaseModel):
    """Counts of the stored events, and of the events about served lists; training uses only the latter."""

    accepted: int
    served: int
    unknown_items: list[str] = Field(
        default=[],
        description="Lots of clicks, bids and purchases that the index does not have: these events are in the log and in no "
        "history. Left out where there are none.",
    )


def events_router(
    sink: EventSink,
    record: Callable[[Sequence[Interaction]], Sequence[str]] = lambda interactions: (),
    lists: ServedLists = UNSIGNED,
) -> APIRouter:
    """Return the router of `POST /events`.

    Args:
        sink: sink that stores the rows.
        record: adds interactions to the histories of their buyers and raises nothing; returns the ids that no item has.
        lists: verifies proofs, see create_app().
    """
    router = APIRouter(route_class=StrictRoute)

    @router.post(
        "/events",
        status_code=HTTPStatus.ACCEPTED,
        response_model_exclude_defaults=True,
        responses={**BAD_BODY, **FOREIGN_ORIGIN},
    )
    def events(shown: ShownList, request: Request) -> EventsResult:
        """Store the interactions of a buyer with a list: impressions, clicks, bids, purchases."""
        rows = feedback_rows(shown.to_feedback(), datetime.now(UTC), lists, request.client.host if request.client else "")
        sink.append(rows)
        interactions = interactions_in(rows)
        unknown_items = list(record(interactions)) if interactions else []
        return EventsResult(accepted=len(rows), served=sum(row["served"] for row in rows), unknown_items=unknown_items)

    return router
