"""Errors as RFC 9457 writes them, and the one place where an error's type becomes a status."""

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
from starlette.types import ASGIApp, Receive, Scope, Send

from lambdas.query_api.questions import SEVERAL, SINGLE
from retrieval.errors import (
    FeedbackUnavailable,
    GavelError,
    IndexUnavailable,
    InvalidPhoto,
    InvalidQuery,
    NoImageBranch,
    TowerError,
    UnknownItem,
)
from retrieval.text import readable

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
MAX_BODY_BYTES = 1_000_000

# the first row that fits decides
STATUS: tuple[tuple[type[GavelError], HTTPStatus, str], ...] = (
    (InvalidPhoto, HTTPStatus.BAD_REQUEST, "invalid_photo"),
    (NoImageBranch, HTTPStatus.BAD_REQUEST, "no_image_branch"),
    (InvalidQuery, HTTPStatus.BAD_REQUEST, "invalid_query"),
    (UnknownItem, HTTPStatus.NOT_FOUND, "unknown_item"),
    (IndexUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "index_unavailable"),
    (TowerError, HTTPStatus.SERVICE_UNAVAILABLE, "tower_unavailable"),
    (FeedbackUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "feedback_unavailable"),
    (GavelError, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error"),
)


class Problem(BaseModel):
    """An error as RFC 9457 writes it; `type` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str


PROBLEM_TYPE = "application/problem+json"


def described(status: HTTPStatus, kinds: dict[str, str], headers: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """How an error stands in the OpenAPI document: `type` -> an example of its detail."""
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
    **described(HTTPStatus.BAD_REQUEST, {"invalid_query": "k is 101; allowed are 1 to 100"}),
    **described(
        HTTPStatus.SERVICE_UNAVAILABLE,
        {"index_unavailable": "OpenSearch at … does not answer", "tower_unavailable": "the query could not be encoded"},
        RETRY_AFTER,
    ),
}
BAD_PHOTO = described(
    HTTPStatus.BAD_REQUEST,
    {
        "invalid_photo": "the photo is damaged or cut short (image file is truncated); save it again",
        "no_image_branch": "tower … reads text alone, so its lots cannot be searched by photo",
        "invalid_query": "k is 101; allowed are 1 to 100",
    },
)
NO_FEEDBACK = described(
    HTTPStatus.SERVICE_UNAVAILABLE,
    {"feedback_unavailable": "the table of buyers' events does not answer", "index_unavailable": "OpenSearch at … does not answer"},
    RETRY_AFTER,
)
UNKNOWN_ITEM = described(HTTPStatus.NOT_FOUND, {"unknown_item": "index … has no lot 'v9'"})


def answer_problems(app: FastAPI) -> None:
    """Have an app answer every error with a problem, and refuse large bodies and addresses that are no UTF-8 unread."""
    app.add_middleware(_Limits)
    app.exception_handler(GavelError)(_gavel_problem)
    app.exception_handler(RequestValidationError)(_validation_problem)
    app.exception_handler(HTTPException)(_http_problem)


def problem(status: HTTPStatus, kind: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An RFC 9457 answer."""
    body = Problem(type=kind, title=status.phrase, status=status, detail=readable(detail))
    return JSONResponse(body.model_dump(), status, headers, media_type=PROBLEM_TYPE)


class _Limits:
    """Refuses an address that is no UTF-8, and a body that is too large, or of unknown size, before it is read.

    Plain ASGI: Starlette's middleware of functions runs every request in tasks of its own, which costs a search more than its
    answer's JSON does.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = _refusal(scope) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)


def _refusal(scope: Scope) -> JSONResponse | None:
    try:  # Starlette would read what is no UTF-8 as U+FFFD
        unquote_to_bytes((scope.get("raw_path") or b"") + scope["query_string"]).decode()
    except UnicodeDecodeError:
        return problem(HTTPStatus.BAD_REQUEST, "invalid_query", "the address is no UTF-8; percent-encode it as UTF-8")
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        return problem(HTTPStatus.BAD_REQUEST, "invalid_query", f"the body may have at most {MAX_BODY_BYTES} bytes")
    if "transfer-encoding" in headers:
        return problem(HTTPStatus.BAD_REQUEST, "invalid_query", "send the body whole, with its Content-Length, not in chunks")
    return None


async def _gavel_problem(request: Request, error: Exception) -> JSONResponse:
    status, kind = next((status, kind) for known, status, kind in STATUS if isinstance(error, known))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s: %s", kind, error)
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return problem(status, kind, str(error), retry)


async def _validation_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, (RequestValidationError, ValidationError))
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:] if part not in (SINGLE, SEVERAL)) or "body"
    return problem(HTTPStatus.BAD_REQUEST, "invalid_query", f"{where}: {first['msg']}")


async def _http_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = "invalid_query" if status is HTTPStatus.BAD_REQUEST else status.phrase.lower().replace(" ", "_")
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem(status, kind, str(error.detail), headers)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes of a path; Starlette names those of the first alone."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", None) or ()})
