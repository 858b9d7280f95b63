"""Store the items of one embedded index in SQLite, from which every other file of the index can be rebuilt.

A row is never changed. A newer version of an item is a new row with a higher row id, and the old row is deleted. So a reader that
has read up to a row id can continue from there.

Every row has a checksum. A damaged row is left out, logged and counted. The file lots.json beside the database holds the checksum
of the whole file at publication, so that a start need not check every row.
"""

import json
import logging
import os
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType

import numpy as np

from retrieval.contracts.attributes import ATTRIBUTE_TERMS_FIELD
from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.errors import IndexUnavailable
from retrieval.files import crc32_of, reason_of, replace_file, seal_json, shortage, unseal_json
from retrieval.index.port import REBUILD
from retrieval.index.validation import entry_fault

logger = logging.getLogger(__name__)

CommitSeq = NewType("CommitSeq", int)
"""Number of commits that led to a state of a database; states with equal numbers have equal items."""
NO_COMMIT = CommitSeq(-1)
RowId = NewType("RowId", int)
"""Id of a row, which holds one version of an item; ascending from 1. The column is named `position`."""

SEAL_FILE = "lots.json"
BUSY_TIMEOUT_S = 60.0  # seconds that a writer waits for another process to commit
KEYS_PER_QUERY = 500  # bound variables per statement; SQLite allows at least 999

