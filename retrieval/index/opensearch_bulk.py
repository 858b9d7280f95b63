"""Writes to OpenSearch: bounded bulk requests, retried while the server is busy, every entry accounted for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from retrieval.errors import IndexUnavailable
from retrieval.index.base import IndexedItem, Tombstone, UpsertReport
from retrieval.index.entries import entry_fault
from retrieval.index.opensearch_errors import opensearch_errors
from retrieval.schema import bulk_lines

CHUNK_ENTRIES = 500
CHUNK_BYTES = 4_000_000
ATTEMPTS = 7
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 15.0
BUSY = (429, 502, 503, 504)  # of a request, or of one entry within it


class Outcome(Enum):
    """What became of one entry."""

    INDEXED = "indexed"
    DELETED = "deleted"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class _Line:
    """An entry as it is sent."""

    item_id: str
    text: str


class _Busy(Exception):
    """Some entries were not taken; they may be sent again."""


class _Delivery:
    """A chunk on its way: what is still to be sent, and what became of the rest."""

    def __init__(self, lines: Sequence[_Line]) -> None:
        self.lines = lines
        self.pending = list(range(len(lines)))
        self.outcomes: dict[int, Outcome | str] = {}  # place in the chunk -> what became of it, or why it was refused

    @property
    def body(self) -> str:
        """What is still to be sent."""
        return "".join(self.lines[place].text for place in self.pending)

    def report(self) -> UpsertReport:
        """What became of all of them."""
        count: Callable[[Outcome], int] = list(self.outcomes.values()).count
        ordered = sorted(self.outcomes.items(), key=lambda pair: pair[0])
        refused = tuple((self.lines[place].item_id, reason) for place, reason in ordered if isinstance(reason, str))
        return UpsertReport(count(Outcome.INDEXED), count(Outcome.DELETED), count(Outcome.STALE), refused)


class BulkWriter:
    """Writes entries to one index.

    A request may safely be sent again: versions are external, so what was written before is written once more or is stale.
    """

    def __init__(self, client: OpenSearch, index: str, dimensions: int, url: str, timeout_s: float) -> None:
        self._client = client
        self._index = index
        self._dimensions = dimensions
        self._url = url
        self._timeout_s = timeout_s

    def write(self, entries: Iterable[IndexedItem | Tombstone]) -> UpsertReport:
        """Send entries in order.

        Raises:
            IndexUnavailable: the server is gone, or still busy after the last attempt. What was sent before stays written.
        """
        report = UpsertReport()
        rejected: list[tuple[str, str]] = []
        for chunk in _chunks(self._sound(entries, rejected)):
            report += self._deliver(chunk)
        return report + UpsertReport(rejected=tuple(rejected))

    def _sound(self, entries: Iterable[IndexedItem | Tombstone], rejected: list[tuple[str, str]]) -> Iterator[_Line]:
        for entry in entries:
            fault = entry_fault(entry, self._dimensions)
            if fault is None:
                text = "".join(f"{line}\n" for line in bulk_lines(entry, spread=True))
                fault = _encoding_fault(text)
            if fault is None:
                yield _Line(entry.item_id, text)
            else:
                rejected.append((entry.item_id, fault))

    def _deliver(self, lines: Sequence[_Line]) -> UpsertReport:
        delivery = _Delivery(lines)
        attempts = Retrying(
            retry=retry_if_exception_type(_Busy),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            reraise=True,
        )
        try:
            attempts(self._send, delivery)
        except _Busy as busy:
            raise IndexUnavailable(
                f"OpenSearch at {self._url} is too busy: {len(delivery.pending)} entries refused {ATTEMPTS} times ({busy}); "
                "try again later"
            ) from busy
        return delivery.report()

    def _send(self, delivery: _Delivery) -> None:
        with opensearch_errors(self._url):
            try:
                answer = self._client.bulk(body=delivery.body, index=self._index, params={"request_timeout": self._timeout_s})
            except TransportError as error:
                if error.status_code in BUSY:
                    raise _Busy(f"status {error.status_code}") from error
                raise
        again: list[int] = []
        busy_ids: dict[str, str] = {}
        for place, result in zip(delivery.pending, answer["items"], strict=True):
            ((verb, told),) = result.items()
            item_id = delivery.lines[place].item_id
            if told["status"] in BUSY:
                busy_ids[item_id] = _reason(told)
            if item_id in busy_ids:  # with what comes after it for the same lot, so that the last one still wins
                again.append(place)
            else:
                delivery.outcomes[place] = self._outcome(verb, told)
        delivery.pending = again
        if again:
            raise _Busy(next(iter(busy_ids.values())))

    def _outcome(self, verb: str, told: dict[str, Any]) -> Outcome | str:
        match told["status"]:
            case 409:
                return Outcome.STALE
            case 200 | 201:
                return Outcome.DELETED if verb == "delete" else Outcome.INDEXED
            case 404 if verb == "delete" and told.get("result") == "not_found":
                return Outcome.DELETED
            case 400:
                return _reason(told)
        raise IndexUnavailable(f"OpenSearch at {self._url} does not write to {self._index}: {_reason(told)}")


def _chunks(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Cut into requests of at most CHUNK_ENTRIES entries and, unless one alone is longer, CHUNK_BYTES bytes."""
    chunk: list[_Line] = []
    size = 0
    for line in lines:
        length = len(line.text.encode())
        if chunk and (len(chunk) == CHUNK_ENTRIES or size + length > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += length
    if chunk:
        yield chunk


def _encoding_fault(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"the document is not valid Unicode: {error.reason}"
    return None


def _reason(told: dict[str, Any]) -> str:
    error = told.get("error") or {}
    cause = error.get("caused_by") or {}
    return ": ".join(str(part) for part in (error.get("reason"), cause.get("reason")) if part) or f"status {told['status']}"
