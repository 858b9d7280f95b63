"""Count all requests by route and status, and answer `/metrics` on a separate port."""

import time
from collections.abc import Sequence
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gavel.web.metrics import ServerMetrics
from lambdas.query_api.callers import CallerCheck, CallerLimits
from lambdas.query_api.problems import problem

PATH = "/metrics"
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"})
OTHER = "other"  # label of unknown methods and paths; otherwise callers could invent any number of label values
ABANDONED = 499  # as nginx counts a client that hung up before its answer


class MetricsMiddleware:
    """The outermost middleware, which counts all requests, refused ones included. It is plain ASGI; problems.py says why."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, port: int, hosts: Sequence[str] | None) -> None:
        """Wrap an app.

        Args:
            app: any ASGI app.
            metrics: metrics that count the requests.
            port: the port on which nothing but `/metrics` is served.
            hosts: values of the Host header, besides loopback, with which `/metrics` is answered; None allows any.
        """
        self._app, self._metrics, self._port = app, metrics, port
        self._exposition = CallerCheck(self._expose, CallerLimits(hosts), ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["server"][1] == self._port:
            return await self._exposition(scope, receive, send)
        started, status = time.perf_counter(), 0

        def count() -> None:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            self._metrics.count_request(method, _route_of(scope), status, time.perf_counter() - started)

        async def send_and_count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                count()
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        except Exception:  # the server answers it with 500, unless the head was already sent
            if not status:
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                count()
            raise
        if not status:
            status = ABANDONED
            count()

    async def _expose(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Response
        if scope["path"] != PATH:
            answer = problem(HTTPStatus.NOT_FOUND, "not_found", f"this port answers {PATH} alone")
        elif scope["method"] not in ("GET", "HEAD"):
            answer = problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "metrics are read by GET", {"Allow": "GET, HEAD"})
        else:
            self._metrics.write()
            body, content_type = await run_in_threadpool(self._metrics.expose, Headers(scope=scope).get("accept", ""))
            answer = Response(body, headers={"Content-Type": content_type})
        await answer(scope, receive, send)


def _route_of(scope: Scope) -> str:
    """Return the path template of a request: from routing, or by its path if the request was refused before routing."""
    if template := getattr(scope.get("route"), "path_format", None):
        return str(template)
    app = scope.get("app")
    for route in iter_route_contexts(app.routes) if isinstance(app, FastAPI) else ():
        if route.path_format and getattr(route, "path_regex", None) and route.path_regex.match(scope["path"]):
            return route.path_format
    return OTHER
