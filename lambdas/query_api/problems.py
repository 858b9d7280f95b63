"""Errors as RFC 9457 problems. Only this module maps error types to statuses."""

import logging
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lambdas.query_api.questions import SEVERAL, SINGLE
from retrieval.errors import (
    FeedbackUnavailable,
    GavelError,
    IndexMissing,
    IndexUnavailable,
    InvalidPhoto,
    InvalidQuery,
    NoImageBranch,
    Overloaded,
    RequestAbandoned,
    TowerError,
    UnknownItem,
)
from retrieval.text.analysis import readable

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
MAX_COMPLAINTS = 3  # faults of a request that an answer names, such as a missing field and the misspelt one beside it
MAX_BODY_BYTES = 1_000_000
MAX_EVENTS_BYTES = 400_000  # MAX_EVENTS events with the longest ids, written in escapes
MAX_ANSWER_BYTES = 5_500_000  # API Gateway takes 6 MB of a function's answer, including what stands around the body

# the first row whose error type matches decides
STATUS: tuple[tuple[type[GavelError], HTTPStatus, str], ...] = (
    (InvalidPhoto, HTTPStatus.BAD_REQUEST, "invalid_photo"),
    (NoImageBranch, HTTPStatus.BAD_REQUEST, "no_image_branch"),
    (InvalidQuery, HTTPStatus.BAD_REQUEST, "invalid_query"),
    (UnknownItem, HTTPStatus.NOT_FOUND, "unknown_item"),
    (IndexUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "index_unavailable"),
    (TowerError, HTTPStatus.SERVICE_UNAVAILABLE, "tower_unavailable"),
    (Overloaded, HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    (RequestAbandoned, HTTPStatus.REQUEST_TIMEOUT, "request_abandoned"),  # nobody reads it
    (FeedbackUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "feedback_unavailable"),
    (GavelError, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error"),
)
# The details of server errors. An error's own message names addresses and paths, so it goes only to the log.
# The first row whose error type matches decides.
PUBLIC_DETAIL: tuple[tuple[type[Exception], str], ...] = (
    (IndexMissing, "nothing has been indexed yet; whoever runs this server indexes a release with `gavel index`"),
    (IndexUnavailable, "the index does not answer; try again in a moment"),
    (TowerError, "query or lot cannot be encoded right now; try again in a moment, or search by words alone (mode=keyword)"),
    (Overloaded, "so many requests wait for their turn that this one would come late; try again in a few seconds"),
    (FeedbackUnavailable, "what buyers did cannot be written, read or erased right now; send the request again in a moment"),
    (Exception, "the server failed, and its log says why; try again, and tell whoever runs it if that does not help"),
)
# headers of every answer, unless the answer sets them itself
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
TOO_LARGE_TYPE = "body_too_large"  # the phrase of 413 depends on the version of Python
HTTP_TYPES = {
    HTTPStatus.BAD_REQUEST: "invalid_query",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TOO_LARGE_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY: "invalid_item",
}


class Problem(BaseModel):
    """An error in the form of RFC 9457. `type` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str


PROBLEM_TYPE = "application/problem+json"


def document(status: HTTPStatus, kinds: dict[str, str], headers: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a status; `kinds` maps each `type` of error to an example of its detail."""
    examples = {
        kind: {"value": Problem(type=kind, title=status.phrase, status=status, detail=detail).model_dump()}
        for kind, detail in kinds.items()
    }
    schema = Problem.model_json_schema()
    answer: dict[str, Any] = {
        "description": f"{status.phrase}: {' or '.join(f'`{kind}`' for kind in kinds)}",
        "content": {PROBLEM_TYPE: {"schema": schema, "examples": examples}},
    }
    return {int(status): {**answer, **({"headers": headers} if headers else {})}}


RETRY_AFTER = {"Retry-After": {"description": "Seconds until it is worth to ask again.", "schema": {"type": "integer"}}}
PROBLEMS = {
    **document(HTTPStatus.BAD_REQUEST, {"invalid_query": "k is 101; allowed are 1 to 100"}),
    **document(HTTPStatus.TOO_MANY_REQUESTS, {"too_many_requests": "your address sends more searches than …"}, RETRY_AFTER),
    **document(
        HTTPStatus.SERVICE_UNAVAILABLE,
        {
            "index_unavailable": "the index does not answer",
            "tower_unavailable": "the query cannot be encoded right now",
            "overloaded": "too many requests wait for their turn already; ask again in 1 s",
        },
        RETRY_AFTER,
    ),
}
TOO_LARGE = document(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {TOO_LARGE_TYPE: "the body may have at most 1000000 bytes; send …"})
BAD_BODY = {
    **TOO_LARGE,
    **document(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"unsupported_media_type": "the Content-Type is 'text/plain'; send JSON as …"}),
}
FOREIGN_ORIGIN = document(HTTPStatus.FORBIDDEN, {"foreign_origin": "pages of 'https://elsewhere.example' may not write here"})
BAD_PHOTO = {
    **document(
        HTTPStatus.BAD_REQUEST,
        {
            "invalid_photo": "the photo is damaged or cut short (image file is truncated); save it again",
            "no_image_branch": "tower … reads text alone, so its lots cannot be searched by photo",
            "invalid_query": "k is 101; allowed are 1 to 100",
        },
    ),
    **TOO_LARGE,
}
BAD_ITEM = document(HTTPStatus.UNPROCESSABLE_ENTITY, {"invalid_item": "current_price must be >= 0 and <= 1000000000000, not -1"})
NO_FEEDBACK = document(
    HTTPStatus.SERVICE_UNAVAILABLE,
    {"feedback_unavailable": "what buyers did cannot be read right now", "index_unavailable": "the index does not answer"},
    RETRY_AFTER,
)
UNKNOWN_ITEM = document(HTTPStatus.NOT_FOUND, {"unknown_item": "index … has no lot 'v9'"})


def answer_problems(app: FastAPI) -> None:
    """Make an app answer every error with a problem, and refuse bodies and answers that are too large."""
    app.add_middleware(_Limits)
    app.exception_handler(GavelError)(_gavel_problem)
    app.exception_handler(RequestValidationError)(_validation_problem)
    app.exception_handler(HTTPException)(_http_problem)
    app.exception_handler(Exception)(_unexpected_problem)


def problem(status: HTTPStatus, kind: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an answer in the form of RFC 9457."""
    body = Problem(type=kind, title=status.phrase, status=status, detail=readable(detail))
    return JSONResponse(body.model_dump(), status, headers, media_type=PROBLEM_TYPE)


class _Limits:
    """Middleware that refuses an address that is not UTF-8, a chunked body, and a body or an answer that is too large.

    A body is refused by its Content-Length before it is read, or without one while it is read.

    It is plain ASGI, because Starlette's function middleware runs every request in additional tasks. That costs a search more than
    writing the JSON of its answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        max_bytes = MAX_EVENTS_BYTES if scope["path"].rstrip("/").endswith("/events") else MAX_BODY_BYTES
        received = 0

        async def receive_within_limit() -> Message:  # through API Gateway a body may come without a Content-Length
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(max_bytes))
            return message

        refusal = _refuse(scope, max_bytes)
        if refusal:
            return await refusal(scope, receive, send)
        await self._app(scope, receive_within_limit, _limit_answer(scope, receive, send))


def _limit_answer(scope: Scope, receive: Receive, send: Send) -> Send:
    """Return a `send` that replaces too large an answer by a problem, because Lambda would answer 502 without a reason."""
    too_large = False

    async def send_or_refuse(message: Message) -> None:
        nonlocal too_large
        if message["type"] == "http.response.start":
            length = int(Headers(raw=message["headers"]).get("content-length", "0"))
            too_large = length > MAX_ANSWER_BYTES
            if too_large:
                fault = f"the answer would have {length:,} bytes, at most {MAX_ANSWER_BYTES:,} can be sent"
                remedy = "ask for fewer lots or queries at a time, or without explain"
                await problem(HTTPStatus.BAD_REQUEST, "invalid_query", f"{fault}; {remedy}")(scope, receive, send)
        if not too_large:
            await send(message)

    return send_or_refuse


def _refuse(scope: Scope, max_bytes: int) -> JSONResponse | None:
    try:  # Starlette would read invalid bytes as U+FFFD
        unquote_to_bytes((scope.get("raw_path") or b"") + scope["query_string"]).decode()
    except UnicodeDecodeError:
        return problem(HTTPStatus.BAD_REQUEST, "invalid_query", "the address is no UTF-8; percent-encode it as UTF-8")
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > max_bytes:
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE_TYPE, _too_large(max_bytes))
    if "transfer-encoding" in headers:
        return problem(HTTPStatus.BAD_REQUEST, "invalid_query", "send the body whole, with its Content-Length, not in chunks")
    return None


