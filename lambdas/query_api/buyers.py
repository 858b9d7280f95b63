"""The routes of one buyer: read and erase their history.

They ask for an id alone. So ids must not be guessable, or the routes stand behind the backend of a shop (docs/feedback.md).
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Path, Query

from lambdas.query_api.answers import Done, Erased, History
from lambdas.query_api.problems import FOREIGN_ORIGIN, NO_FEEDBACK
from retrieval.contracts.items import MAX_ID_BYTES
from retrieval.search.service import MAX_INTERACTIONS, SearchService

BuyerInPath = Annotated[str, Path(min_length=1, max_length=MAX_ID_BYTES, examples=["b2a7c1d4"])]


def add_buyers(app: FastAPI, service: Callable[[], SearchService]) -> None:
    """Add the routes; arguments as create_app()'s."""

    @app.get("/buyers/{buyer_id:path}", responses=NO_FEEDBACK)
    def history(
        buyer_id: BuyerInPath,
        limit: Annotated[int, Query(ge=1, le=MAX_INTERACTIONS, description="How many acts, the latest.")] = 50,
    ) -> History:
        """What a buyer did lately, the latest first, with the lots as they are now."""
        return History(acts=[Done.of(past) for past in service().history(buyer_id, limit)])

    @app.delete("/buyers/{buyer_id:path}", responses={**NO_FEEDBACK, **FOREIGN_ORIGIN})
    def forget(buyer_id: BuyerInPath) -> Erased:
        """Forget what a buyer did. Rows that training reads are another matter: docs/feedback.md says when those go."""
        return Erased(erased=service().buyers.erase(buyer_id))
