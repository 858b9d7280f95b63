"""The lots of one embedded index in SQLite: the durable truth from which every other file can be rebuilt.

A lot's row is never changed: a newer version is a new row at a higher position. So whoever has read up to a position reads
on from there, and a snapshot of any age is either right or only behind.
"""

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import IndexUnavailable
from retrieval.index.base import IndexedItem, Tombstone, UpsertReport, Vector
from retrieval.index.entries import entry_fault

BUSY_TIMEOUT_S = 60.0  # how long a writer waits for another process to commit
# of SQLite's errors: the disk or a quota is full, or may not be written; what was committed is whole
UNWRITABLE = (
    "SQLITE_FULL",
    "SQLITE_READONLY",
    "SQLITE_IOERR_WRITE",
    "SQLITE_IOERR_FSYNC",
    "SQLITE_IOERR_TRUNCATE",
    "SQLITE_IOERR_SHM",
)
IDS_A_QUERY = 500  # bound variables of one statement; SQLite allows 999 at least

SCHEMA = """
CREATE TABLE meta (database_id TEXT NOT NULL, tower_id TEXT NOT NULL, dimensions INTEGER NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE lots (
    position INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL,
    document TEXT NOT NULL, vector BLOB NOT NULL
);
CREATE TABLE tombstones (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL
);
"""
FIELDS = ("ends_at", "current_price", "seller_rating", "category", "brand", "bid_count", "listed_at")
FIELD_COLUMNS = ", ".join(f"json_extract(document, '$.{name}')" for name in FIELDS)


@dataclass(frozen=True, slots=True)
class StoredLot:
    """A lot as it stands in the database."""

    position: int
    item_id: str
    document: dict[str, Any]
    vector: Vector


@dataclass(frozen=True, slots=True)
class LotFields:
    """What filters and orders ask of a lot: where it stands, and FIELDS; None where the lot has no such field."""

    position: int
    item_id: str
    ends_at: int | None
    current_price: float | None
    seller_rating: float | None
    category: str | None
    brand: str | None
    bid_count: float | None = None
    listed_at: int | None = None


