"""The OpenSearch domain of a rehearsal: a real node behind HTTPS and two judges, as in Amazon OpenSearch Service.

IAM decides first, by the policies of the role that signed a request, whether it may send such a request to the domain. Then
fine-grained access control decides, the node's security plugin, by the role's ARN, which the node is told in headers.
"""

import http.client
import json
import re
import ssl
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from gavel.opensearch.security import (
    PROXY_HEADER,
    ROLES_HEADER,
    SECURITY_API,
    SERVICE,
    USER_HEADER,
    proxy_headers,
    write_certificate,
)
from gavel.rehearsal.policies import Call
from gavel.rehearsal.principals import Denial, Principals

HOST = "localhost"
HOP_HEADERS = ("connection", "transfer-encoding", "content-length", "date", "server")
NOT_PASSED = {name.lower() for name in ("host", "connection", "authorization", USER_HEADER, ROLES_HEADER, PROXY_HEADER)}
# what a domain answers while it is young, in turn: the plugin is not initialized, IAM does not know the role yet, another request
# writes the same document of roles
YOUNG = (
    (503, "OpenSearch Security not initialized."),
    (403, '{"Message":"User is not authorized to perform: es:ESHttpPut"}'),
    (409, '{"status":"CONFLICT","message":"[rolesmapping]: version conflict, required seqNo [3], primary term [1]"}'),
    (503, "OpenSearch Security not initialized."),
)
_PERMISSION = re.compile(rb"no permissions for \[([^\]]+)\]")
_FORBIDDEN = b"security_exception"  # in the answer to a request of several operations, of which one is forbidden


class Domain:
    """The OpenSearch of the deployed functions.

    Attributes:
        endpoint: host and port, the value of DomainEndpoint.
        certificate: file of the self-signed certificate, for SSL_CERT_FILE.
        principals: the account's roles, by which IAM judges requests.
        arn: ARN of the domain; "" until it is created.
        passing: (status, body) of answers that the next requests get instead of the node's.
    """

    def __init__(self, node_url: str, endpoint: str, certificate: Path, principals: Principals) -> None:
        self.node_url, self.endpoint, self.certificate, self.principals = node_url, endpoint, certificate, principals
        self.arn = ""
        self.passing: deque[tuple[int, str]] = deque()

    def create(self, arn: str, properties: Mapping[str, Any]) -> None:
        """Create the domain: its master user gets all permissions in the node, and its first answers are those of a young domain.

        Args:
            arn: ARN of the domain.
            properties: properties of the resource in the template. The node takes no notice of the others.
        """
        self.arn = arn
        master = properties["AdvancedSecurityOptions"]["MasterUserOptions"]["MasterUserARN"]
        self.ask_as_service("PUT", f"{SECURITY_API}/rolesmapping/all_access", {"backend_roles": [SERVICE, master]})
        self.passing.extend(YOUNG)

    def ask_as_service(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request to the node past both judges, as the service itself does, and return its answer.

        Raises:
            HTTPError: the node refuses the request.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **proxy_headers(SERVICE)}
        with urlopen(Request(self.node_url + path, data, headers, method=method), timeout=60) as answer:
            return json.load(answer)


@contextmanager
def https_domain(node_url: str, folder: Path, principals: Principals) -> Iterator[Domain]:
    """Serve a node over HTTPS on the loopback address for the length of the block.

    Args:
        node_url: HTTP URL of the node.
        folder: folder to write the certificate and its key to.
        principals: the account's roles.
    """
    certificate, key = folder / "domain.pem", folder / "domain.key"
    write_certificate(HOST, certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer((HOST, 0), BaseHTTPRequestHandler)
    domain = Domain(node_url, f"{HOST}:{server.server_port}", certificate, principals)
    server.RequestHandlerClass = _forwarder(domain)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield domain
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _forwarder(domain: Domain) -> type[BaseHTTPRequestHandler]:
    node = urlsplit(domain.node_url).netloc

    class Forwarder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize, disable_nagle_algorithm = -1, True  # send an answer as one packet

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            caller = domain.principals.caller(self.headers.get("Authorization", ""))
            try:
                status, text = domain.passing.popleft()
                return self._answer(status, [("Content-Type", "application/json")], text.encode())
            except IndexError:
                pass  # the domain is grown up
            call = Call(f"es:ESHttp{self.command.title()}", domain.arn + urlsplit(self.path).path)
            if not domain.principals.allows(caller, [call]):
                refusal = {"Message": f"User: {caller} is not authorized to perform: {call.action}"}
                return self._answer(403, [("Content-Type", "application/json")], json.dumps(refusal).encode())
            upstream = http.client.HTTPConnection(node)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED}
            upstream.request(self.command, self.path, body, headers | proxy_headers(caller))
            with upstream.getresponse() as answer:
                end_to_end = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_HEADERS]
                text_of_node = answer.read()
                if answer.status in (401, 403) or _FORBIDDEN in text_of_node:
                    self._record(caller, text_of_node)
                self._answer(answer.status, end_to_end, text_of_node)
            upstream.close()
            return None

        def _record(self, caller: str, answer: bytes) -> None:
            """Record that the security plugin refused a request, or an operation in it."""
            permission = _PERMISSION.search(answer)
            action = permission[1].decode() if permission else answer[:300].decode(errors="replace")
            domain.principals.refuse(Denial(caller.rsplit("/", 1)[-1], action, f"{self.command} {self.path}", "OpenSearch"))

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing, because the node has its own log."""

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _forward

    return Forwarder
