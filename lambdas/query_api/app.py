"""The HTTP face of search: one FastAPI app, served by uvicorn on a laptop and by Mangum in Lambda."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from retrieval.errors import GavelError, IndexUnavailable, InvalidQuery, TowerError, UnknownItem
from retrieval.index.base import Filter
from retrieval.search import MAX_K, MAX_QUERY_CHARS, Mode, SearchAnswer, SearchRequest, SearchService

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
MAX_BODY_BYTES = 1_000_000

# the one place where an error's type becomes a status; the first row that fits decides
STATUS: tuple[tuple[type[GavelError], HTTPStatus, str], ...] = (
    (InvalidQuery, HTTPStatus.BAD_REQUEST, "invalid_query"),
    (UnknownItem, HTTPStatus.NOT_FOUND, "unknown_item"),
    (IndexUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "index_unavailable"),
    (TowerError, HTTPStatus.SERVICE_UNAVAILABLE, "tower_unavailable"),
    (GavelError, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error"),
)


class SearchQuery(BaseModel):
    """What `/search` takes, in the query string or as a JSON body."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"q": "luxury vintage watches", "k": 10, "max_price": 500}}
    )

    q: str = Field(min_length=1, max_length=MAX_QUERY_CHARS, description="What the buyer typed.")
    k: int = Field(10, ge=1, le=MAX_K, description="How many lots to answer with.")
    mode: Mode = Field("hybrid", description="Which retrievers look: both, vectors alone, words alone.")
    category: str | None = Field(None, description="Only lots of this category.")
    brand: str | None = Field(None, description="Only lots of this brand.")
    min_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    max_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    min_seller_rating: float | None = Field(None, ge=0, le=5)

    def request(self) -> SearchRequest:
        """The same question as the core asks it."""
        where = Filter(
            category=self.category,
            brand=self.brand,
            min_price=self.min_price,
            max_price=self.max_price,
            min_seller_rating=self.min_seller_rating,
        )
        return SearchRequest(self.q, self.k, self.mode, where)


class Lot(BaseModel):
    """One lot of the answer."""

    rank: int
    item_id: str
    score: float
    similarity: float
    fields: dict[str, Any]


class Answer(BaseModel):
    """The ranked lots and how they came about."""

    results: list[Lot]
    tower_id: str
    mode: Mode
    reranked: bool
    degraded: list[str]
    timings_ms: dict[str, float]


class Health(BaseModel):
    """The live index."""

    status: str
    index: str
    tower_id: str
    items: int


class Problem(BaseModel):
    """An error as RFC 9457 writes it; `type` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str


PROBLEM_TYPE = "application/problem+json"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": f"{HTTPStatus(status).phrase}: {kinds}",
        "content": {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}},
    }
    for status, kinds in ((400, "`invalid_query`"), (503, "`index_unavailable` or `tower_unavailable`, with Retry-After"))
}


def create_app(
    service: Callable[[], SearchService],
    cors_origins: Sequence[str] = (),
    on_answer: Callable[[SearchAnswer], None] = lambda answer: None,
) -> FastAPI:
    """Build the app.

    Args:
        service: gives the search service; called on the first request, so that importing loads no model.
        cors_origins: origins whose pages may read the answers.
        on_answer: is told of every search that was answered, for measurements.
    """
    app = FastAPI(title="Gavel", version="1", description="Find the auction lots to look at.", responses=PROBLEMS)
    app.middleware("http")(_limit_body)
    if cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    app.exception_handler(GavelError)(_gavel_problem)
    app.exception_handler(RequestValidationError)(_validation_problem)
    app.exception_handler(HTTPException)(_http_problem)

    def ask(query: SearchQuery) -> Answer:
        answer = service().search(query.request())
        on_answer(answer)
        return Answer.model_validate(asdict(answer))

    @app.get("/search")
    def search(query: Annotated[SearchQuery, Query()]) -> Answer:
        """Search by query string."""
        return ask(query)

    @app.post("/search")
    def search_by_body(query: SearchQuery) -> Answer:
        """Search by JSON body."""
        return ask(query)

    @app.get("/health")
    def health() -> Health:
        """Whether the live index answers, and how many lots it holds."""
        live = service().live()
        return Health(status="ok", index=live.index.name, tower_id=live.index.tower_id, items=live.index.count())

    app.openapi = lambda: _described(app)  # type: ignore[method-assign]  # FastAPI's own way to extend its description
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, without the 422 that FastAPI lists of itself: a bad question is a 400 here."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path in described["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            described["components"]["schemas"].pop(unused, None)
        app.openapi_schema = described
    return app.openapi_schema


def problem(status: HTTPStatus, kind: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An RFC 9457 answer."""
    body = Problem(type=kind, title=status.phrase, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, headers, media_type=PROBLEM_TYPE)


async def _limit_body(request: Request, call_next: Callable[[Request], Any]) -> Any:
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        return problem(HTTPStatus.BAD_REQUEST, "invalid_query", f"the body may have at most {MAX_BODY_BYTES} bytes")
    return await call_next(request)


async def _gavel_problem(request: Request, error: Exception) -> JSONResponse:
    status, kind = next((status, kind) for known, status, kind in STATUS if isinstance(error, known))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s: %s", kind, error)
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return problem(status, kind, str(error), retry)


async def _validation_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, (RequestValidationError, ValidationError))
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return problem(HTTPStatus.BAD_REQUEST, "invalid_query", f"{where}: {first['msg']}")


async def _http_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = "invalid_query" if status is HTTPStatus.BAD_REQUEST else status.phrase.lower().replace(" ", "_")
    return problem(status, kind, str(error.detail), dict(error.headers or {}))