SCHEMA = """
CREATE TABLE meta (
    database_id TEXT NOT NULL, tower_id TEXT NOT NULL, dimensions INTEGER NOT NULL, generation INTEGER NOT NULL, language TEXT
);
CREATE TABLE lots (
    position INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL,
    document TEXT NOT NULL, vector BLOB NOT NULL, checksum INTEGER
);
CREATE TABLE tombstones (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL
);
"""
# columns that databases of older versions lack; their rows have no checksum until they are written again
ADDED_COLUMNS = (("lots", "checksum INTEGER"), ("meta", "language TEXT"))
# texts are cast to blobs, because a damaged text cannot be passed to a function
IS_SOUND = "is_sound(position, CAST(item_id AS BLOB), version, CAST(document AS BLOB), vector, checksum)"
FIELDS = (
    "ends_at",
    "current_price",
    "seller_rating",
    "category",
    "brand",
    "bid_count",
    "listed_at",
    "seller",
    ATTRIBUTE_TERMS_FIELD,
    "has_image",
)
FIELD_COLUMNS = ", ".join(f"json_extract(document, '$.{name}')" for name in FIELDS)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A row of the database."""

    row_id: RowId
    item_id: str
    version: int
    document: dict[str, Any]
    vector: Vector


@dataclass(frozen=True, slots=True)
class ItemFields:
    """The numbers and labels by which items are filtered and ordered (FIELDS); None if the item lacks the field.

    `version` is that of the row. `attribute_terms` is JSON of a list.
    """

    row_id: RowId
    item_id: str
    version: int
    ends_at: int | None
    current_price: float | None
    seller_rating: float | None
    category: str | None
    brand: str | None
    bid_count: float | None = None
    listed_at: int | None = None
    seller: str | None = None
    attribute_terms: str | None = None
    has_image: int | None = None


class ItemDatabase:
    """The database of one physical index. Many threads may read, while one process at a time writes.

    Args:
        path: path of the file that create() wrote.

    Raises:
        IndexUnavailable: the file is missing or damaged. Every method may raise it, too.

    Attributes:
        path: path of the file.
        database_id: random id of the database.
        tower_id: id of the tower of the vectors.
        dimensions: length of the vectors.
        language: language of words in Latin letters; None in a database of an older version, which did not store it.
        damaged: row ids of damaged rows that were found by reads; their items are left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: set[RowId] = set()
        # for checksums; stays open, because to close a file releases the POSIX locks of all connections of this process to it, and
        # then another process that closes the database deletes the write-ahead log with our later commits
        self._descriptor: int | None = None
        self._read_lock, self._write_lock = threading.Lock(), threading.Lock()
        with translated(path):
            self._reader = self._connect()
            self._writer = self._connect()
            self._writer.execute("PRAGMA synchronous = FULL")  # so acknowledged writes are on the disk
            if _missing_columns(self._writer):
                with transaction(self._writer) as writer:  # another worker may have added them by now
                    for table, column in _missing_columns(writer):
                        writer.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
            row = self._reader.execute("SELECT database_id, tower_id, dimensions, language FROM meta").fetchone()
            if row is None:
                raise ValueError("it names no tower")
            self.database_id, self.tower_id, self.dimensions, self.language = str(row[0]), str(row[1]), int(row[2]), row[3]
            self._scan_condition = "1" if self._is_sealed() else IS_SOUND

    @classmethod
    def create(cls, path: Path, tower_id: str, dimensions: int, language: str | None = None) -> None:
        """Create an empty database."""
        with translated(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            connection.execute("INSERT INTO meta VALUES (?, ?, ?, 0, ?)", (uuid.uuid4().hex, tower_id, dimensions, language))

    def commit_seq(self) -> CommitSeq:
        """Return the number of commits until now."""
        with self._read_lock, translated(self.path):
            return _commit_seq(self._reader)

    def count(self) -> int:
        """Return the number of items, without those in `damaged`."""
        with self._read_lock, translated(self.path):
            return _count(self._reader, self.damaged)

    def write(self, entries: Sequence[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Carry out operations in order, in one durable transaction.

        Args:
            entries: items and deletions.
            overwrite: True carries out an operation even if a newer version is stored.
        """
        indexed = changed = 0
        deleted_ids, stale_ids = list[str](), list[str]()
        rejected: list[tuple[str, str]] = []
        with self._write_lock, translated(self.path), transaction(self._writer) as writer:
            for entry in entries:
                encoded = _encode(entry, self.dimensions)
                if isinstance(encoded, str):
                    rejected.append((entry.item_id, encoded))
                elif not overwrite and entry.version < _newest_version(writer, entry.item_id):
                    stale_ids.append(entry.item_id)
                elif encoded is None:
                    changed += _delete(writer, entry)
                    deleted_ids.append(entry.item_id)
                else:
                    changed += _insert(writer, entry, *encoded)
                    indexed += 1
            if changed:
                writer.execute("UPDATE meta SET generation = generation + 1")
        return UpsertReport(indexed, tuple(deleted_ids), tuple(stale_ids), tuple(rejected))

    def by_row_id(self, row_ids: Sequence[int]) -> dict[RowId, StoredItem]:
        """Return row id -> item for these rows; rows that were deleted meanwhile and damaged rows are left out."""
        return {item.row_id: item for item in self._read("position", row_ids)}

    def by_item_id(self, item_ids: Sequence[str]) -> dict[str, StoredItem]:
        """Return item_id -> item for these ids; unknown ids and damaged rows are left out."""
        return {item.item_id: item for item in self._read("item_id", item_ids)}

    def known(self, item_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that an item has."""
        with self._read_lock, translated(self.path):
            return {item_id for (item_id,) in rows_of_items(self._reader, "SELECT item_id FROM lots", item_ids)}

    def damaged_count(self) -> int:
        """Return the number of damaged rows that were found by reads, without items that were written again since."""
        if not self.damaged:  # /health calls this often, and a count reads every row
            return 0
        with self._read_lock, translated(self.path):
            return int(self._reader.execute("SELECT count(*) FROM lots").fetchone()[0]) - _count(self._reader, self.damaged)

    def newest_update(self) -> int | None:
        """Return the latest `updated_at` of a sound item, in ms since 1970; None if no item has one."""
        query = f"SELECT max(json_extract(document, '$.updated_at')) FROM lots WHERE {IS_SOUND}"
        with self._read_lock, translated(self.path):
            newest = self._reader.execute(query).fetchone()[0]
        return None if newest is None else int(newest)

    def deletions(self) -> list[Deletion]:
        """Return the deletions of items that were not written again, oldest first."""
        with self._read_lock, translated(self.path):
            rows = self._reader.execute("SELECT item_id, version FROM tombstones ORDER BY sequence").fetchall()
        return [Deletion(item_id, version) for item_id, version in rows]

    @contextmanager
    def snapshot(self) -> Iterator["ItemSnapshot"]:
        """Yield one state of the database, which does not change while others commit."""
        with translated(self.path), closing(self._connect()) as connection:
            connection.execute("BEGIN")
            yield ItemSnapshot(connection, self.dimensions, self._scan_condition, self.damaged)

    def seal(self) -> None:
        """Move all commits from the write-ahead log into the database file, and write the file's checksum to lots.json.

        If other processes use the database, or rows are damaged, lots.json gets the number of commits without a checksum.
        """
        with self._write_lock, translated(self.path):
            self._writer.execute("PRAGMA busy_timeout = 1000")
            busy = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._writer.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_TIMEOUT_S)}")
            seal = self._seal()
            if busy or self.damaged or _commit_seq(self._writer) != seal["generation"]:
                if self._last_seal().get("generation", -1) >= seal["generation"]:
                    return
                seal["crc32"] = None  # the file is not complete without its log; the commit number shows if the log is lost
        try:
            replace_file(self.path.with_name(SEAL_FILE), seal_json(seal))
        except OSError as error:
            logger.warning("%s; the next start looks at every lot", error)

    def _seal(self) -> dict[str, Any]:
        deletions = 0
        for row in self._writer.execute("SELECT item_id, version FROM tombstones ORDER BY sequence"):
            deletions = zlib.crc32(repr(row).encode(), deletions)
        identity = {name: getattr(self, name) for name in ("database_id", "tower_id", "dimensions", "language")}
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            checksum = crc32_of(self._descriptor)
        except OSError as error:
            raise damaged(self.path, error) from error
        return {**identity, "generation": _commit_seq(self._writer), "deletions": deletions, "crc32": checksum}

    def _last_seal(self) -> dict[str, Any]:
        """Return the content of lots.json; empty if the file is missing or damaged."""
        try:
            return unseal_json(self.path.with_name(SEAL_FILE).read_bytes())
        except (OSError, ValueError):
            return {}

    def _is_sealed(self) -> bool:
        """True if the file is unchanged since seal(), so that rows need not be checked.

        Raises:
            ValueError: more than single rows is damaged, commits are missing, or this is the database of another index.
        """
        sealed = self._last_seal()
        if not {"database_id", "generation", "crc32"} <= sealed.keys():
            return False
        database_id, commit_seq = sealed["database_id"], sealed["generation"]
        if database_id != self.database_id:
            raise ValueError("it is the database of another index")
        if (lost := commit_seq - _commit_seq(self._writer)) > 0:
            raise ValueError(f"it lacks the last {lost} commits, or was replaced by an older state of itself")
        log = self.path.with_name(f"{self.path.name}-wal")
        if sealed["crc32"] is None or commit_seq != _commit_seq(self._writer) or (log.exists() and log.stat().st_size):
            return False
        current = self._seal()
        if current == sealed or current["generation"] != commit_seq:  # another process has just written
            return current == sealed
        if any(current[name] != sealed[name] for name in ("tower_id", "dimensions", "language", "deletions")):
            raise ValueError("its checksum does not hold")
        if (fault := self._writer.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise ValueError(fault)
        logger.warning("the checksum of %s does not hold; every lot is looked at", self.path)
        return False

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self.path)
        connection.create_function("is_sound", 6, self._is_sound)
        return connection

    def _is_sound(self, row_id: RowId, item_id: bytes, version: int, document: bytes, vector: bytes, checksum: int | None) -> bool:
        """True if the content of a row has its checksum; for a row without a checksum, true if it can be read."""
        try:
            if len(vector) == 4 * self.dimensions and isinstance(vector, bytes):
                if checksum is None and isinstance(json.loads(document), dict) and np.isfinite(_decode(vector)).all():
                    return True
                if checksum == _checksum(item_id, version, document, vector):
                    return True
        except (TypeError, ValueError):
            pass
        if row_id not in self.damaged:
            self.damaged.add(row_id)
            logger.error("%s: the lot at position %d is damaged and left out; %s", self.path, row_id, REBUILD)
        return False

    def close(self) -> None:
        """Close the connections."""
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _read(self, column: str, keys: Sequence[int] | Sequence[str]) -> Iterator[StoredItem]:
        for start in range(0, len(keys), KEYS_PER_QUERY):
            batch = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(batch))
            query = f"SELECT position, item_id, version, document, vector FROM lots WHERE {column} IN ({marks}) AND {IS_SOUND}"
            with self._read_lock, translated(self.path):
                rows = self._reader.execute(query, batch).fetchall()
            with translated(self.path):
                items = [
                    StoredItem(row_id, item_id, version, json.loads(text), _decode(blob))
                    for row_id, item_id, version, text, blob in rows
                ]
            yield from items


