"""Routes that write lots and their states, for the systems of the seller, which hold the write token."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Path, Query, Request
from pydantic import BaseModel, Field

from lambdas.query_api.problems import BAD_BODY, BAD_ITEM, document
from lambdas.query_api.questions import ItemId
from lambdas.query_api.strict_route import StrictRoute
from retrieval.contracts.item_puts import ItemPut, PutResult, read_put
from retrieval.contracts.item_states import Outcome, StateOutcome, StateUpdate, parse_state
from retrieval.contracts.items import epoch_ms, require_id
from retrieval.errors import InvalidInput, InvalidQuery

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
EXAMPLE_LOT = {
    "title": "red vase",
    "category": "vases",
    "current_price": 10,
    "ends_at": "2026-11-30T20:05:00Z",
    "image": "https://shop.example/photos/v1.jpg",
    "colour": "red",
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


class ItemResult(BaseModel):
    """The outcome of a lot that was put."""

    item_id: str
    outcome: Outcome = Field(description="`applied`, or `stale`: the index has a newer row or deletion of the lot.")
    tower_id: str = Field(description="Tower that encoded the lot.")
    version: int = Field(description="Version of the row, in ms since 1970.")
    has_photo: bool = Field(description="True if a photo was read and encoded.")
    photo_faults: list[str] = Field([], description="Why photos cannot be read; the lot was written without them.")
    timings_ms: dict[str, float] = Field(
        description="Time spent on the batch that the lot was in: `photo`, `encode`, `index`; and `total`, from arrival to answer."
    )


class StateResults(BaseModel):
    """The outcomes of updates, in their order."""

    results: list[StateResult]


def item_states_router(
    update: Callable[[Sequence[StateUpdate]], list[StateOutcome]],
    delete: Callable[[str, int], Outcome],
    put: Callable[[Sequence[ItemPut]], list[PutResult]],
    token: str,
) -> APIRouter:
    """Return the router of the routes that write.

    Args:
        update: carries out updates, such as SearchService.update_states().
        delete: deletes an item at a version, such as SearchService.delete_item().
        put: encodes and writes whole lots, such as ItemWriter.put().
        token: token that callers must send; empty refuses every call.
    """

    def check_token(request: Request) -> None:
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
        return _result(update([state])[0])

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
                states.append(_read(one, now))
                results.append(None)
            except InvalidInput as error:
                results.append(StateResult(item_id=str(one.get("item_id", ""))[:512], outcome="refused", reason=str(error)))
        outcomes = iter(update(states))
        return StateResults(results=[result or _result(next(outcomes)) for result in results])

    @router.put("/items/{item_id:path}", response_model_exclude_defaults=True, responses=BAD_ITEM)
    def put_item(
        item_id: Annotated[ItemId, Path(examples=["v1"])], body: Annotated[dict[str, Any], Body(examples=[EXAMPLE_LOT])]
    ) -> ItemResult:
        """Write a whole lot, new or in place of its row; the next search finds it.

        The body has the fields of a row of an item file, under any name that such a file may use; further fields are attributes.
        `photo` is a photo in Base64 (else `image` names one, as in item files). `version` is the time of the row in ms; without it
        `updated_at` counts, and without that the time of arrival. A row that breaks the item contract is refused with 422.
        """
        try:
            lot = read_put(body, item_id)
        except InvalidInput as error:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        (result,) = put([lot])
        if result.outcome == "refused":
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, result.reason)
        return ItemResult.model_validate(result, from_attributes=True)

    @router.delete("/items/{item_id:path}", response_model_exclude_defaults=True)
    def delete_item(
        item_id: Annotated[ItemId, Path(examples=["v1"])],
        version: Annotated[int | None, Query(ge=0, description="Version of the deletion; the time of arrival by default.")] = None,
    ) -> StateResult:
        """Delete a lot. A row of an older version does not bring it back; a later row does."""
        version = epoch_ms(datetime.now(UTC)) if version is None else version
        return StateResult(item_id=item_id, outcome=delete(item_id, version))

    return router


def _read(one: Mapping[str, Any], now: datetime) -> StateUpdate:
    fields = {name: value for name, value in one.items() if name != "item_id"}
    if "item_id" not in one:
        raise InvalidInput("item_id is missing")
    return parse_state(one["item_id"], fields, now)


def _result(outcome: StateOutcome) -> StateResult:
    return StateResult(item_id=outcome.item_id, outcome=outcome.outcome)
