"""`gavel serve`: the search page and the API on this machine."""

import os
import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gavel.workspace.console import console
from gavel.workspace.folders import Workspace
from gavel.workspace.options import QueryTower
from gavel.workspace.wiring import recommended_mode
from processing.command_line import FetchOption, PhotoHostOption
from retrieval.config.settings import Settings, split_address
from retrieval.errors import InvalidInput
from retrieval.search.service import Mode

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lambdas.query_api.callers import CallerLimits

REACHABLE = (
    "[yellow]Every machine that reaches this address may search, send events (POST /events), and read and erase the history of "
    "any buyer whose id it knows (/buyers).[/] Leave --host out, or put a proxy before the server that asks for a password. "
    "Requests are answered under loopback names and this address; --allow-host NAME adds the name under which others reach it."
)
METRICS_REACHABLE = "[yellow]Every machine that reaches the address of the metrics may read them.[/]"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
    photos: Annotated[
        list[Path] | None, typer.Option(help="Further folder of photos to show, for lots that name photos by absolute path.")
    ] = None,
    query_tower: QueryTower = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also answer requests that address this server by NAME; * allows any name. Repeatable."),
    ] = None,
    currency: Annotated[
        str, typer.Option(help="ISO 4217 code of the prices, such as EUR; without it prices are bare numbers.")
    ] = "",
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that answer requests, over the same files; one per CPU core is enough.")
    ] = 1,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Answer /metrics for Prometheus at this address, such as 127.0.0.1:9464."),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="How the page searches at first: hybrid, semantic or keyword; hybrid by default, or keyword if the tower's "
            "training recommends it."
        ),
    ] = None,
    fetch: FetchOption = True,
    photo_hosts: PhotoHostOption = None,
) -> None:
    """Serve the search page at /, the API beside it, and the API's description at /docs."""
    if currency and not re.fullmatch("[A-Za-z]{3}", currency):
        raise InvalidInput(f"--currency is {currency!r}; give the three letters of ISO 4217, such as EUR")
    for name in allow_host or []:
        if not re.fullmatch(r"\*|[\w.:\[\]-]+", name):
            raise InvalidInput(f"--allow-host is {name!r}; give a name or address without scheme and path, such as shop.example")
    settings = Settings.from_env()
    settings = replace(
        settings, query_tower=query_tower or settings.query_tower, metrics_address=metrics or settings.metrics_address
    )
    metrics_host, metrics_port = _metrics_place(settings, port)
    mode = mode or recommended_mode(settings)
    listeners = [listen(host, port)]  # opened before the index is loaded, which takes seconds, and before the address is printed
    from gavel.web.http_server import serve_app, serve_in_workers
    from lambdas.query_api.callers import CallerLimits, is_loopback

    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def tell(line: str) -> None:
        if not is_loopback(host):
            console.print(REACHABLE, highlight=False)
        console.print(
            f"{line}: {url}/{'' if mode == 'hybrid' else f'?mode={mode}'} (API: {url}/docs)", highlight=False, soft_wrap=True
        )
        if metrics_port:
            console.print(f"metrics: http://{settings.metrics_address}/metrics", highlight=False, soft_wrap=True)
            if not is_loopback(metrics_host):
                console.print(METRICS_REACHABLE, highlight=False)

    with ExitStack() as stack:
        stack.enter_context(listeners[0])
        if metrics_port:
            listeners.append(stack.enter_context(listen(metrics_host, metrics_port)))
        hosts = None if "*" in (allow_host or []) else [host, *(allow_host or [])]
        hosts_of_photos = (photo_hosts or []) if fetch else None
        limits = CallerLimits(hosts, settings.writes_per_second, settings.searches_per_second)
        make_app = partial(page_and_api, settings, photos or [], currency.upper(), limits, workers, hosts_of_photos)
        if workers > 1:
            if metrics_port:
                from gavel.web.metrics_files import shared_files

                serve_in_workers(workers, make_app, listeners, tell, stack.enter_context(shared_files()))
            else:
                serve_in_workers(workers, make_app, listeners, tell)
            return
        app, line = make_app()
        tell(line)
        serve_app(app, *listeners)


def _metrics_place(settings: Settings, page_port: int) -> tuple[str, int | None]:
    """Return host and port of `/metrics`, or ("", None) if metrics are off.

    Raises:
        InvalidInput: the address cannot be read, or its port is the page's.
    """
    if not settings.metrics_address:
        return "", None
    try:
        host, port = split_address(settings.metrics_address)
    except InvalidInput as error:
        raise InvalidInput(f"--metrics is {settings.metrics_address!r}; {error}") from error
    if port == page_port:
        raise InvalidInput(f"port {port} is the page's; give --metrics another one, such as 127.0.0.1:9464")
    return host, port


def page_and_api(
    settings: Settings,
    photos: Sequence[Path],
    currency: str,
    limits: "CallerLimits | None" = None,
    workers: int = 1,
    photo_hosts: Sequence[str] | None = (),
) -> tuple["FastAPI", str]:
    """Create the app of `gavel serve`, and return the app and a line about its index.

    Args:
        settings: settings of this process.
        photos: further folders whose photos may be shown, and named by lots that are put.
        currency: ISO 4217 code of the prices, or empty.
        limits: limits of callers, which each process counts for itself; None sets no limits.
        workers: number of worker processes.
        photo_hosts: hosts whose photos are fetched although they have no public address; None fetches from no host at all.

    Raises:
        IndexMissing: nothing has been indexed yet.
    """
    from starlette.middleware import Middleware

    from gavel.web.monitoring import Monitoring
    from gavel.web.page_app import add_page
    from gavel.web.photo_files import PhotoFiles
    from gavel.web.request_queues import QueueMiddleware, request_queues
    from gavel.workspace.wiring import event_sink, item_writer, search_service, signing_lists
    from lambdas.query_api.app import create_app
    from lambdas.query_api.callers import CallerLimits
    from lambdas.query_api.events import events_router
    from lambdas.query_api.item_puts import add_item_puts
    from lambdas.query_api.item_states import WRITE_TOKEN, item_states_router

    workspace, service, lists = Workspace(settings), search_service(settings), signing_lists(settings)
    index = service.live().index
    queues = request_queues(settings, workers)
    limits = limits or CallerLimits()
    monitoring = Monitoring(settings, service, queues)
    app = create_app(
        lambda: service,
        settings.origins,
        monitoring.measure,
        limits=limits,
        queries_per_request=settings.queries_per_request,
        queues=lambda: {kind: queue.metrics() for kind, queue in queues.items()},
        lists=lists,
        telemetry=monitoring.telemetry,
    )
    # innermost: requests that other middleware refuses need no slot, and refusals by the queue get the others' headers
    app.user_middleware.append(Middleware(QueueMiddleware, queues=queues))
    writer = item_writer(settings, service, photos, photo_hosts)
    token = os.environ.get(WRITE_TOKEN, "")
    writes = item_states_router(lambda: service.live().index, token, service.forget_answers)
    add_item_puts(writes, writer.put)
    app.include_router(writes)
    app.include_router(events_router(event_sink(settings), service.record_interactions, lists))
    add_page(app, lambda: service, PhotoFiles(workspace, photos), currency)
    monitoring.watch(app, limits.hosts)
    return app, f"index {index.name}, {index.count()} lots"


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: name or address of this machine.
        port: 1 to 65535.

    Raises:
        InvalidInput: the port is taken, or this machine does not have the address.
    """
    try:
        address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=address_family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise InvalidInput(f"{host}:{port} cannot be listened on ({reason}); choose another with --port or --host") from error
