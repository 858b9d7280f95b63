"""Reject partial responses: a failed shard must not look like a shard without matches.

A search has two phases: nodes report their hits, then send their documents. If a node is lost in between, the search fails with
status 500 and a node_disconnected_exception. One retry then succeeds, because other nodes have copies of its shards.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from opensearchpy.exceptions import HTTP_EXCEPTIONS, TransportError

T = TypeVar("T")
ATTEMPTS = 2
NODE_LOST = (500, 502, 503)  # statuses after which another copy of a shard may answer
PARTIAL = 503


def retry_read(read: Callable[[], T]) -> T:
    """Return the result of a request that changes nothing; send it once more if a node was lost.

    Raises:
        TransportError: the request failed again, or for another reason.
    """
    for _ in range(1, ATTEMPTS):
        try:
            return read()
        except TransportError as error:
            if error.status_code not in NODE_LOST:
                raise
    return read()


def check_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a search or a count if no shard is missing.

    A count skips unassigned shards without reporting a failure, so the numbers of shards are compared.

    Raises:
        TransportError: a shard did not answer, or not in time.
    """
    shards = answer["_shards"]
    return _require_shards(answer, max(shards["total"] - shards["successful"], int(answer.get("timed_out", False))))


def check_refresh(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a refresh if no copy failed; unassigned copies need no refresh.

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
    """Return the answers to searches that were sent in one request, if all are complete.

    Raises:
        TransportError: an answer is an error or partial.
    """
    for each in answer["responses"]:
        _check(each)
    return [check_answer(each) for each in answer["responses"]]


def check_documents(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the documents that were fetched by their ids, missing ones included, if all could be looked up.

    Raises:
        TransportError: a document could not be read, so it is unknown if it exists.
    """
    for each in answer["docs"]:
        _check(each)
    return list(answer["docs"])


def _check(part: Mapping[str, Any]) -> None:
    if "error" in part:
        kind = part["error"]["type"]
        status = part.get("status", 404 if kind == "index_not_found_exception" else PARTIAL)  # errors of documents have no status
        raise HTTP_EXCEPTIONS.get(status, TransportError)(status, kind, part)
