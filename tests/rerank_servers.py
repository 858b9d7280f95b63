"""Servers that stand where SageMaker's runtime does: the real re-ranker of this machine, and faulty ones."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gavel.web.http_server import served_in_thread
from gavel.web.ranker_server import MODEL_ERROR, create_ranker_app


@contextmanager
def ranker_server(model_dir: Path) -> Iterator[str]:
    """The URL of a re-ranker that serves an unpacked archive."""
    with served_in_thread(create_ranker_app(model_dir)) as url:
        yield url


@contextmanager
def faulty_server(body: bytes, status: int = 200, *, after_s: float = 0.0, promised: int | None = None) -> Iterator[str]:
    """The URL of a server that gives one answer to everything.

    Args:
        body: of the answer.
        status: of the answer.
        after_s: how long it takes to think.
        promised: the length that it announces, when it is not the body's.
    """

    class Faulty(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(after_s)
            with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has given up
                self.answer()

        def answer(self) -> None:
            self.send_response(status)
            if status == MODEL_ERROR:
                self.send_header("x-amzn-ErrorType", "ModelError")
            self.send_header("Content-Length", str(len(body) if promised is None else promised))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
