"""An HTTP server that writes down what it is asked, for what leaves this machine in production."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Recording:
    """What came in.

    Attributes:
        url: where the server answers.
        statuses: (method, path) -> status of the answer, 200 for others; a list is used up, then 200.
        asked: (method, path, headers, body) of every request.
    """

    url: str = ""
    statuses: dict[tuple[str, str], int | list[int]] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)


@contextmanager
def recording_server() -> Iterator[Recording]:
    """A server on a free port of the loopback interface."""
    recording = Recording()

    class Recorder(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            recording.asked.append((self.command, self.path, dict(self.headers), body))
            status = recording.statuses.get((self.command, self.path), 200)
            if isinstance(status, list):
                status = status.pop(0) if status else 200
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    recording.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield recording
    finally:
        server.shutdown()
        server.server_close()
