"""Answers of a cluster: whole, or none. A shard that did not answer must not pass for one without such lots.

A node that is lost between the two phases of a search, when it has named its hits but not sent them, fails that search: 500, with a
node_disconnected_exception. A copy of its shards stands elsewhere, so the same question is asked once more.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from opensearchpy.exceptions import HTTP_EXCEPTIONS, TransportError

T = TypeVar("T")
ATTEMPTS = 2
NODE_LOST = (500, 502, 503)  # statuses of what another copy may answer
PARTIAL = 503


def ask_again(ask: Callable[[], T]) -> T:
    """What a question that changes nothing is answered with; it is put again when nodes were lost on the way.

    Raises:
        TransportError: it failed once more, or for another reason.
    """
    for _ in range(1, ATTEMPTS):
        try:
            return ask()
        except TransportError as error:
            if error.status_code not in NODE_LOST:
                raise
    return ask()


def whole_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer to a search or a count; a count passes over shards that stand nowhere, and calls none of them failed.

    Raises:
        TransportError: not all shards gave theirs, or not in time.
    """
    shards = answer["_shards"]
    return _unless_lost(answer, max(shards["total"] - shards["successful"], int(answer.get("timed_out", False))))


def refreshed(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer to a refresh; copies that stand nowhere need none.

    Raises:
        TransportError: a copy did not become what was written.
    """
    return _unless_lost(answer, answer["_shards"]["failed"])


def _unless_lost(answer: dict[str, Any], lost: int) -> dict[str, Any]:
    if not lost:
        return answer
    shards = answer["_shards"]
    reasons = {failure["reason"]["type"] for failure in shards.get("failures", [])}
    raise TransportError(PARTIAL, ": ".join([f"{lost} of {shards['total']} shards did not answer", *sorted(reasons)]), {})


def whole_answers(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers to searches that were sent in one request.

    Raises:
        TransportError: one of them failed, or is not whole.
    """
    for each in answer["responses"]:
        _check(each)
    return [whole_answer(each) for each in answer["responses"]]


def whole_documents(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The documents that were asked for by their ids, those that are not there among them.

    Raises:
        TransportError: one could not be read; it is not known whether it is there.
    """
    for each in answer["docs"]:
        _check(each)
    return list(answer["docs"])


def _check(part: Mapping[str, Any]) -> None:
    if "error" in part:
        kind = part["error"]["type"]
        status = part.get("status", 404 if kind == "index_not_found_exception" else PARTIAL)  # documents come without one
        raise HTTP_EXCEPTIONS.get(status, TransportError)(status, kind, part)
