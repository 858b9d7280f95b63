"""`gavel serve`."""

import os
import socket
from typing import Annotated

import typer

from local.console import console
from retrieval.errors import InvalidInput
from retrieval.settings import Settings


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
) -> None:
    """Answer searches over HTTP; /docs shows the API."""
    listener = listen(host, port)  # before the seconds that loading takes, and before the address is told
    import uvicorn

    from lambdas.query_api.app import create_app
    from local.wiring import search_service

    with listener:
        service = search_service(Settings.from_env())
        live = service.live()
        server = uvicorn.Server(uvicorn.Config(create_app(lambda: service), log_level="warning"))
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        console.print(f"index {live.index.name}, {live.index.count()} lots: {url}/docs", highlight=False, soft_wrap=True)
        server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: name or address of this machine.
        port: 1 to 65535.

    Raises:
        InvalidInput: the port is taken, or the address is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise InvalidInput(f"{host}:{port} cannot be listened on ({reason}); choose another with --port or --host") from error
