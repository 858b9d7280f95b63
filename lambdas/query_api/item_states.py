"""Routes that write states of lots, for the systems of the seller, which hold a token or, on AWS, sign with IAM."""

import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Path, Query, Request
from pydantic import BaseModel, Field

from lambdas.query_api.problems import BAD_BODY, document
from lambdas.query_api.questions import ItemId
from lambdas.query_api.strict_route import StrictRoute
from retrieval.contracts.documents import Deletion
from retrieval.contracts.item_states import Outcome, StateOutcome, StateUpdate, parse_state
from retrieval.contracts.items import epoch_ms, require_id
from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.index.port import VectorIndex

MAX_STATES = 1_000
WRITE_TOKEN = "GAVEL_WRITE_TOKEN"  # variable with the token; a secret, so no field of Settings
EXAMPLE = {
    "version": 1795982400123,
    "current_price": 120.5,
    "bid_count": 7,
    "ends_at": "2026-11-30T20:05:00Z",
    "reserve_met": True,
    "status": "open",
}
UNAUTHORIZED = {
    **document(HTTPStatus.UNAUTHORIZED, {"unauthorized": "send the write token: Authorization: Bearer …"}),
    **document(HTTPStatus.FORBIDDEN, {"forbidden": f"this server takes no lots or states; start it with {WRITE_TOKEN}"}),
}


class StateResult(BaseModel):
    """The outcome of one update."""

    item_id: str
    outcome: Outcome = Field(
        description="`stale`: every field has a newer version. `unknown`: no such lot yet; the state is kept for it. "
        "`refused`: `reason` says why."
    )
    reason: str = ""


class StateResults(BaseModel):
    """The outcomes of updates, in their order."""

    results: list[StateResult]


def item_states_router(
    index: Callable[[], VectorIndex],
    token: str | None,
    forget_answers: Callable[[], None] = lambda: None,
) -> APIRouter:
    """Return the router of the routes that write.

    Args:
        index: returns the live index, whose acknowledged updates are durable.
        token: token that callers must send; empty refuses every call. None checks nobody, because API Gateway did.
        forget_answers: called after a deletion, so that no cached answer shows the lot.
    """

    def check_token(request: Request) -> None:
        if token is None:
            return
        if not token:
            raise HTTPException(HTTPStatus.FORBIDDEN, f"this server takes no lots or states; start it with {WRITE_TOKEN}")
        kind, _, sent = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), token.encode()):
            headers = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "send the write token: Authorization: Bearer …", headers)

    router = APIRouter(route_class=StrictRoute, dependencies=[Depends(check_token)], responses={**BAD_BODY, **UNAUTHORIZED})

    @router.patch("/items/{item_id:path}/state", response_model_exclude_defaults=True)
    def set_state(
        item_id: Annotated[ItemId, Path(examples=["v1"])], body: Annotated[dict[str, Any], Body(examples=[EXAMPLE])]
    ) -> StateResult:
        """Set fields of a lot's state: price, bids, end, reserve, status (open, withdrawn, sold, unsold), sold price.

        A field that is not named is left alone, and null clears it. `version` is the time in ms, or a counter of the lot's changes;
        without it the time of arrival counts. A field keeps its value if its version is newer.
        """
        try:
            state = parse_state(require_id("item_id", item_id), body)
        except InvalidInput as error:
            raise InvalidQuery(str(error)) from error
        return _result(index().update_states([state])[0])

    @router.post("/items/state", response_model_exclude_defaults=True)
    def set_states(
        body: Annotated[list[dict[str, Any]], Body(min_length=1, max_length=MAX_STATES, examples=[[{"item_id": "v1", **EXAMPLE}]])],
    ) -> StateResults:
        """Set the states of up to 1,000 lots, each with its item_id; a state that is refused does not stop the others."""
        now = datetime.now(UTC)
        results: list[StateResult | None] = []
        states: list[StateUpdate] = []
        for one in body:
            try:
                states.append(read_state(one, now))
                results.append(None)
            except InvalidInput as error:
                results.append(StateResult(item_id=str(one.get("item_id", ""))[:512], outcome="refused", reason=str(error)))
        outcomes = iter(index().update_states(states))
        return StateResults(results=[result or _result(next(outcomes)) for result in results])

    @router.delete("/items/{item_id:path}", response_model_exclude_defaults=True)
    def delete_item(
        item_id: Annotated[ItemId, Path(examples=["v1"])],
        version: Annotated[int | None, Query(ge=0, description="Version of the deletion; the time of arrival by default.")] = None,
    ) -> StateResult:
        """Delete a lot. A row of an older version does not bring it back; a later row does."""
        version = epoch_ms(datetime.now(UTC)) if version is None else version
        live = index()
        report = live.upsert([Deletion(require_id("item_id", item_id), version)])
        live.refresh()
        forget_answers()
        return StateResult(item_id=item_id, outcome="stale" if report.stale else "applied")

    return router


def read_state(state: Any, now: datetime) -> StateUpdate:
    """Read one of several updates.

    Args:
        state: object with an item_id and the fields that parse_state() takes.
        now: time of arrival, the version of an update without one.

    Raises:
        InvalidInput: it is no such object; the message names the fault.
    """
    if not isinstance(state, Mapping):
        raise InvalidInput(f"a state is an object with an item_id, not {str(state)[:100]}")
    if "item_id" not in state:
        raise InvalidInput("item_id is missing")
    return parse_state(state["item_id"], {name: value for name, value in state.items() if name != "item_id"}, now)


def _result(outcome: StateOutcome) -> StateResult:
    return StateResult(item_id=outcome.item_id, outcome=outcome.outcome)
