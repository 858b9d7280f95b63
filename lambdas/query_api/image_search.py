"""`POST /search/image`: the body is the photo, and the query string holds all other parameters."""

from collections.abc import Callable
from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, Query, Request
from pydantic import Field

from lambdas.query_api.answers import Answer
from lambdas.query_api.problems import BAD_PHOTO, MAX_BODY_BYTES
from lambdas.query_api.questions import Nearest
from retrieval.errors import InvalidPhoto, Overloaded
from retrieval.search.service import MAX_OFFSET, MAX_QUERY_CHARS, SearchAnswer, SearchRequest, SearchService

# API Gateway treats bodies of these types as binary (infra/query_api.py) and others as text, which ruins a photo
PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp")
PATIENCE_S = 2.0  # maximum time that a photo waits for its turn
MAX_WAITING = 20  # photos that may wait, each of a megabyte at most
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"A still JPEG, PNG or WebP of at most {MAX_BODY_BYTES:,} bytes, as it is: no form around it.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in PHOTO_TYPES},
    }
}


class PhotoQuery(Nearest):
    """Parameters of `POST /search/image` beside the photo."""

    text: str = Field("", max_length=MAX_QUERY_CHARS, description="Words beside the photo; they weigh as much as it does.")
    offset: int = Field(0, ge=0, le=MAX_OFFSET, description="Lots to pass over, for a later page.")
    explain: bool = Field(False, description="Explain the place of every lot.")

    def to_request(self) -> SearchRequest:
        """Convert to a request of the core."""
        return SearchRequest(self.text, self.k, "semantic", self.to_filter(), offset=self.offset, explain=self.explain)


async def read_photo_body(request: Request) -> bytes:
    """Return the body of a request if its content type is in PHOTO_TYPES.

    Raises:
        InvalidPhoto: the content type is another one.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type not in PHOTO_TYPES:
        allowed = ", ".join(PHOTO_TYPES)
        raise InvalidPhoto(f"the Content-Type is {content_type[:100]!r}; send the photo as the body, with one of {allowed}")
    return await request.body()


def add_image_search(app: FastAPI, service: Callable[[], SearchService], on_answer: Callable[[SearchAnswer], None]) -> None:
    """Add the route of searches by photo to an app; `service` and `on_answer` as in create_app().

    Photos are decoded and searched in a separate thread, one at a time, because the largest takes a second and 400 MB. Searches by
    words must not wait for them.
    """
    turn = anyio.Lock()
    waiting = 0

    @app.post("/search/image", responses=BAD_PHOTO, openapi_extra=BODY)
    async def search_image(query: Annotated[PhotoQuery, Query()], photo: Annotated[bytes, Depends(read_photo_body)]) -> Answer:
        """Search by a photo, with or without words. Only vectors are searched, and nothing is re-ranked."""
        nonlocal waiting
        request = query.to_request()
        if waiting >= MAX_WAITING:
            raise Overloaded(f"{waiting} photos wait to be looked at before this one; ask again in a few seconds")
        waiting += 1
        try:
            with anyio.fail_after(PATIENCE_S):
                await turn.acquire()
        except TimeoutError:
            raise Overloaded("other photos are looked at before this one; ask again in a few seconds") from None
        finally:
            waiting -= 1
        try:
            answer = await run_sync(lambda: service().search_image(photo, request), limiter=anyio.CapacityLimiter(1))
        finally:
            turn.release()
        on_answer(answer)
        return Answer.of(answer)
