"""Writes to OpenSearch: bulk requests of limited size, retried while the server is busy, with an outcome for every operation."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, bulk_lines, deletion_lines
from retrieval.errors import IndexUnavailable
from retrieval.index.filters import utc_now
from retrieval.index.opensearch.client import opensearch_errors
from retrieval.index.opensearch.mapping import DELETE_MEMORY
from retrieval.index.validation import entry_fault

CHUNK_ENTRIES = 500
CHUNK_BYTES = 4_000_000
ATTEMPTS = 7
FIRST_WAIT_S = 0.25
MAX_WAIT_S = 15.0
FORGET_ATTEMPTS = 50
FORGET_WAIT_S = 0.2
BUSY = (429, 502, 503, 504)  # statuses of a request, or of one operation in it, that may be sent again


class Outcome(Enum):
    """The outcome of one operation."""

    INDEXED = "indexed"
    DELETED = "deleted"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class _Line:
    """The bulk lines of one operation, which may be several lines of text."""

    item_id: str
    text: str
    deletion: bool


class Busy(Exception):
    """The server was too busy for some operations; they may be sent again."""


def retry_while_busy(send: Callable[[], None]) -> None:
    """Call a function until it does not raise Busy, with growing waits; raise its last Busy after ATTEMPTS calls."""
    attempts = Retrying(
        retry=retry_if_exception_type(Busy),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S),
        reraise=True,
    )
    attempts(send)


def send_bulk(client: OpenSearch, url: str, index: str, body: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Send bulk lines, and return the server's answer to each operation.

    Raises:
        Busy: the server refuses the request for now.
        IndexUnavailable: the server does not answer.
    """
    with opensearch_errors(url):
        try:
            return list(client.bulk(body=body, index=index, params=params)["items"])
        except TransportError as error:
            if error.status_code in BUSY:
                raise Busy(f"status {error.status_code}") from error
            raise


class _Delivery:
    """The state of a chunk of operations: those that are pending, and the outcomes of the others."""

    def __init__(self, lines: Sequence[_Line]) -> None:
        self.lines = lines
        self.pending = list(range(len(lines)))
        self.outcomes: dict[int, Outcome | str] = {}  # index in the chunk -> outcome, or reason of a rejection

    @property
    def body(self) -> str:
        """Return the bulk lines of the pending operations."""
        return "".join(self.lines[place].text for place in self.pending)

    def report(self) -> UpsertReport:
        """Return the outcomes of the operations."""
        ordered = [(self.lines[place].item_id, self.outcomes[place]) for place in sorted(self.outcomes)]
        indexed, deleted, stale = (
            tuple(item_id for item_id, outcome in ordered if outcome is one)
            for one in (Outcome.INDEXED, Outcome.DELETED, Outcome.STALE)
        )
        refused = tuple((item_id, reason) for item_id, reason in ordered if isinstance(reason, str))
        return UpsertReport(len(indexed), deleted, stale, refused)


