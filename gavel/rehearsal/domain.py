"""The OpenSearch domain of a rehearsal: a real node behind HTTPS, as in Amazon OpenSearch Service."""

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
HOP_HEADERS = ("connection", "transfer-encoding", "content-length", "date", "server")


class Domain:
    """The OpenSearch of the deployed functions.

    Attributes:
        endpoint: host and port, the value of DomainEndpoint.
        certificate: file of the self-signed certificate, for SSL_CERT_FILE.
        access: requests to the security plugin, as "<method> <path>"; recorded here because the node has no such plugin.
        unsigned: number of requests without an AWS signature.
    """

    def __init__(self, endpoint: str, certificate: Path) -> None:
        self.endpoint, self.certificate = endpoint, certificate
        self.access: list[str] = []
        self.unsigned = 0


@contextmanager
def https_domain(node_url: str, folder: Path) -> Iterator[Domain]:
    """Serve a node over HTTPS on the loopback address for the length of the block.

    Args:
        node_url: HTTP URL of the node.
        folder: folder to write the certificate and its key to.
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
        wbufsize, disable_nagle_algorithm = -1, True  # send an answer as one packet

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            domain.unsigned += "AWS4-HMAC-SHA256" not in self.headers.get("Authorization", "")
            if self.path.startswith(SECURITY_API):
                domain.access.append(f"{self.command} {self.path.removeprefix(SECURITY_API)}")
                self._answer(200, [("Content-Type", "application/json")], b"{}")
                return
            upstream = http.client.HTTPConnection(node)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection", "authorization")
            }
            upstream.request(self.command, self.path, body, headers)
            with upstream.getresponse() as answer:
                end_to_end = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_HEADERS]
                self._answer(answer.status, end_to_end, answer.read())
            upstream.close()

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


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate that is valid for a day, and return the files of certificate and key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    signed = (
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
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, key_file