@dataclass(frozen=True, slots=True)
class ItemSnapshot:
    """One state of the database.

    Attributes:
        connection: connection with an open read transaction.
        dimensions: length of the vectors.
        scan_condition: SQL condition that is true for sound rows.
        damaged: row ids of damaged rows that were found by reads.
    """

    connection: sqlite3.Connection
    dimensions: int
    scan_condition: str
    damaged: set[RowId]

    def commit_seq(self) -> CommitSeq:
        """Return the number of commits that led to this state."""
        return _commit_seq(self.connection)

    def count(self) -> int:
        """Return the number of items, without those in `damaged`."""
        return _count(self.connection, self.damaged)

    def last_row_id(self) -> RowId:
        """Return the highest row id that was ever assigned; 0 before the first."""
        row = self.connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'lots'").fetchone()
        return RowId(int(row[0]) if row else 0)

    def deleted_after(self, sequence: int) -> list[tuple[int, str]]:
        """Return (sequence number, item_id) of the deletions after a sequence number, oldest first."""
        query = "SELECT sequence, item_id FROM tombstones WHERE sequence > ? ORDER BY sequence"
        return list(self.connection.execute(query, (sequence,)))

    def fields_to(self, last_row_id: int, batch_rows: int) -> Iterator[list[ItemFields]]:
        """Yield batches of at most `batch_rows` items with their fields, up to and including a row id, by ascending row id."""
        columns = f"position, item_id, version, {FIELD_COLUMNS}"
        query = f"SELECT {columns} FROM lots WHERE position <= ? AND {self.scan_condition} ORDER BY position"
        cursor = self.connection.execute(query, (last_row_id,))
        while rows := cursor.fetchmany(batch_rows):
            yield [ItemFields(*row) for row in rows]

    def items_after(self, row_id: int, batch_rows: int) -> Iterator[tuple[list[ItemFields], Vector]]:
        """Yield batches of N <= `batch_rows` items after a row id, by ascending row id: their fields and (N, D) vectors."""
        columns = f"vector, position, item_id, version, {FIELD_COLUMNS}"
        query = f"SELECT {columns} FROM lots WHERE position > ? AND {self.scan_condition} ORDER BY position"
        cursor = self.connection.execute(query, (row_id,))
        while rows := cursor.fetchmany(batch_rows):
            vectors = np.stack([_decode(row[0]) for row in rows])  # (N, D)
            yield [ItemFields(*row[1:]) for row in rows], vectors

    def texts_after(self, row_id: int, fields: Sequence[str]) -> Iterator[tuple[RowId, tuple[str | None, ...]]]:
        """Yield (row id, texts of the fields) of the items after a row id, by ascending row id; None for a missing field."""
        extracted = ", ".join("json_extract(document, ?)" for _ in fields)
        query = f"SELECT position, {extracted} FROM lots WHERE position > ? AND {self.scan_condition} ORDER BY position"
        for row, *texts in self.connection.execute(query, (*(f"$.{field}" for field in fields), row_id)):
            yield row, tuple(texts)


