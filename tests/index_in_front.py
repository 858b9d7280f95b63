"""A proxy in front of a real OpenSearch that fails or slows the requests which hold a word."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HYBRID, SEMANTIC, KEYWORD, FETCH = '"hybrid"', '"knn"', '"multi_match"', "/_mget"  # stand in these requests' bodies, or path


class Trouble:
    """What is wrong with the server at the moment.

    Attributes:
        url: where the proxy listens.
        failing: words; a request that holds one is answered with 503.
        sleeping: words; a request that holds one is answered after `seconds`.
        seconds: how long.
        requests: path and body of every request so far.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.failing: set[str] = set()
        self.sleeping: set[str] = set()
        self.seconds = 0.0
        self.requests: list[str] = []

    def seen(self, word: str) -> int:
        """Requests so far that hold a word."""
        return sum(word in request for request in self.requests)


@contextmanager
def in_front_of(server: str) -> Iterator[Trouble]:
    """A proxy that passes everything on until it is told otherwise."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = f"{self.path} {body.decode()}"
            trouble.requests.append(asked)
            if any(word in asked for word in trouble.sleeping):
                time.sleep(trouble.seconds)
            if any(word in asked for word in trouble.failing):
                self.answer(503, b'{"error": {"reason": "told to fail"}}', "application/json")
                return
            passed = urllib.request.Request(server + self.path, body or None, method=self.command)
            passed.add_header("Content-Type", "application/json")
            try:
                with urllib.request.urlopen(passed) as answer:
                    self.answer(answer.status, answer.read(), answer.headers.get("Content-Type", ""))
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.read(), error.headers.get("Content-Type", ""))

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any

        def answer(self, status: int, body: bytes, kind: str) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has given up
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    trouble = Trouble(f"http://127.0.0.1:{proxy.server_port}")
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield trouble
    finally:
        proxy.shutdown()
        proxy.server_close()
