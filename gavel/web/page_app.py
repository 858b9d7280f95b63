"""The search page beside the API, with photos and suggestions, which only `gavel serve` has."""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Response
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Scope

from gavel.web.photo_files import PhotoFiles
from gavel.web.suggestions import Suggestions
from lambdas.query_api.problems import RETRY_AFTER_S
from lambdas.query_api.strict_route import StrictRoute
from processing.embedding.thumbnails import Side
from retrieval.contracts.items import MAX_PHOTOS, require_id
from retrieval.errors import UnknownItem
from retrieval.search.service import SearchService

PAGE = Path(__file__).parent / "page"
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",  # blob: is the photo that a buyer drops
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "Cache-Control": "no-cache",
}
PHOTO_HEADERS = {"Cache-Control": "private, max-age=3600"}


class _Assets(StaticFiles):
    """The page's scripts and styles. Browsers revalidate them on each visit, because they change with the program."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def add_page(app: FastAPI, service: Callable[[], SearchService], photos: PhotoFiles, currency: str = "") -> None:
    """Serve the page at `/` of the API's app, and the description of the API at `/docs`.

    Args:
        app: app that gets the routes; the OpenAPI description leaves them out.
        service: returns the app's search service.
        photos: photos of the items.
        currency: ISO 4217 code of the prices, such as EUR; empty shows bare numbers.
    """
    suggestions = Suggestions()
    routes = APIRouter(include_in_schema=False, lifespan=photos.lifespan)
    data = APIRouter(include_in_schema=False, route_class=StrictRoute)  # a page's own address may hold any parameters

    @routes.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @routes.get("/docs")
    def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers=PAGE_HEADERS)

    @routes.get("/redoc")
    def redoc() -> RedirectResponse:
        return RedirectResponse("docs")

    @data.get("/config.json")
    def config() -> dict[str, str]:
        return {"api": "", "photos": "photos/", "words": "words.json", "currency": currency}

    @data.get("/words.json")
    def words_to_suggest() -> dict[str, Any]:
        return suggestions.of(service().live().index)

    @data.get("/photos/{item_id:path}")
    async def photo(item_id: str, side: Side = Side.LARGE, number: Annotated[int, Query(ge=0, lt=MAX_PHOTOS)] = 0) -> Response:
        required_id = require_id("item_id", item_id)
        items = await run_in_threadpool(lambda: service().live().index.fetch([required_id]))
        if not items:
            raise UnknownItem(f"no lot {item_id!r} is in the index; ask for one that a search answered with")
        try:
            jpeg = await photos.jpeg(items[0].document, side, number)
        except TimeoutError:
            detail = "the photo is still to be drawn, and others are before it; ask again"
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(RETRY_AFTER_S)}) from None
        if jpeg is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"lot {item_id!r} has no photo in a folder that may be shown; see --photos")
        return Response(jpeg, media_type="image/jpeg", headers=PHOTO_HEADERS)

    app.include_router(routes)
    app.include_router(data)
    app.mount("/assets", _Assets(directory=PAGE / "assets"))