@contextmanager
def translated(path: Path, remedy: str = REBUILD) -> Iterator[None]:
    """Translate errors of SQLite in the block into IndexUnavailable with the remedy for a damaged file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise IndexUnavailable(f"{path} is locked by another process that writes to it; try again when it has ended") from error
        raise damaged(path, error, remedy) from error
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise damaged(path, error, remedy) from error


def damaged(path: Path, reason: object, remedy: str = REBUILD) -> IndexUnavailable:
    """Return the error for a file of an index that cannot be used; a shortage of disk or memory is not called damage."""
    return IndexUnavailable(
        shortage(path, reason) or f"{path} is missing, closed or damaged ({' '.join(reason_of(reason).split())}); {remedy}"
    )


def connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"  # mode=rw does not create an empty database if the file is missing
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def rows_of_items(connection: sqlite3.Connection, select: str, item_ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a SELECT without its WHERE whose item_id is among these ids, however many ids there are."""
    for start in range(0, len(item_ids), KEYS_PER_QUERY):
        batch = item_ids[start : start + KEYS_PER_QUERY]
        yield from connection.execute(f"{select} WHERE item_id IN ({','.join('?' * len(batch))})", batch)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")


def _missing_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return those of ADDED_COLUMNS that a database lacks."""
    names = {table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} for table in ("lots", "meta")}
    return [(table, column) for table, column in ADDED_COLUMNS if column.split()[0] not in names[table]]


def _count(connection: sqlite3.Connection, damaged: set[RowId]) -> int:
    query = "SELECT count(*) FROM lots WHERE position NOT IN (SELECT value FROM json_each(?))"
    return int(connection.execute(query, (json.dumps(list(damaged)),)).fetchone()[0])


def _checksum(item_id: bytes, version: int, document: bytes, vector: bytes) -> int:
    """Return the CRC-32 of the content of a row."""
    return zlib.crc32(vector, zlib.crc32(document, zlib.crc32(b"%s %d" % (item_id, version))))


def _commit_seq(connection: sqlite3.Connection) -> CommitSeq:
    return CommitSeq(int(connection.execute("SELECT generation FROM meta").fetchone()[0]))


def _encode(entry: IndexedItem | Deletion, dimensions: int) -> tuple[str, bytes] | str | None:
    """Return document and vector of an item as they are stored; None for a deletion; the fault of an invalid operation."""
    fault = entry_fault(entry, dimensions)
    if fault or isinstance(entry, Deletion):
        return fault
    try:
        document = json.dumps(dict(entry.document), ensure_ascii=False, allow_nan=False)
        document.encode()
    except (TypeError, ValueError) as error:
        return f"the document cannot be written as JSON: {error}"
    return document, np.ascontiguousarray(entry.vector, dtype="<f4").tobytes()


def _decode(blob: bytes) -> Vector:
    return np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)


def _newest_version(writer: sqlite3.Connection, item_id: str) -> int:
    """Return the stored version of an item or of its deletion; -1 if neither is stored."""
    query = "SELECT version FROM lots WHERE item_id = ?1 UNION ALL SELECT version FROM tombstones WHERE item_id = ?1"
    return max((int(row[0]) for row in writer.execute(query, (item_id,))), default=-1)


def _delete(writer: sqlite3.Connection, entry: IndexedItem | Deletion) -> int:
    """Delete an item and store the version of the deletion, so that late operations of older versions are stale. Return 1."""
    writer.execute("DELETE FROM lots WHERE item_id = ?", (entry.item_id,))
    writer.execute("DELETE FROM tombstones WHERE item_id = ?", (entry.item_id,))
    writer.execute("INSERT INTO tombstones (item_id, version) VALUES (?, ?)", (entry.item_id, entry.version))
    return 1


def _insert(writer: sqlite3.Connection, entry: IndexedItem | Deletion, document: str, vector: bytes) -> int:
    """Write an item to a new row and return 1; return 0 if an equal row is stored already, as when a part is indexed twice."""
    query = "SELECT 1 FROM lots WHERE item_id = ?1 AND version = ?2 AND document = ?3 AND vector = ?4 AND ifnull(checksum, ?5) = ?5"
    checksum = _checksum(entry.item_id.encode(), entry.version, document.encode(), vector)
    values = (entry.item_id, entry.version, document, vector, checksum)
    if writer.execute(query, values).fetchone():
        return 0
    writer.execute("DELETE FROM lots WHERE item_id = ?", (entry.item_id,))
    writer.execute("DELETE FROM tombstones WHERE item_id = ?", (entry.item_id,))
    writer.execute("INSERT INTO lots (item_id, version, document, vector, checksum) VALUES (?, ?, ?, ?, ?)", values)
    return 1
