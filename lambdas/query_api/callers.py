"""Who may call the API, under which name, and how often; and the headers that keep an answer from being read as anything else."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from threading import Lock
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lambdas.query_api.problems import problem

BURST_S = 5  # a client that was quiet may send as much at once as it may send in so many seconds
MAX_CLIENTS = 10_000  # whose latest requests are remembered
IPV6_PREFIX_BITS = 64  # what one subscriber is given
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SEARCH_PATHS = frozenset({"/search", "/search/image", "/encode_buyer", "/retrieve"})  # their POST changes nothing
CHARGE = "gavel.charge_searches"  # key of an ASGI scope
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What callers of an app may do.

    Attributes:
        hosts: names and addresses under which loopback may be addressed besides its own; None accepts any name.
        writes_per_second: events and erasures that one client address may send; 0 for no limit.
        searches_per_second: searches of one client address, each query of a POST counted; 0 for no limit.
    """

    hosts: Sequence[str] | None = None
    writes_per_second: float = 0
    searches_per_second: float = 0


class ClientLimit:
    """A token bucket a client. Threads may share it.

    A request is admitted while one token is left. What it costs above that is a debt that later requests wait for, so that a
    request may cost more than a bucket holds.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Know no client yet.

        Args:
            per_second: tokens that a client gets, > 0.
            clock: seconds, of any origin.
        """
        self._per_second, self._clock = per_second, clock
        self._capacity = max(1.0, per_second * BURST_S)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (tokens, at)
        self._lock = Lock()

    def admit(self, client: str) -> float:
        """Take one token of a client.

        Returns:
            0 if there was one, else the seconds until there is one.
        """
        with self._lock:
            tokens = self._tokens(client)
            self._put(client, tokens - 1 if tokens >= 1 else tokens)
        return max(0.0, 1 - tokens) / self._per_second

    def charge(self, client: str, tokens: float) -> None:
        """Take tokens of a client whose request was admitted, though it has fewer."""
        with self._lock:
            self._put(client, self._tokens(client) - tokens)

    def _tokens(self, client: str) -> float:
        tokens, at = self._buckets.get(client, (self._capacity, 0.0))
        return min(self._capacity, tokens + (self._clock() - at) * self._per_second)

    def _put(self, client: str, tokens: float) -> None:
        self._buckets[client] = (tokens, self._clock())
        self._buckets.move_to_end(client)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)


def charge_searches(request: Request, searches: int) -> None:
    """Count further searches of a request, which was admitted as one, against its client's limit."""
    if charge := request.scope.get(CHARGE):
        charge(searches)


class CallerCheck:
    """Refuses callers before their bodies are read, and sets SECURITY_HEADERS on every answer that does not set its own."""

    def __init__(self, app: ASGIApp, limits: CallerLimits, origins: Sequence[str]) -> None:
        """Stand before an app.

        Args:
            app: any ASGI app.
            limits: what its callers may do.
            origins: foreign origins whose pages may write, as `https://shop.example`; `*` for all.
        """
        self._app, self._origins = app, frozenset(origins)
        self._hosts = None if limits.hosts is None else frozenset(map(_host_key, limits.hosts))
        self._writes = ClientLimit(limits.writes_per_second) if limits.writes_per_second else None
        self._searches = ClientLimit(limits.searches_per_second) if limits.searches_per_second else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self._refuse(scope) or self._app)(scope, receive, send_guarded)

    def _refuse(self, scope: Scope) -> Response | None:
        headers, client = Headers(scope=scope), _client_key(scope)
        if self._hosts is not None and (refused := _refuse_host(headers.getlist("host"), self._hosts)):
            return refused
        if scope["method"] in SAFE_METHODS or scope["path"] in SEARCH_PATHS:
            if self._searches is None or not (scope["path"] in SEARCH_PATHS or scope["path"].endswith("/similar")):
                return None
            scope[CHARGE] = lambda searches: self._searches.charge(client, searches)
            return _refuse_haste(self._searches.admit(client), "searches")
        if (refused := self._refuse_origin(headers)) or self._writes is None:
            return refused
        return _refuse_haste(self._writes.admit(client), "events and erasures")

    def _refuse_origin(self, headers: Headers) -> Response | None:
        """Refuse a write that a page of another origin sends: a browser names the page's origin, other programs name none."""
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc == headers.get("host") or not self._origins.isdisjoint({origin, "*"}):
            return None
        detail = f"pages of {origin[:100]!r} may not write here; name their origin in GAVEL_CORS_ORIGINS"
        return problem(HTTPStatus.FORBIDDEN, "foreign_origin", detail)


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses that lead to the own machine."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _refuse_host(named: Sequence[str], hosts: frozenset[str]) -> Response | None:
    """Refuse a request under a name that is not the server's: a page may have its own name lead here (DNS rebinding)."""
    if len(named) == 1:
        host = _host_key(named[0])
        if host in hosts or is_loopback(host):
            return None
    shown = ", ".join(named)[:100]
    detail = f"this server does not answer under the name {shown!r}; start it with --allow-host NAME to have it answer under NAME"
    return problem(HTTPStatus.MISDIRECTED_REQUEST, "unknown_host", detail)


def _host_key(host: str) -> str:
    """A Host header or a name without its port, as names are compared."""
    name, _, port = host.rpartition(":")
    if not port.isdigit() or (":" in name and not name.endswith("]")):  # no port, or the end of an IPv6 address
        name = host
    return name.strip("[]").rstrip(".").lower()


def _refuse_haste(wait_s: float, sent: str) -> Response | None:
    if not wait_s:
        return None
    retry_after = {"Retry-After": str(math.ceil(wait_s))}
    detail = f"your address sends more {sent} than one client may; go on in {math.ceil(wait_s)} s"
    return problem(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", detail, retry_after)


def _client_key(scope: Scope) -> str:
    """Who counts as one client: an IPv4 address, or the network that an IPv6 subscriber has."""
    host = (scope.get("client") or ("",))[0] or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.version == 4 or address.ipv4_mapped:
        return str(getattr(address, "ipv4_mapped", None) or address)
    return f"{int(address) >> (128 - IPV6_PREFIX_BITS):x}::"
