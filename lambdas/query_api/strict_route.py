"""Routes that refuse repeated and unknown parameters, repeated JSON keys, and bodies of another content type."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from inspect import isclass
from typing import Any, get_origin

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

MAX_NAME_CHARS = 100  # characters of a parameter's name that an answer quotes


class StrictRoute(APIRoute):
    """A route that refuses repeated and unknown query parameters, repeated JSON keys, and JSON under another Content-Type.

    FastAPI itself takes the last of several values and ignores unknown parameters. A browser sends `text/plain` and forms to any
    origin without asking; JSON needs this origin's permission.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler with the checks before it."""
        answer, (repeatable, prefixes) = super().get_route_handler(), self._repeatable()

        async def check_and_answer(request: Request) -> Response:
            self._check_parameters(request, repeatable, prefixes)
            if self.body_field is not None:
                _check_content_type(request)
            return await answer(_StrictRequest(request.scope, request.receive))

        return check_and_answer

    def _repeatable(self) -> tuple[dict[str, bool], tuple[str, ...]]:
        """Return query parameter -> True if it takes several values, and the beginnings of further parameters that do."""
        repeatable: dict[str, bool] = {}
        prefixes: list[str] = []
        for field in self.dependant.query_params:
            model = field.field_info.annotation
            infos = model.model_fields if isclass(model) and issubclass(model, BaseModel) else {field.alias: field.field_info}
            repeatable |= {name: get_origin(info.annotation) is list for name, info in infos.items()}
            prefixes += getattr(model, "repeatable_prefixes", ())
        return repeatable, tuple(prefixes)

    def _check_parameters(self, request: Request, repeatable: dict[str, bool], prefixes: tuple[str, ...]) -> None:
        route = f"{request.method} {self.path_format}"
        for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
            shown = name[:MAX_NAME_CHARS]
            if name.startswith(prefixes):
                continue
            if name not in repeatable:
                names = [*repeatable, *(f"{prefix}NAME" for prefix in prefixes)]
                takes = f"takes {', '.join(names)}" if names else "takes no query parameters"
                raise HTTPException(HTTPStatus.BAD_REQUEST, f"{shown}: there is no such parameter; {route} {takes}")
            if times > 1 and not repeatable[name]:
                raise HTTPException(HTTPStatus.BAD_REQUEST, f"{shown}: given {times} times; give it once")


class _StrictRequest(Request):
    """A request that refuses repeated keys in its JSON."""

    async def json(self) -> Any:
        return json.loads(await self.body(), object_pairs_hook=read_unique_keys)


def read_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated, times = next((name, times) for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise HTTPException(
            HTTPStatus.BAD_REQUEST, f"{repeated[:MAX_NAME_CHARS]!a}: given {times} times in one object of the body; give it once"
        )
    return values


def _check_content_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    is_json = content_type.startswith("application/") and content_type.endswith("+json")
    if content_type != "application/json" and not is_json:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the Content-Type is {content_type[:MAX_NAME_CHARS]!r}; send JSON as application/json",
        )
