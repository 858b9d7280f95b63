"""Fetch photos from http(s) addresses that sellers name. Worker processes import this file, so it imports no torch.

Nothing about such an address can be trusted. Its name is resolved once, the connection goes to the address that was checked, and
every redirect is checked again. Bytes, time and redirects are bounded. Bytes are checked as a photo only when they are decoded.
"""

import hashlib
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from retrieval.encoders.photos import MAX_BYTES
from retrieval.errors import InvalidInput, InvalidPhoto
from retrieval.files import reason_of, shortage

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 10.0  # without a byte
TOTAL_TIMEOUT_S = 30.0  # of one photo, with its redirects
MAX_REDIRECTS = 5
MAX_ADDRESSES = 3  # of a host that are tried
MAX_HOST_FAILURES = 5  # after so many failures in a row, a host is not asked again by this process
CONCURRENT_FETCHES = 8
CHUNK_BYTES = 1 << 16
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": "gavel", "Accept": "image/jpeg, image/png, image/webp", "Accept-Encoding": "identity"}
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # holds an IPv4 address in its last 32 bits
UNQUOTED = "/%:@!$&'()*+,;=~-._?[]"

_failures: Counter[str] = Counter()  # host:port -> failures in a row


def is_address(image: str) -> bool:
    """True if an item names its photo by an http(s) address."""
    return image[:8].lower().startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class Downloads:
    """Photos of addresses in a folder; a photo that is there is not fetched again.

    Attributes:
        folder: folder of the photos; it may be deleted at any time.
        hosts: hosts, as "name" or "name:port", whose addresses need not be public.
    """

    folder: Path
    hosts: frozenset[str] = frozenset()

    def path(self, url: str) -> Path:
        """Return the path of an address's photo, which need not exist."""
        key = hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()
        return self.folder / key[:2] / key[2:]

    def fetch(self, url: str) -> Path:
        """Fetch the photo of an address, unless it is in the folder, and return its path.

        Raises:
            InvalidPhoto: the address is not public or not well-formed, or the photo cannot be had within the bounds.
            InvalidInput: the folder cannot be written.
        """
        path = self.path(url)
        if path.is_file():
            return path
        data = self._get(url)
        partial = path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as error:
            reason = shortage(path, error) or f"{path} cannot be written ({reason_of(error)})"
            raise InvalidInput(f"{reason}; mend it, or add --no-fetch to do without photos of addresses") from error
        return path

    def fetch_all(self, urls: Iterable[str]) -> Mapping[str, Path | InvalidPhoto]:
        """Fetch the photos of several addresses, a few at a time; return address -> path, or the reason why there is none."""
        distinct = list(dict.fromkeys(urls))
        if not distinct:
            return {}
        with ThreadPoolExecutor(min(CONCURRENT_FETCHES, len(distinct))) as threads:
            return dict(zip(distinct, threads.map(self._try_fetch, distinct), strict=True))

    def _try_fetch(self, url: str) -> Path | InvalidPhoto:
        try:
            return self.fetch(url)
        except InvalidPhoto as error:
            return error

    def _get(self, url: str) -> bytes:
        deadline = time.monotonic() + TOTAL_TIMEOUT_S
        original = url
        for _ in range(MAX_REDIRECTS + 1):
            parts, host, port = _parse(url, original)
            place = f"{host}:{port}"
            if _failures[place] >= MAX_HOST_FAILURES:
                raise InvalidPhoto(f"{original} was not fetched: {host} did not answer {MAX_HOST_FAILURES} times", "unreachable")
            try:
                answer = self._ask(parts, host, port, deadline)
            except (OSError, http.client.HTTPException, ValueError) as error:
                _failures[place] += 1
                late = time.monotonic() >= deadline
                reason = f"it took more than {TOTAL_TIMEOUT_S:g} seconds" if late else str(error) or type(error).__name__
                raise InvalidPhoto(f"{original} cannot be fetched: {reason}", "unreachable") from error
            _failures[place] = 0
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise InvalidPhoto(f"{original} is redirected more than {MAX_REDIRECTS} times", "unreachable")

    def _ask(self, parts: SplitResult, host: str, port: int, deadline: float) -> bytes | str:
        """Return the body of the answer, or the address that it redirects to."""
        addresses = self._resolve(parts, host, port)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection = _connect(addresses, port, min(CONNECT_TIMEOUT_S, left))
        watched = connection.dup()  # shares the connection, and stays as it is when TLS takes the first one over
        timer = threading.Timer(deadline - time.monotonic(), _shut, (watched,))
        timer.daemon = True
        timer.start()
        try:
            connection.settimeout(READ_TIMEOUT_S)
            if parts.scheme == "https":
                connection = _tls().wrap_socket(connection, server_hostname=host)
            client = http.client.HTTPConnection(host, port)
            client.sock = connection
            target = quote(parts.path or "/", UNQUOTED) + (f"?{quote(parts.query, UNQUOTED)}" if parts.query else "")
            name = f"[{host}]" if ":" in host else host
            client.request("GET", target, headers={"Host": name if port == PORTS[parts.scheme] else f"{name}:{port}", **HEADERS})
            return _read(client.getresponse(), parts.geturl())
        finally:
            timer.cancel()
            watched.close()
            connection.close()

    def _resolve(self, parts: SplitResult, host: str, port: int) -> list[str]:
        """Return the addresses of a host.

        Raises:
            InvalidPhoto: one of them is not public, and the host is not among `hosts`.
            OSError: the name has no address.
        """
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
        if not {host, f"{host}:{port}"} & self.hosts:
            for address in addresses:
                if not is_public(address):
                    raise InvalidPhoto(
                        f"{parts.geturl()} leads to {address}, which is no public address; --photo-host {host} allows it", "address"
                    )
        return addresses


def is_public(address: str) -> bool:
    """True if an IP address is public, and so is an IPv4 address that it holds."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        if any(each is not None and not is_public(str(each)) for each in inner):
            return False
    return ip.is_global and not ip.is_multicast


def _parse(url: str, original: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url.strip())
        port = parts.port or PORTS[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode() if not (parts.hostname or "").isascii() else parts.hostname or ""
        if not host or parts.username is not None or any(character.isspace() for character in host):
            raise ValueError("it names no host, or a user")
    except (ValueError, KeyError) as error:
        reason = "it is redirected to another scheme" if isinstance(error, KeyError) else error
        raise InvalidPhoto(f"{original} is no address of a photo ({reason}); mend it", "address") from error
    return parts, host.lower(), port


def _read(response: http.client.HTTPResponse, url: str) -> bytes | str:
    if response.status in REDIRECTS and (location := response.headers.get("Location")):
        return str(location)
    if response.status != http.client.OK:
        raise InvalidPhoto(f"{url} answers with the status {response.status}", "unreachable")
    too_large = InvalidPhoto(f"{url} has more than {MAX_BYTES:,} bytes; scale it down", "too_large")
    if (response.length or 0) > MAX_BYTES:
        raise too_large
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        data += chunk
        if len(data) > MAX_BYTES:
            raise too_large
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(data)


def _connect(addresses: Sequence[str], port: int, timeout_s: float) -> socket.socket:
    """Return a connection to the first address that answers; this machine may reach only those of one version of IP."""
    for address in addresses[:MAX_ADDRESSES]:
        try:
            return socket.create_connection((address, port), timeout_s)
        except OSError as error:
            failure = error
    raise failure


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
