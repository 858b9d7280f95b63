"""Check the host name, origin and rate of requests, and set the security headers of every answer."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from threading import Lock

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lambdas.query_api.problems import SECURITY_HEADERS, problem
from retrieval.feedback.served_lists import client_network

BURST_S = 5  # an idle client may send at once as many requests as otherwise in this time
MAX_CLIENTS = 10_000  # clients whose balance is stored
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# a POST to these paths changes nothing
SEARCH_PATHS = frozenset({"/search", "/search/image", "/encode_query", "/encode_buyer", "/retrieve"})
CHARGE = "gavel.charge_searches"  # key of an ASGI scope


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Limits of the callers of an app.

    Attributes:
        hosts: host names and addresses that requests may use besides those of loopback; None accepts any name.
        writes_per_second: events and erasures per second that one client address may send; 0 for no limit.
        searches_per_second: searches per second of one client address, counting each query of a POST; 0 for no limit.
    """

    hosts: Sequence[str] | None = None
    writes_per_second: float = 0
    searches_per_second: float = 0


NO_LIMITS = CallerLimits()


class ClientLimit:
    """Token buckets, one per client. Threads may share an instance.

    A request is admitted if its client's balance is not negative, whatever the request costs. The balance may become negative; then
    the client's later requests are refused until tokens have refilled it.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without clients.

        Args:
            per_second: tokens that each client gets per second, > 0.
            clock: returns the time in seconds since any fixed moment.
        """
        self._per_second, self._clock = per_second, clock
        self._max_balance = max(0.0, per_second * BURST_S - 1)  # one more request may follow: BURST_S seconds' worth in all
        self._balances: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (tokens, at)
        self._lock = Lock()

    def take(self, client: str, tokens: float) -> float:
        """Take tokens from a client, unless its balance is negative.

        Returns:
            0 if the tokens were taken, otherwise the seconds until the balance is no longer negative.
        """
        with self._lock:
            now = self._clock()
            balance, at = self._balances.get(client, (self._max_balance, now))
            balance = min(self._max_balance, balance + (now - at) * self._per_second)
            if balance < 0:
                return -balance / self._per_second
            self._balances[client] = (balance - tokens, now)
            self._balances.move_to_end(client)
            if len(self._balances) > MAX_CLIENTS:
                self._balances.popitem(last=False)
            return 0.0


def charge_searches(request: Request, searches: int) -> None:
    """Charge a request's further searches to its client, because the request was admitted as one search.

    Raises:
        HTTPException: 429, the client's balance is negative.
    """
    charge = request.scope.get(CHARGE)
    if charge and searches and (wait_s := charge(searches)):
        raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, *_too_many(wait_s, "searches"))


class CallerCheck:
    """Middleware that refuses requests before their bodies are read, and adds the SECURITY_HEADERS that an answer does not set."""

    def __init__(self, app: ASGIApp, limits: CallerLimits, origins: Sequence[str]) -> None:
        """Wrap an app.

        Args:
            app: any ASGI app.
            limits: limits of the app's callers.
            origins: foreign origins whose pages may write, such as `https://shop.example`; `*` for all.
        """
        self._app, self._origins = app, frozenset(origins)
        self._hosts = None if limits.hosts is None else frozenset(map(_host_key, limits.hosts))
        self._writes = ClientLimit(limits.writes_per_second) if limits.writes_per_second else None
        self._searches = ClientLimit(limits.searches_per_second) if limits.searches_per_second else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the app, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self._refuse(scope) or self._app)(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        if self._hosts is not None and (refused := _refuse_host(headers.getlist("host"), self._hosts)):
            return refused
        if scope["method"] in SAFE_METHODS or path in SEARCH_PATHS:
            searches = path in SEARCH_PATHS or path.endswith("/similar")
            limit, sent = (self._searches if searches else None), "searches"
        elif refused := self._refuse_origin(headers):
            return refused
        else:  # callers who write items hold a token
            limit, sent = (None if path.startswith("/items/") else self._writes), "events and erasures"
        if limit is None:
            return None
        charge = partial(limit.take, _client_key(scope))
        scope[CHARGE] = charge
        wait_s = charge(1)
        return problem(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", *_too_many(wait_s, sent)) if wait_s else None

    def _refuse_origin(self, headers: Headers) -> Response | None:
        """Refuse a write from a page of another origin. Browsers name the origin of the page; other programs name none."""
        own = {f"{scheme}://{headers.get('host')}" for scheme in ("http", "https")}  # https: a proxy may stand before
        foreign = [origin for origin in headers.getlist("origin") if origin not in own and self._origins.isdisjoint({origin, "*"})]
        if not foreign:
            return None
        detail = f"pages of {foreign[0][:100]!r} may not write here; name their origin in GAVEL_CORS_ORIGINS"
        return problem(HTTPStatus.FORBIDDEN, "foreign_origin", detail)


def is_loopback(host: str) -> bool:
    """True if a host is `localhost` or a loopback address."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _refuse_host(names: Sequence[str], hosts: frozenset[str]) -> Response | None:
    """Refuse a request for another host name, because a page may point its own name to this address (DNS rebinding)."""
    if len(names) == 1:
        host = _host_key(names[0])
        if host in hosts or is_loopback(host):
            return None
    shown = ", ".join(names)[:100]
    detail = f"this server does not answer under the name {shown!r}; start it with --allow-host NAME to have it answer under NAME"
    return problem(HTTPStatus.MISDIRECTED_REQUEST, "unknown_host", detail)


def _host_key(host: str) -> str:
    """Return a Host header or host name in lower case without port and brackets, for comparison."""
    name, _, port = host.rpartition(":")
    if not port.isdigit() or (":" in name and not name.endswith("]")):  # no port, or the end of an IPv6 address
        name = host
    return name.strip("[]").rstrip(".").lower()


def _too_many(wait_s: float, sent: str) -> tuple[str, dict[str, str]]:
    """Return the detail and the headers of a 429."""
    seconds = str(math.ceil(wait_s))
    return f"your address sends more {sent} than one client may; go on in {seconds} s", {"Retry-After": seconds}


def _client_key(scope: Scope) -> str:
    """Return the network of a request's client, or the client's name if that is no IP address."""
    host = (scope.get("client") or ("",))[0] or ""
    return str(client_network(host) or host)
