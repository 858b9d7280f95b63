"""The OpenSearch domain of a rehearsal: a real node behind HTTPS, as Amazon OpenSearch Service shows it."""

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

SECURITY_API = "/_plugins/_security/api/"
HOST = "localhost"
ENDS_HERE = ("connection", "transfer-encoding", "content-length", "date", "server")


class Domain:
    """Where the deployed functions find OpenSearch.

    Attributes:
        endpoint: host and port, as the domain's DomainEndpoint.
        certificate: that of its own authority, for SSL_CERT_FILE.
        access: paths of the security plugin that were written; the node has no such plugin, so the domain takes note of them.
        unsigned: how many requests came without a signature of AWS.
    """

    def __init__(self, endpoint: str, certificate: Path) -> None:
        self.endpoint, self.certificate = endpoint, certificate
        self.access: list[str] = []
        self.unsigned = 0


@contextmanager
def https_domain(node_url: str, folder: Path) -> Iterator[Domain]:
    """Serve a node over HTTPS on the loopback address.

    Args:
        node_url: where the node answers HTTP.
        folder: gets the certificate and its key.
    """
    certificate, key = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer((HOST, 0), BaseHTTPRequestHandler)
    domain = Domain(f"{HOST}:{server.server_port}", certificate)
    server.RequestHandlerClass = _forwarder(urlsplit(node_url).netloc, domain)
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


def _forwarder(node: str, domain: Domain) -> type[BaseHTTPRequestHandler]:
    class Forwarder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize, disable_nagle_algorithm = (
            -1,
            True,
        )  # an answer is one packet, not one a header that waits for the last one's receipt

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            domain.unsigned += "AWS4-HMAC-SHA256" not in self.headers.get("Authorization", "")
            if self.path.startswith(SECURITY_API):
                domain.access.append(f"{self.command} {self.path.removeprefix(SECURITY_API)}")
                self._answer(200, [("Content-Type", "application/json")], b"{}")
                return
            asked = http.client.HTTPConnection(node)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection", "authorization")
            }
            asked.request(self.command, self.path, body, headers)
            with asked.getresponse() as answer:
                kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in ENDS_HERE]
                self._answer(answer.status, kept, answer.read())
            asked.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The node has a log of its own."""

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _forward

    return Forwarder


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for an hour or a day that nobody but this rehearsal trusts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, key_file = folder / "domain.pem", folder / "domain.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, key_file