class LotStore:
    """The database of one physical index; many threads may read while one process at a time writes.

    Args:
        path: what create() made.

    Raises:
        IndexUnavailable: the file is missing or damaged. Every method raises it, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reading, self._writing = threading.Lock(), threading.Lock()
        with translated(path):
            self._reader = _connect(path)
            self._writer = _connect(path)
            self._writer.execute("PRAGMA synchronous = FULL")  # acknowledged means on the disk
            row = self._reader.execute("SELECT database_id, tower_id, dimensions FROM meta").fetchone()
        if row is None:
            raise IndexUnavailable(_damaged(path, "it names no tower"))
        self.database_id, self.tower_id, self.dimensions = str(row[0]), str(row[1]), int(row[2])

    @classmethod
    def create(cls, path: Path, tower_id: str, dimensions: int) -> None:
        """Make an empty database."""
        with translated(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            connection.execute("INSERT INTO meta VALUES (?, ?, ?, 0)", (uuid.uuid4().hex, tower_id, dimensions))

    def generation(self) -> int:
        """Number of commits so far: equal numbers mean equal lots."""
        with self._reading, translated(self.path):
            return _generation(self._reader)

    def count(self) -> int:
        """Number of lots."""
        with self._reading, translated(self.path):
            return int(self._reader.execute("SELECT count(*) FROM lots").fetchone()[0])

    def write(self, entries: Sequence[IndexedItem | Tombstone]) -> UpsertReport:
        """Write entries in order in one transaction; once this returns they outlive a crash."""
        indexed = deleted = stale = changed = 0
        rejected: list[tuple[str, str]] = []
        with self._writing, translated(self.path), _transaction(self._writer) as writer:
            for entry in entries:
                encoded = _encode(entry, self.dimensions)
                if isinstance(encoded, str):
                    rejected.append((entry.item_id, encoded))
                elif entry.version < _known_version(writer, entry.item_id):
                    stale += 1
                elif encoded is None:
                    changed += _bury(writer, entry)
                    deleted += 1
                else:
                    changed += _put(writer, entry, *encoded)
                    indexed += 1
            if changed:
                writer.execute("UPDATE meta SET generation = generation + 1")
        return UpsertReport(indexed, deleted, stale, tuple(rejected))

    def at(self, positions: Sequence[int]) -> dict[int, StoredLot]:
        """The lots at these positions; one that was replaced or deleted in the meantime is left out."""
        return {lot.position: lot for lot in self._read("position", positions)}

    def of(self, item_ids: Sequence[str]) -> dict[str, StoredLot]:
        """The lots of these ids; unknown ids are left out."""
        return {lot.item_id: lot for lot in self._read("item_id", item_ids)}

    @contextmanager
    def snapshot(self) -> Iterator["LotSnapshot"]:
        """One state of the database, whatever is committed while it is read."""
        with translated(self.path), closing(_connect(self.path)) as connection:
            connection.execute("BEGIN")
            yield LotSnapshot(connection, self.dimensions, self.path)

    def close(self) -> None:
        """Close the connections."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _read(self, column: str, keys: Sequence[int] | Sequence[str]) -> Iterator[StoredLot]:
        for start in range(0, len(keys), IDS_A_QUERY):
            some = keys[start : start + IDS_A_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT position, item_id, document, vector FROM lots WHERE {column} IN ({marks})"
            with self._reading, translated(self.path):
                rows = self._reader.execute(query, some).fetchall()
            with translated(self.path):
                read = [
                    StoredLot(at, item_id, json.loads(text), _decode(blob, self.dimensions)) for at, item_id, text, blob in rows
                ]
            yield from read


@dataclass(frozen=True, slots=True)
class LotSnapshot:
    """One state of the database."""

    connection: sqlite3.Connection
    dimensions: int
    path: Path

    def generation(self) -> int:
        """Number of commits that led to this state."""
        return _generation(self.connection)

    def count(self) -> int:
        """Number of lots."""
        return int(self.connection.execute("SELECT count(*) FROM lots").fetchone()[0])

    def deleted_after(self, sequence: int) -> list[tuple[int, str]]:
        """(sequence, item_id) of the tombstones that came after a sequence number, oldest first."""
        query = "SELECT sequence, item_id FROM tombstones WHERE sequence > ? ORDER BY sequence"
        return list(self.connection.execute(query, (sequence,)))

    def fields_to(self, position: int, rows: int) -> Iterator[list[LotFields]]:
        """What filters ask of the lots up to a position, in the order of positions, at most `rows` of them at a time."""
        query = f"SELECT position, item_id, {FIELD_COLUMNS} FROM lots WHERE position <= ? ORDER BY position"
        cursor = self.connection.execute(query, (position,))
        while found := cursor.fetchmany(rows):
            yield [LotFields(*row) for row in found]

    def lots_after(self, position: int, rows: int) -> Iterator[tuple[list[LotFields], Vector]]:
        """The lots above a position, in the order of positions: at most `rows` of them and their (N, D) vectors at a time."""
        query = f"SELECT vector, position, item_id, {FIELD_COLUMNS} FROM lots WHERE position > ? ORDER BY position"
        cursor = self.connection.execute(query, (position,))
        while found := cursor.fetchmany(rows):
            vectors = np.stack([_decode(row[0], self.dimensions) for row in found])  # (N, D)
            yield [LotFields(*row[1:]) for row in found], vectors

    def texts_after(self, position: int, fields: Sequence[str]) -> Iterator[tuple[int, tuple[str | None, ...]]]:
        """(position, text of each field) of the lots above a position, in its order; None where a lot has no such field."""
        extracted = ", ".join("json_extract(document, ?)" for _ in fields)
        query = f"SELECT position, {extracted} FROM lots WHERE position > ? ORDER BY position"
        for at, *texts in self.connection.execute(query, (*(f"$.{field}" for field in fields), position)):
            yield at, tuple(texts)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite complains about into IndexUnavailable with the way out."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise IndexUnavailable(f"{path} is locked by another process that writes to it; try again when it has ended") from error
        if getattr(error, "sqlite_errorname", "").startswith(UNWRITABLE):
            raise IndexUnavailable(
                f"{path} cannot be written ({error}); free some space, raise the quota or mend its permissions"
            ) from error
        raise IndexUnavailable(_damaged(path, str(error))) from error
    except (sqlite3.Error, ValueError) as error:
        raise IndexUnavailable(_damaged(path, str(error))) from error


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is missing, closed or damaged ({reason}); build the index again with `gavel index`"


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"  # never make an empty database where one was expected
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")


def _generation(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT generation FROM meta").fetchone()[0])


def _encode(entry: IndexedItem | Tombstone, dimensions: int) -> tuple[str, bytes] | str | None:
    """A lot's document and vector as they are stored, None for a tombstone, the reason for an entry that is refused."""
    fault = entry_fault(entry, dimensions)
    if fault or isinstance(entry, Tombstone):
        return fault
    try:
        document = json.dumps(dict(entry.document), ensure_ascii=False, allow_nan=False)
        document.encode()
    except (TypeError, ValueError) as error:
        return f"the document cannot be written as JSON: {error}"
    return document, np.ascontiguousarray(entry.vector, dtype="<f4").tobytes()


def _decode(blob: bytes, dimensions: int) -> Vector:
    vector = np.frombuffer(blob, dtype="<f4")
    if len(vector) != dimensions:
        raise ValueError(f"a vector has {len(vector)} dimensions instead of {dimensions}")
    return vector.astype(np.float32, copy=False)


def _known_version(writer: sqlite3.Connection, item_id: str) -> int:
    """The highest version that is known of a lot or of its end; -1 for a lot never heard of."""
    query = "SELECT version FROM lots WHERE item_id = ?1 UNION ALL SELECT version FROM tombstones WHERE item_id = ?1"
    return max((int(row[0]) for row in writer.execute(query, (item_id,))), default=-1)


def _bury(writer: sqlite3.Connection, entry: IndexedItem | Tombstone) -> int:
    """Carry out a tombstone and remember it, so that an older event that comes late is known to be stale."""
    writer.execute("DELETE FROM lots WHERE item_id = ?", (entry.item_id,))
    writer.execute("DELETE FROM tombstones WHERE item_id = ?", (entry.item_id,))
    writer.execute("INSERT INTO tombstones (item_id, version) VALUES (?, ?)", (entry.item_id, entry.version))
    return 1


def _put(writer: sqlite3.Connection, entry: IndexedItem | Tombstone, document: str, vector: bytes) -> int:
    """Write a lot at a new position; 0 if it stands there already, as it does when a part is indexed twice."""
    query = "SELECT 1 FROM lots WHERE item_id = ? AND version = ? AND document = ? AND vector = ?"
    values = (entry.item_id, entry.version, document, vector)
    if writer.execute(query, values).fetchone():
        return 0
    writer.execute("DELETE FROM lots WHERE item_id = ?", (entry.item_id,))
    writer.execute("DELETE FROM tombstones WHERE item_id = ?", (entry.item_id,))
    writer.execute("INSERT INTO lots (item_id, version, document, vector) VALUES (?, ?, ?, ?)", values)
    return 1
