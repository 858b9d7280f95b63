"""Reject partial responses: a failed shard must not look like a shard without matches.

If a node is lost between the two phases of a search, after it reported its hits but before it sent them, the search fails with 500
and a node_disconnected_exception. Other nodes hold copies of its shards, so one retry succeeds.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from opensearchpy.exceptions import HTTP_EXCEPTIONS, TransportError

T = TypeVar("T")
ATTEMPTS = 2
NODE_LOST = (500, 502, 503)  # statuses of requests that another copy may answer
PARTIAL = 503


def retry_read(read: Callable[[], T]) -> T:
    """Send a request that changes nothing, once more if a node was lost.

    Raises:
        TransportError: it failed again, or for another reason.
    """
    for _ in range(1, ATTEMPTS):
        try:
            return read()
        except TransportError as error:
            if error.status_code not in NODE_LOST:
                raise
    return read()


def check_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Check the answer to a search or a count. A count skips unassigned shards without reporting a failure.

    Raises:
        TransportError: a shard did not answer, or not in time.
    """
    shards = answer["_shards"]
    return _require_shards(answer, max(shards["total"] - shards["successful"], int(answer.get("timed_out", False))))


def check_refresh(answer: dict[str, Any]) -> dict[str, Any]:
    """Check the answer to a refresh; unassigned copies need none.

    Raises:
        TransportError: a copy was not refreshed.
    """
    return _require_shards(answer, answer["_shards"]["failed"])


def _require_shards(answer: dict[str, Any], lost: int) -> dict[str, Any]:
    if not lost:
        return answer
    shards = answer["_shards"]
    reasons = {failure["reason"]["type"] for failure in shards.get("failures", [])}
    raise TransportError(PARTIAL, ": ".join([f"{lost} of {shards['total']} shards did not answer", *sorted(reasons)]), {})


def check_searches(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Check the answers to searches that were sent in one request.

    Raises:
        TransportError: one of them failed or is partial.
    """
    for each in answer["responses"]:
        _check(each)
    return [check_answer(each) for each in answer["responses"]]


def check_documents(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Check the documents that were fetched by their ids, missing ones included.

    Raises:
        TransportError: one could not be read, so it is unknown whether it exists.
    """
    for each in answer["docs"]:
        _check(each)
    return list(answer["docs"])


def _check(part: Mapping[str, Any]) -> None:
    if "error" in part:
        kind = part["error"]["type"]
        status = part.get("status", 404 if kind == "index_not_found_exception" else PARTIAL)  # errors of documents have no status
        raise HTTP_EXCEPTIONS.get(status, TransportError)(status, kind, part)
