"""The search page beside the API, with what only this machine can give it: photos, and words to suggest."""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Scope

from local.page_words import PageWords
from local.photo_shelf import PhotoShelf
from retrieval.errors import UnknownItem
from retrieval.items import require_id
from retrieval.search import SearchService

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
GUARDS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "Cache-Control": "no-cache",
    **GUARDS,
}
PHOTO_HEADERS = {"Cache-Control": "private, max-age=3600", **GUARDS}


class _Assets(StaticFiles):
    """The page's scripts and styles, asked for anew on each visit: they change with the program."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update({"Cache-Control": "no-cache", **GUARDS})
        return answer


def add_page(app: FastAPI, service: Callable[[], SearchService], photos: PhotoShelf, currency: str = "") -> None:
    """Serve the page at `/` of the API's app.

    Args:
        app: gets the routes; none of them is in its OpenAPI description.
        service: as the app's own.
        photos: where lots' photos are found.
        currency: ISO 4217 code of the prices, such as EUR; empty shows bare numbers.
    """
    words = PageWords()
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @routes.get("/config.json")
    def config() -> dict[str, str]:
        return {"api": "", "photos": "photos/", "words": "words.json", "currency": currency}

    @routes.get("/words.json")
    def words_to_suggest() -> dict[str, Any]:
        return words.of(service().live().index)

    @routes.get("/photos/{item_id:path}")
    def photo(item_id: str) -> Response:
        found = service().live().index.fetch([require_id("item_id", item_id)])
        if not found:
            raise UnknownItem(f"no lot {item_id!r} is in the index; ask for one that a search answered with")
        jpeg = photos.jpeg(found[0].document)
        if jpeg is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"lot {item_id!r} has no photo in a folder that may be shown; see --photos")
        return Response(jpeg, media_type="image/jpeg", headers=PHOTO_HEADERS)

    app.include_router(routes)
    app.mount("/assets", _Assets(directory=PAGE / "assets"))
