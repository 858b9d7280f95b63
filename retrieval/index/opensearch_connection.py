"""The client of an OpenSearch server, or of the nodes of a cluster: what one node does not answer, the next is asked."""

from typing import Any

from opensearchpy import OpenSearch

from retrieval.errors import InvalidInput

# One more try finds out that a kept connection was closed by the server; waiting longer is the caller's choice
CONNECTION_RETRIES = 1
DEAD_S = 5.0  # how long a node that did not answer is left alone; asking one that is still gone costs a refused connection


def connect(urls: str, timeout_s: float, **how: Any) -> OpenSearch:
    """A client that asks the nodes in turn and, when one is gone, another of them.

    Args:
        urls: of one node, or of several with commas between.
        timeout_s: seconds until one request is given up; what takes too long is not asked again.
        how: further arguments of the client, such as its credentials.

    Raises:
        InvalidInput: a URL cannot be read.
    """
    nodes = [url.strip() for url in urls.split(",") if url.strip()]
    retries = max(CONNECTION_RETRIES, len(nodes))
    try:
        return OpenSearch(nodes, timeout=timeout_s, max_retries=retries, dead_timeout=DEAD_S, **how)
    except ValueError as error:  # not quoting the URL, which may hold a password
        raise InvalidInput(f"the URL of OpenSearch cannot be read ({error}); write it like http://127.0.0.1:9200") from None