def _too_large(max_bytes: int) -> str:
    return f"the body may have at most {max_bytes} bytes; send less at a time"


async def _gavel_problem(request: Request, error: Exception) -> JSONResponse:
    status, kind = next((status, kind) for error_type, status, kind in STATUS if isinstance(error, error_type))
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(status, kind, str(error))
    log.error("%s: %s", kind, error)
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return problem(status, kind, _public_detail(error), retry)


async def _unexpected_problem(request: Request, error: Exception) -> JSONResponse:
    """Answer an unexpected error. This runs outside of all middleware; Starlette raises the error again for the server's log."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", _public_detail(error), SECURITY_HEADERS)


def _public_detail(error: Exception) -> str:
    return next(detail for error_type, detail in PUBLIC_DETAIL if isinstance(error, error_type))


async def _validation_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, (RequestValidationError, ValidationError))
    return problem(HTTPStatus.BAD_REQUEST, "invalid_query", "; ".join(map(_complaint, error.errors()[:MAX_COMPLAINTS])))


def _complaint(error: dict[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"body: no valid JSON ({error['ctx']['error']} at character {error['loc'][-1]})"
    source, *parts = error["loc"]
    if source == "query":
        parts = parts[:1]  # without the place among the values of a parameter that is given several times
    place = ".".join(str(part) for part in parts if part not in (SINGLE, SEVERAL)) or "body"
    return f"{place}: {error['msg']}"


async def _http_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = HTTP_TYPES.get(status) or status.phrase.lower().replace(" ", "_")
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return problem(status, kind, str(error.detail), headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes of a path, because Starlette names only the methods of the first route."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", None) or ()})
