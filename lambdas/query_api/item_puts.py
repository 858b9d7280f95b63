"""The route that writes a whole lot, whose text and photo are encoded at once."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Path
from pydantic import BaseModel, Field

from lambdas.query_api.problems import BAD_ITEM
from lambdas.query_api.questions import ItemId
from retrieval.contracts.item_puts import ItemPut, PutResult, read_put
from retrieval.contracts.item_states import Outcome
from retrieval.errors import InvalidInput

EXAMPLE_LOT = {
    "title": "red vase",
    "category": "vases",
    "current_price": 10,
    "ends_at": "2026-11-30T20:05:00Z",
    "image": "https://shop.example/photos/v1.jpg",
    "colour": "red",
}


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


def add_item_puts(router: APIRouter, put: Callable[[Sequence[ItemPut]], list[PutResult]]) -> None:
    """Add the route to the router of the routes that write, which checks the callers.

    Args:
        router: router of item_states_router().
        put: encodes and writes whole lots, such as ItemWriter.put().
    """

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
