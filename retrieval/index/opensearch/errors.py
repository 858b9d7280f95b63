"""What opensearch-py raises, as Gavel's own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from opensearchpy.exceptions import ConnectionError as NoConnection
from opensearchpy.exceptions import NotFoundError, RequestError, TransportError

from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput

WAY_OUT = "start one with `gavel up`, or set OPENSEARCH_URL"


@contextmanager
def opensearch_errors(url: str) -> Iterator[None]:
    """Turn the client's errors into Gavel's for the length of the block.

    Args:
        url: the server, for the message.

    Raises:
        IndexMissing: the server knows no such index or alias.
        InvalidInput: the server refuses the request as it stands.
        IndexUnavailable: it cannot be reached, is too slow, or fails.
    """
    try:
        yield
    except NoConnection as error:
        raise IndexUnavailable(f"OpenSearch at {url} does not answer ({error.error}); {WAY_OUT}") from error
    except NotFoundError as error:
        raise IndexMissing(f"OpenSearch at {url} has no such index ({_cause(error)}); build one with `gavel index`") from error
    except RequestError as error:
        raise InvalidInput(f"OpenSearch at {url} refuses the request: {_cause(error)}") from error
    except TransportError as error:
        raise IndexUnavailable(f"OpenSearch at {url} fails with status {error.status_code}: {_cause(error)}") from error


def _cause(error: TransportError) -> str:
    """The innermost reason that the server or the connection gives."""
    info = error.info
    if not isinstance(info, dict):
        return str(info)
    cause = info.get("error", info)
    if not isinstance(cause, dict):
        return str(error.error)
    roots = cause.get("root_cause") or [cause]
    return str(roots[0].get("reason") or cause.get("reason") or error.error)
