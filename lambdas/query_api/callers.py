"""Checks of a caller: host name, origin and rate; and the security headers of every answer."""

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

BURST_S = 5  # a client that was quiet may send as much at once as it may send in so many seconds
MAX_CLIENTS = 10_000  # whose latest requests are remembered
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SEARCH_PATHS = frozenset({"/search", "/search/image", "/encode_buyer", "/retrieve"})  # their POST changes nothing
CHARGE = "gavel.charge_searches"  # key of an ASGI scope


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Limits of the callers of an app.

    Attributes:
        hosts: names and addresses under which loopback may be addressed besides its own; None accepts any name.
        writes_per_second: events and erasures that one client address may send; 0 for no limit.
        searches_per_second: searches of one client address, each query of a POST counted; 0 for no limit.
    """

    hosts: Sequence[str] | None = None
    writes_per_second: float = 0
    searches_per_second: float = 0


NO_LIMITS = CallerLimits()


class ClientLimit:
    """An account of tokens a client, refilled with time. Threads may share it.

    A request is admitted while its client owes nothing, whatever it costs: one that costs more than there is leaves a debt, which
    the next ones wait for.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Know no client yet.

        Args:
            per_second: tokens that a client gets, > 0.
            clock: seconds, of any origin.
        """
        self._per_second, self._clock = per_second, clock
        self._most = max(0.0, per_second * BURST_S - 1)  # with the one that leads into debt, BURST_S seconds' worth at once
        self._balances: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (tokens, at)
        self._lock = Lock()

    def take(self, client: str, tokens: float) -> float:
        """Take tokens of a client that owes none.

        Returns:
            0 if they were taken, else the seconds until its debt is paid.
        """
        with self._lock:
            now = self._clock()
            balance, at = self._balances.get(client, (self._most, now))
            balance = min(self._most, balance + (now - at) * self._per_second)
            if balance < 0:
                return -balance / self._per_second
            self._balances[client] = (balance - tokens, now)
            self._balances.move_to_end(client)
            if len(self._balances) > MAX_CLIENTS:
                self._balances.popitem(last=False)
            return 0.0


def charge_searches(request: Request, searches: int) -> None:
    """Count further searches of a request, which was admitted as one, against its client's limit.

    Raises:
        HTTPException: 429, the client owes searches by now.
    """
    charge = request.scope.get(CHARGE)
    if charge and searches and (wait_s := charge(searches)):
        raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, *_haste(wait_s, "searches"))


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
        headers, path = Headers(scope=scope), scope["path"]
        if self._hosts is not None and (refused := _refuse_host(headers.getlist("host"), self._hosts)):
            return refused
        if scope["method"] in SAFE_METHODS or path in SEARCH_PATHS:
            searches = path in SEARCH_PATHS or path.endswith("/similar")
            limit, sent = (self._searches if searches else None), "searches"
        elif refused := self._refuse_origin(headers):
            return refused
        else:
            limit, sent = self._writes, "events and erasures"
        if limit is None:
            return None
        charge = partial(limit.take, _client_key(scope))
        scope[CHARGE] = charge
        wait_s = charge(1)
        return problem(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", *_haste(wait_s, sent)) if wait_s else None

    def _refuse_origin(self, headers: Headers) -> Response | None:
        """Refuse a write that a page of another origin sends: a browser names the page's origin, other programs name none."""
        own = {f"{scheme}://{headers.get('host')}" for scheme in ("http", "https")}  # https where a proxy stands before
        foreign = [origin for origin in headers.getlist("origin") if origin not in own and self._origins.isdisjoint({origin, "*"})]
        if not foreign:
            return None
        detail = f"pages of {foreign[0][:100]!r} may not write here; name their origin in GAVEL_CORS_ORIGINS"
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
    """Strip the port of a Host header or name and lower its case, as names are compared."""
    name, _, port = host.rpartition(":")
    if not port.isdigit() or (":" in name and not name.endswith("]")):  # no port, or the end of an IPv6 address
        name = host
    return name.strip("[]").rstrip(".").lower()


def _haste(wait_s: float, sent: str) -> tuple[str, dict[str, str]]:
    """Make the detail and the headers of a 429."""
    seconds = str(math.ceil(wait_s))
    return f"your address sends more {sent} than one client may; go on in {seconds} s", {"Retry-After": seconds}


def _client_key(scope: Scope) -> str:
    """Name the client of a request by its network; by what stands there where a server tells no address."""
    host = (scope.get("client") or ("",))[0] or ""
    return str(client_network(host) or host)
