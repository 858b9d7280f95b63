"""Read shops' event logs (`events.csv`) into one table, with the events of each buyer sorted by time.

Buyers and items are stored as indices into lists of ids. Each id is parsed once, because ids repeat in ten million events.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.event_batches import FIELDS, Batch, Column, event_batches, event_table_files
from catalog.event_times import MICROSECOND, Fault, microseconds, read_times
from retrieval.contracts.events import EVENT_TYPES, Interaction, missing, parse_event_type
from retrieval.contracts.items import EPOCH, ZONE_SLACK, Reject, first_value, parse_id
from retrieval.errors import InvalidInput
from retrieval.progress import Progress

EXAMPLES = 3  # number of rejects of each kind in the report
PARTS = 1_000  # number of parts that progress counts

BROKEN_ROW, UNKNOWN_EVENT, UNKNOWN_PRODUCT = "broken_row", "unknown_event", "unknown_product"  # kinds of rejects


@dataclass(frozen=True, slots=True, eq=False)
class EventTable:
    """Events grouped by buyer, oldest first; ties by item id, then in the order of EVENT_TYPES.

    Attributes:
        buyer_ids: ids of the B buyers, sorted.
        item_ids: ids of the items that occur, sorted.
        starts: (B + 1,) int64; buyer b has the events starts[b]:starts[b + 1].
        items: (N,) int32, item of each event, an index into item_ids.
        event_types: (N,) int8, type of each event, an index into EVENT_TYPES.
        times_us: (N,) int64, time of each event in microseconds since 1970 UTC.
        rows: number of rows read: events + duplicates + rejected.
        duplicates: number of rows that repeat an event (buyer, item, type, time).
        rejected: kind -> number of rejected rows.
        examples: kind -> the first three rejects.
        files: number of files.
    """

    buyer_ids: Sequence[str]
    item_ids: Sequence[str]
    starts: NDArray[np.int64]
    items: NDArray[np.int32]
    event_types: NDArray[np.int8]
    times_us: NDArray[np.int64]
    rows: int
    duplicates: int
    rejected: dict[str, int]
    examples: dict[str, list[Reject]]
    files: int

    def __post_init__(self) -> None:
        if self.rows != len(self) + self.duplicates + sum(self.rejected.values()):
            raise InvalidInput(
                f"rows were lost: {self.rows} read, {len(self)} events, {self.duplicates} duplicates, "
                f"{sum(self.rejected.values())} rejects; the files changed while they were read, or this is a bug"
            )

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.items)

    @property
    def buyers(self) -> NDArray[np.int32]:
        """(N,) int32, buyer of each event, an index into buyer_ids."""
        return np.repeat(np.arange(len(self.buyer_ids), dtype=np.int32), np.diff(self.starts))

    def sequences(self) -> Iterator[tuple[str, list[Interaction]]]:
        """Yield each buyer with their events, oldest first."""
        for buyer, buyer_id in enumerate(self.buyer_ids):
            yield buyer_id, self.sequence(buyer)

    def sequence(self, buyer: int) -> list[Interaction]:
        """Return the events of one buyer, given by position in buyer_ids, oldest first."""
        rows = slice(int(self.starts[buyer]), int(self.starts[buyer + 1]))
        columns = (self.items[rows].tolist(), self.event_types[rows].tolist(), self.times_us[rows].tolist())
        buyer_id = self.buyer_ids[buyer]
        return [
            Interaction(buyer_id, self.item_ids[item], EVENT_TYPES[kind], EPOCH + time * MICROSECOND)
            for item, kind, time in zip(*columns, strict=True)
        ]


def read_event_table(
    paths: Path | Sequence[Path],
    catalogue_ids: AbstractSet[str] | None = None,
    progress: Progress | None = None,
    *,
    on_reject: Callable[[Reject], None] | None = None,
    now: datetime | None = None,
) -> EventTable:
    """Read event logs: CSV, NDJSON or parquet under the contract of retrieval.contracts.events, in any order.

    Args:
        paths: files, or folders of files.
        catalogue_ids: ids of the catalogue's items; events on other items are rejected. None accepts all.
        progress: called with (parts read, parts).
        on_reject: called with each rejected row; the table holds only the first three of each kind.
        now: moment in UTC, after which events are rejected, with a tolerance for misread time zones. None takes the present.

    Raises:
        InvalidInput: a file is missing, cannot be read, or has no column for a field.
    """
    files = event_table_files([paths] if isinstance(paths, Path) else paths)
    reader = _Reader(catalogue_ids, on_reject, (now or datetime.now(UTC)) + ZONE_SLACK)
    sizes = [path.stat().st_size for path in files]
    total, before = max(sum(sizes), 1), 0
    for path, size in zip(files, sizes, strict=True):
        for batch, share in event_batches(path):
            reader.add(path, batch)
            if progress:
                progress(round(PARTS * (before + share * size) / total), PARTS)
        before += size
    return reader.table(len(files))


class _Distinct:
    """The distinct values of one field. Each value is parsed once, however many rows have it."""

    def __init__(
        self, field_name: str, unreadable: str, parse: Callable[[Any], str], allowed: AbstractSet[str] | None = None
    ) -> None:
        self._field, self._unreadable, self._parse, self._allowed = field_name, unreadable, parse, allowed
        self._codes: dict[Hashable, int] = {}
        self.values: list[str] = []
        self.faults: list[Fault] = []

    def codes(self, column: Column) -> NDArray[np.int32]:
        """Return (N,) a code for each value: its position in `values`, or for a fault -1 - the position in `faults`."""
        if isinstance(column, list):
            keys = [value if isinstance(value, str) else (type(value), str(value)) for value in column]
            return np.array([self._code(key, value) for key, value in zip(keys, column, strict=True)], dtype=np.int32)
        encoded = column.dictionary_encode(null_encoding="encode")
        distinct = np.array([self._code(value, value) for value in encoded.dictionary.to_pylist()], dtype=np.int32)
        codes: NDArray[np.int32] = distinct[encoded.indices.to_numpy(zero_copy_only=False)]
        return codes

    def _code(self, key: Hashable, value: Any) -> int:
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = self._new_code(value)
        return code

    def _new_code(self, value: Any) -> int:
        present = first_value({self._field: value}, (self._field,))
        try:
            if present is None:
                return self._fault(f"missing_{self._field}", missing(self._field))
            text = self._parse(present)
        except InvalidInput as error:
            return self._fault(self._unreadable, str(error))
        if self._allowed is not None and text not in self._allowed:
            return self._fault(UNKNOWN_PRODUCT, f"{self._field} {text!r} is not among the {len(self._allowed)} items", text)
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self.values)
            self.values.append(text)
        return code

    def _fault(self, kind: str, reason: str, item_id: str | None = None) -> int:
        self.faults.append(Fault(kind, reason, item_id))
        return -len(self.faults)


@dataclass
class _Reader:
    """The events of all files read so far, as columns of numbers, and the rejects."""

    catalogue_ids: AbstractSet[str] | None
    on_reject: Callable[[Reject], None] | None
    latest: datetime
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Reject]] = field(default_factory=dict)
    columns: list[tuple[NDArray[Any], ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buyers = _Distinct("buyer_id", "bad_buyer_id", lambda value: parse_id("buyer_id", value))
        self.items = _Distinct("item_id", "bad_item_id", lambda value: parse_id("item_id", value), self.catalogue_ids)
        self.types = _Distinct("event_type", UNKNOWN_EVENT, parse_event_type)
        self.latest_us = microseconds(self.latest)

    def add(self, path: Path, batch: Batch) -> None:
        """Add the events of a batch and reject invalid rows."""
        self.rows += len(batch.lines) + len(batch.broken)
        for line, reason in batch.broken:
            self._reject(path, line, Fault(BROKEN_ROW, reason))
        if not batch.lines:
            return
        fields = (self.buyers, self.items, self.types)
        codes = [distinct.codes(batch.columns[name]) for distinct, name in zip(fields, FIELDS, strict=False)]
        times, faults = read_times(batch.columns["timestamp"], self.latest_us)
        valid = (codes[0] >= 0) & (codes[1] >= 0) & (codes[2] >= 0)
        valid[list(faults)] = False
        for row in np.flatnonzero(~valid).tolist():
            fault = next((d.faults[-1 - code[row]] for d, code in zip(fields, codes, strict=True) if code[row] < 0), None)
            item = int(codes[1][row])
            self._reject(path, batch.lines[row], fault or faults[row], self.items.values[item] if item >= 0 else None)
        self.columns.append((codes[0][valid], codes[1][valid], codes[2][valid].astype(np.int8), times[valid]))

    def _reject(self, path: Path, line: int, fault: Fault, item_id: str | None = None) -> None:
        reject = Reject(str(path), line, fault.reason, item_id or fault.item_id)
        self.rejected[fault.kind] += 1
        if self.rejected[fault.kind] <= EXAMPLES:
            self.examples.setdefault(fault.kind, []).append(reject)
        if self.on_reject:
            self.on_reject(reject)

    def table(self, files: int) -> EventTable:
        """Return all events in order, each once."""
        empty = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int8), np.empty(0, np.int64))
        buyers, items, types, times = (np.concatenate(column) for column in zip(empty, *self.columns, strict=True))
        self.columns.clear()
        buyer_ids, buyers = _by_name(self.buyers.values, buyers)
        item_ids, items = _by_name(self.items.values, items)
        types = np.array([EVENT_TYPES.index(name) for name in self.types.values] or [0], dtype=np.int8)[types]
        order = np.lexsort((types, items, times, buyers))
        buyers, items, types, times = buyers[order], items[order], types[order], times[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = False
        for column in (buyers, items, types, times):
            new[1:] |= column[1:] != column[:-1]
        starts = np.searchsorted(buyers[new], np.arange(len(buyer_ids) + 1)).astype(np.int64)
        columns = (starts, items[new], types[new], times[new])
        rejected = dict(self.rejected.most_common())
        return EventTable(buyer_ids, item_ids, *columns, self.rows, int((~new).sum()), rejected, self.examples, files)


def _by_name(values: Sequence[str], codes: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int32]]:
    """Return the values that occur, sorted, and the codes as indices into these."""
    used = np.unique(codes).tolist()
    used.sort(key=values.__getitem__)
    places = np.zeros(len(values), dtype=np.int32)
    places[used] = np.arange(len(used), dtype=np.int32)
    return [values[code] for code in used], places[codes]
