"""How `gavel serve` runs its app: uvicorn, with as many answers worked out at a time as this machine has cores for."""

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.to_thread
import uvicorn
from fastapi import FastAPI

from retrieval.settings import Settings

LEAST_AT_ONCE = 2  # so that one slow request, such as a large photo, never holds up all the others


def searches_at_once(settings: Settings) -> int | None:
    """How many answers are worked out at a time: a few where this process does all the work, for more of them only take turns at
    the interpreter and all come late; None, as many as the framework likes, where they wait for another machine."""
    if settings.index == "opensearch" or settings.ranker_endpoint:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(LEAST_AT_ONCE, cores)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, at_once: int | None) -> None:
        super().__init__(config)
        self._at_once = at_once

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        if self._at_once is not None:
            anyio.to_thread.current_default_thread_limiter().total_tokens = self._at_once  # of the loop that runs by now
        await super().serve(sockets)


def serve_app(app: FastAPI, listener: socket.socket, at_once: int | None) -> None:
    """Serve an app on a socket until Ctrl-C.

    What was loaded before stays for good, so that the garbage collector need not look through it while buyers wait.

    Args:
        app: whose endpoints run in threads.
        listener: listens already.
        at_once: how many of those threads may run; None is the framework's own limit.
    """
    gc.collect()
    gc.freeze()
    behind_proxy = "FORWARDED_ALLOW_IPS" in os.environ  # else any program of this machine could name another client address
    _Server(uvicorn.Config(app, log_level="warning", proxy_headers=behind_proxy), at_once).run(sockets=[listener])


@contextmanager
def served_in_thread(app: FastAPI) -> Iterator[str]:
    """The URL of an app on a free port of this machine, while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        serving.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            serving.join()