class BulkWriter:
    """A writer of operations to one index.

    Requests may be repeated, because versions are external: an operation that was carried out before is carried out again or is
    stale.
    """

    def __init__(self, client: OpenSearch, index: str, dimensions: int, url: str, timeout_s: float) -> None:
        self._client = client
        self._index = index
        self._dimensions = dimensions
        self._url = url
        self._timeout_s = timeout_s

    def write(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Send operations in order, and return their outcomes.

        Args:
            entries: operations; the iterable is read once.
            overwrite: True writes an operation even over a newer stored version.

        Raises:
            IndexUnavailable: the server does not answer, or is still busy after the last attempt. Earlier operations stay written.
        """
        report = UpsertReport()
        rejected: list[tuple[str, str]] = []
        for chunk in _chunks(self._valid_lines(entries, rejected)):
            report += self._deliver(chunk, overwrite)
        return report + UpsertReport(rejected=tuple(rejected))

    def _valid_lines(self, entries: Iterable[IndexedItem | Deletion], rejected: list[tuple[str, str]]) -> Iterator[_Line]:
        for entry in entries:
            fault = entry_fault(entry, self._dimensions)
            if fault is None:
                lines = deletion_lines(entry, utc_now()) if isinstance(entry, Deletion) else bulk_lines(entry, spread=True)
                text = "".join(f"{line}\n" for line in lines)
                fault = _encoding_fault(text)
            if fault is None:
                yield _Line(entry.item_id, text, isinstance(entry, Deletion))
            else:
                rejected.append((entry.item_id, fault))

    def _deliver(self, lines: Sequence[_Line], overwrite: bool) -> UpsertReport:
        delivery = _Delivery(lines)
        self._send_all(delivery)
        if overwrite:
            self._overwrite(delivery)
        return delivery.report()

    def _send_all(self, delivery: _Delivery) -> None:
        try:
            retry_while_busy(lambda: self._send(delivery))
        except Busy as busy:
            raise IndexUnavailable(
                f"OpenSearch at {self._url} is too busy: {len(delivery.pending)} entries refused {ATTEMPTS} times ({busy}); "
                "try again later"
            ) from busy

    def _overwrite(self, delivery: _Delivery) -> None:
        """Overwrite newer versions: delete the items of stale operations, and send these again once the versions are forgotten.

        A server remembers the version of a delete for `gc_deletes`, which is set to 0 s meanwhile. Its clock is coarse, so several
        attempts may be needed.
        """
        last = {line.item_id: place for place, line in enumerate(delivery.lines)}
        stale = {item_id: place for item_id, place in last.items() if delivery.outcomes[place] is Outcome.STALE}
        if not stale:
            return
        self._remember_deletes("0s")
        try:
            with opensearch_errors(self._url):
                deletes = "".join(f"{json.dumps({'delete': {'_id': item_id}})}\n" for item_id in stale)
                self._client.bulk(body=deletes, index=self._index, params={"request_timeout": self._timeout_s})
            for _ in range(FORGET_ATTEMPTS):
                time.sleep(FORGET_WAIT_S)
                delivery.pending = [place for place in stale.values() if delivery.outcomes[place] is Outcome.STALE]
                if not delivery.pending:
                    return
                with opensearch_errors(self._url):
                    self._client.indices.refresh(index=self._index)
                self._send_all(delivery)
        finally:
            self._remember_deletes(DELETE_MEMORY)
        raise IndexUnavailable(
            f"OpenSearch at {self._url} does not forget the newer versions of {len(delivery.pending)} lots of {self._index}; "
            "no search finds them now: send the same lots again"
        )

    def _remember_deletes(self, period: str) -> None:
        with opensearch_errors(self._url):
            self._client.indices.put_settings(index=self._index, body={"index": {"gc_deletes": period}})

    def _send(self, delivery: _Delivery) -> None:
        params = {"request_timeout": self._timeout_s}
        results = send_bulk(self._client, self._url, self._index, delivery.body, params)
        pending: list[int] = []
        busy_ids: dict[str, str] = {}
        for place, result in zip(delivery.pending, results, strict=True):
            (response,) = result.values()
            item_id = delivery.lines[place].item_id
            if response["status"] in BUSY:
                busy_ids[item_id] = _reason(response)
            if item_id in busy_ids:  # later operations on the same item, too, so that the last one still wins
                pending.append(place)
            else:
                delivery.outcomes[place] = self._outcome(delivery.lines[place].deletion, response)
        delivery.pending = pending
        if pending:
            raise Busy(next(iter(busy_ids.values())))

    def _outcome(self, deletion: bool, response: dict[str, Any]) -> Outcome | str:
        match response["status"]:
            case 409:
                return Outcome.STALE
            case 200 | 201:
                return Outcome.DELETED if deletion else Outcome.INDEXED
            case 400:
                return _reason(response)
        raise IndexUnavailable(f"OpenSearch at {self._url} does not write to {self._index}: {_reason(response)}")


def _chunks(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Yield chunks of at most CHUNK_ENTRIES operations and CHUNK_BYTES bytes; a larger operation is a chunk by itself."""
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


def _reason(response: dict[str, Any]) -> str:
    error = response.get("error") or {}
    cause = error.get("caused_by") or {}
    return ": ".join(str(part) for part in (error.get("reason"), cause.get("reason")) if part) or f"status {response['status']}"
