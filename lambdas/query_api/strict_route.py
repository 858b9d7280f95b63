"""Routes that obey a request whole or refuse it: nothing is given twice, nothing is ignored, a body is what it says it is."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from inspect import isclass
from typing import Any, get_origin

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

MAX_NAME_CHARS = 100  # of a parameter's name that an answer quotes


class StrictRoute(APIRoute):
    """A route that refuses repeated and unknown query parameters, repeated JSON keys, and JSON under another Content-Type.

    FastAPI takes the last of several values and ignores what it does not know. A browser sends `text/plain` and forms to any origin
    without asking; JSON needs the permission of this one.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind the checks."""
        answer, repeatable = super().get_route_handler(), self._repeatable()

        async def checked(request: Request) -> Response:
            self._check_parameters(request, repeatable)
            if self.body_field is not None:
                _check_content_type(request)
            return await answer(_StrictRequest(request.scope, request.receive))

        return checked

    def _repeatable(self) -> dict[str, bool]:
        """Query parameter -> True if it takes several values."""
        repeatable = {}
        for field in self.dependant.query_params:
            kind = field.field_info.annotation
            infos = kind.model_fields if isclass(kind) and issubclass(kind, BaseModel) else {field.alias: field.field_info}
            repeatable |= {name: get_origin(info.annotation) is list for name, info in infos.items()}
        return repeatable

    def _check_parameters(self, request: Request, repeatable: dict[str, bool]) -> None:
        route = f"{request.method} {self.path_format}"
        for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
            shown = name[:MAX_NAME_CHARS]
            if name not in repeatable:
                takes = f"takes {', '.join(repeatable)}" if repeatable else "takes no query parameters"
                raise HTTPException(HTTPStatus.BAD_REQUEST, f"{shown}: there is no such parameter; {route} {takes}")
            if times > 1 and not repeatable[name]:
                raise HTTPException(HTTPStatus.BAD_REQUEST, f"{shown}: given {times} times; give it once")


class _StrictRequest(Request):
    """A request whose JSON names every key of an object once."""

    async def json(self) -> Any:
        return json.loads(await self.body(), object_pairs_hook=_read_object)


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        twice, times = next((name, times) for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise HTTPException(
            HTTPStatus.BAD_REQUEST, f"{twice[:MAX_NAME_CHARS]!a}: given {times} times in one object of the body; give it once"
        )
    return read


def _check_content_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type is {kind[:MAX_NAME_CHARS]!r}; send JSON as application/json"
        )
