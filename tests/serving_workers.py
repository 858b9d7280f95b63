"""A small app in worker processes, in an interpreter of its own: python serving_workers.py PORT [broken]."""

import os
import signal
import socket
import sys
import time
from functools import partial

from fastapi import FastAPI

from gavel.web.http_server import serve_in_workers
from gavel.workspace.entry import run_command


def make_app(broken: bool) -> tuple[FastAPI, str]:
    """An app that tells the process which answers; a broken one ends its process."""
    if broken:
        os.kill(os.getpid(), signal.SIGKILL)
    app = FastAPI()

    @app.get("/")
    def process() -> int:
        return os.getpid()

    @app.get("/slow")
    def slow() -> str:
        time.sleep(0.5)
        return "done"

    @app.get("/stuck")
    def stuck() -> None:
        time.sleep(60)

    return app, "ready"


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        make = partial(make_app, sys.argv[2:] == ["broken"])
        run_command(lambda: serve_in_workers(2, make, [listener], lambda line: print(line, flush=True)))
