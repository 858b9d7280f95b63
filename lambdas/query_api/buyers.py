"""The routes of one buyer: read and erase the history.

The routes ask only for an id. So ids must not be guessable, or a shop's backend must stand before the routes (docs/feedback.md).
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Path, Query

from lambdas.query_api.answers import EraseResult, History, HistoryEntry
from lambdas.query_api.problems import FOREIGN_ORIGIN, NO_FEEDBACK
from retrieval.contracts.items import MAX_ID_BYTES
from retrieval.search.service import MAX_INTERACTIONS, SearchService

BuyerInPath = Annotated[str, Path(min_length=1, max_length=MAX_ID_BYTES, examples=["b2a7c1d4"])]


def add_buyers(app: FastAPI, service: Callable[[], SearchService]) -> None:
    """Add the routes of buyers to an app; `service` as in create_app()."""

    @app.get("/buyers/{buyer_id:path}", responses=NO_FEEDBACK)
    def history(
        buyer_id: BuyerInPath,
        limit: Annotated[int, Query(ge=1, le=MAX_INTERACTIONS, description="Maximum number of interactions, the latest.")] = 50,
    ) -> History:
        """Read the recent interactions of a buyer, the latest first, with the current fields of their lots."""
        return History(acts=[HistoryEntry.of(past) for past in service().history(buyer_id, limit)])

    @app.delete("/buyers/{buyer_id:path}", responses={**NO_FEEDBACK, **FOREIGN_ORIGIN})
    def forget(buyer_id: BuyerInPath) -> EraseResult:
        """Erase the history of a buyer. Rows for training stay until they expire (docs/feedback.md)."""
        return EraseResult(erased=service().buyers.erase(buyer_id))
