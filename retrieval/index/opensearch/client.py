"""The client of an OpenSearch server, or of the nodes of a cluster: what one node does not answer, the next is asked."""

import re
import time
from collections.abc import Collection, Mapping
from typing import Any

import urllib3
from opensearchpy import OpenSearch, Transport
from opensearchpy.exceptions import ConnectionError as NoConnection
from opensearchpy.exceptions import ConnectionTimeout

from retrieval.errors import InvalidInput

# One more try finds out that a kept connection was closed by the server; waiting longer is the caller's choice
CONNECTION_RETRIES = 1
DEAD_S = 5.0  # a node that did not answer is left alone for so long, then for twice as long each time
LEAST_S = 0.01  # left of a request's time, for another node to be asked
BETWEEN_URLS = re.compile(r",(?=\s*https?://)")  # a password may hold a comma


class _Nodes(Transport):
    """Asks another node when one cannot be reached, all within the time of one request.

    A node that takes too long is left alone, too, but the request is not put again: its time is up.
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
        asked = dict(params or {})
        seconds = float(asked.pop("request_timeout", None) or timeout or self.kwargs["timeout"])
        ends, tries = time.monotonic() + seconds, 1 + max(CONNECTION_RETRIES, len(self.connection_pool.connections))
        while True:
            left, tries = max(ends - time.monotonic(), LEAST_S), tries - 1
            limit: Any = urllib3.Timeout(connect=left / (tries + 1), read=left)
            try:
                return super().perform_request(method, url, asked, body, limit, ignore, headers)
            except ConnectionTimeout:
                raise
            except NoConnection:
                if not tries or ends - time.monotonic() < LEAST_S:
                    raise


def connect(urls: str, timeout_s: float, **how: Any) -> OpenSearch:
    """A client that asks the nodes in turn and, when one is gone, another of them.

    Args:
        urls: of one node, or of several with commas between.
        timeout_s: seconds until one request is given up; what takes too long is not asked again.
        how: further arguments of the client, such as its credentials.

    Raises:
        InvalidInput: a URL cannot be read.
    """
    nodes = [url.strip(" ,") for url in BETWEEN_URLS.split(urls) if url.strip(" ,")]
    # the transport's own tries take the whole time each; with none left it still leaves alone a node that does not answer
    once = {"max_retries": 0, "retry_on_timeout": True, "retry_on_status": ()}
    if not nodes:
        raise InvalidInput("the URL of OpenSearch names no node; write it like http://127.0.0.1:9200")
    try:
        return OpenSearch(nodes, timeout=timeout_s, dead_timeout=DEAD_S, transport_class=_Nodes, **once, **how)
    except ValueError:  # it may quote a password
        raise InvalidInput(
            "the URL of OpenSearch cannot be read; write it like http://127.0.0.1:9200, several with commas between"
        ) from None
