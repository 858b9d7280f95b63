"""The client of an OpenSearch server or cluster, with failover between nodes, and the translation of its errors."""

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import urllib3
from opensearchpy import OpenSearch, Transport
from opensearchpy.exceptions import ConnectionError as NoConnection
from opensearchpy.exceptions import ConnectionTimeout, NotFoundError, RequestError, TransportError

from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput

REMEDY = "start one with `gavel up`, or set OPENSEARCH_URL"
CONNECTION_RETRIES = 1  # enough if the server closed a pooled connection; callers may retry after other errors
SKIP_NODE_S = 5.0  # seconds that a node is skipped after it did not answer; they double each time
MIN_RETRY_S = 0.01  # no other node is tried with less time left for the request
BETWEEN_URLS = re.compile(r",(?=\s*https?://)")  # a password may hold a comma


class FailoverTransport(Transport):
    """A transport that tries another node if a node cannot be reached, within the timeout of the request.

    A node that takes too long is skipped afterwards, too, but its request is not repeated, because the time is over.
    """

    def perform_request(
        self,
        method: str,
        url: str,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float | None = None,
        ignore: Collection[int] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        query = dict(params or {})
        seconds = float(query.pop("request_timeout", None) or timeout or self.kwargs["timeout"])
        end, tries = time.monotonic() + seconds, 1 + max(CONNECTION_RETRIES, len(self.connection_pool.connections))
        while True:
            rest, tries = max(end - time.monotonic(), MIN_RETRY_S), tries - 1
            limit: Any = urllib3.Timeout(connect=rest / (tries + 1), read=rest)
            try:
                return super().perform_request(method, url, query, body, limit, ignore, headers)
            except ConnectionTimeout:
                raise
            except NoConnection:
                if not tries or end - time.monotonic() < MIN_RETRY_S:
                    raise


def connect(urls: str, timeout_s: float, **options: Any) -> OpenSearch:
    """Return a client that uses the nodes in turn, and another node if one cannot be reached.

    Args:
        urls: URL of one node, or URLs of several nodes, separated by commas.
        timeout_s: seconds until a request is given up; a timeout is not retried.
        options: further arguments of the client, such as credentials.

    Raises:
        InvalidInput: a URL cannot be read, or there is none.
    """
    nodes = [url.strip(" ,") for url in BETWEEN_URLS.split(urls) if url.strip(" ,")]
    # opensearch-py's own retries are off, because each would take the whole timeout; nodes that do not answer are still skipped
    no_retries = {"max_retries": 0, "retry_on_timeout": True, "retry_on_status": ()}
    if not nodes:
        raise InvalidInput("the URL of OpenSearch names no node; write it like http://127.0.0.1:9200")
    try:
        return OpenSearch(
            nodes, timeout=timeout_s, dead_timeout=SKIP_NODE_S, transport_class=FailoverTransport, **no_retries, **options
        )
    except ValueError:  # its text may contain a password
        raise InvalidInput(
            "the URL of OpenSearch cannot be read; write it like http://127.0.0.1:9200, several with commas between"
        ) from None


@contextmanager
def opensearch_errors(url: str) -> Iterator[None]:
    """Translate errors of opensearch-py in the block into Gavel's own.

    Args:
        url: URL of the server, for the message.

    Raises:
        IndexMissing: the server has no such index or alias.
        InvalidInput: the server rejects the request as invalid.
        IndexUnavailable: the server cannot be reached, is too slow, or fails.
    """
    try:
        yield
    except NoConnection as error:
        raise IndexUnavailable(f"OpenSearch at {url} does not answer ({error.error}); {REMEDY}") from error
    except NotFoundError as error:
        raise IndexMissing(f"OpenSearch at {url} has no such index ({_cause(error)}); build one with `gavel index`") from error
    except RequestError as error:
        raise InvalidInput(f"OpenSearch at {url} refuses the request: {_cause(error)}") from error
    except TransportError as error:
        raise IndexUnavailable(f"OpenSearch at {url} fails with status {error.status_code}: {_cause(error)}") from error


def _cause(error: TransportError) -> str:
    """Return the innermost reason that the server or the connection gives."""
    info = error.info
    if not isinstance(info, dict):
        return str(info)
    cause = info.get("error", info)
    if not isinstance(cause, dict):
        return str(error.error)
    roots = cause.get("root_cause") or [cause]
    return str(roots[0].get("reason") or cause.get("reason") or error.error)
