"""The lots of one embedded index in SQLite: the durable truth from which every other file can be rebuilt.

A lot's row is never changed: a newer version is a new row at a higher position. So whoever has read up to a position reads
on from there, and a snapshot of any age is either right or only behind.

Every row carries a checksum: a damaged one is left out, logged and counted, and the others are found. A file beside the database,
lots.json, holds the checksum of the whole as it was when it was published, so that a start need not look at every row.
"""

import json
import logging
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.errors import IndexUnavailable
from retrieval.files import crc32_of, replace_file, seal_json, shortage, unseal_json
from retrieval.index.port import REBUILD
from retrieval.index.validation import entry_fault

logger = logging.getLogger(__name__)

SEAL_FILE = "lots.json"
BUSY_TIMEOUT_S = 60.0  # how long a writer waits for another process to commit
IDS_A_QUERY = 500  # bound variables of one statement; SQLite allows 999 at least

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
# of a database that an older version made: its rows have no checksum until they are written again
ADDED_COLUMNS = (("lots", "checksum INTEGER"), ("meta", "language TEXT"))
# as blobs, because a damaged text cannot be handed to a function
SOUND = "is_sound(position, CAST(item_id AS BLOB), version, CAST(document AS BLOB), vector, checksum)"
FIELDS = ("ends_at", "current_price", "seller_rating", "category", "brand", "bid_count", "listed_at")
FIELD_COLUMNS = ", ".join(f"json_extract(document, '$.{name}')" for name in FIELDS)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A lot as it stands in the database."""

    position: int
    item_id: str
    document: dict[str, Any]
    vector: Vector


@dataclass(frozen=True, slots=True)
class ItemFields:
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


class ItemDatabase:
    """The database of one physical index; many threads may read while one process at a time writes.

    Args:
        path: what create() made.

    Raises:
        IndexUnavailable: the file is missing or damaged. Every method raises it, too.

    Attributes:
        language: of words in Latin letters; None in a database of a version that did not write it down here.
        damaged: positions of the lots that were found to be damaged, and are left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: set[int] = set()
        self._reading, self._writing = threading.Lock(), threading.Lock()
        with translated(path):
            self._reader = self._connect()
            self._writer = self._connect()
            self._writer.execute("PRAGMA synchronous = FULL")  # acknowledged means on the disk
            if _missing_columns(self._writer):
                with _transaction(self._writer) as writer:  # another worker may have added them by now
                    for table, column in _missing_columns(writer):
                        writer.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
            row = self._reader.execute("SELECT database_id, tower_id, dimensions, language FROM meta").fetchone()
            if row is None:
                raise ValueError("it names no tower")
            self.database_id, self.tower_id, self.dimensions, self.language = str(row[0]), str(row[1]), int(row[2]), row[3]
            self._scanned = "1" if self._is_sealed() else SOUND

    @classmethod
    def create(cls, path: Path, tower_id: str, dimensions: int, language: str | None = None) -> None:
        """Make an empty database."""
        with translated(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            connection.execute("INSERT INTO meta VALUES (?, ?, ?, 0, ?)", (uuid.uuid4().hex, tower_id, dimensions, language))

    def generation(self) -> int:
        """Number of commits so far: equal numbers mean equal lots."""
        with self._reading, translated(self.path):
            return _generation(self._reader)

    def count(self) -> int:
        """Number of lots, without those that were found to be damaged."""
        with self._reading, translated(self.path):
            return _count(self._reader, self.damaged)

    def write(self, entries: Sequence[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write entries in order in one transaction, with `overwrite` also over newer ones; then they outlive a crash."""
        indexed = changed = 0
        deleted_ids, stale_ids = list[str](), list[str]()
        rejected: list[tuple[str, str]] = []
        with self._writing, translated(self.path), _transaction(self._writer) as writer:
            for entry in entries:
                encoded = _encode(entry, self.dimensions)
                if isinstance(encoded, str):
                    rejected.append((entry.item_id, encoded))
                elif not overwrite and entry.version < _known_version(writer, entry.item_id):
                    stale_ids.append(entry.item_id)
                elif encoded is None:
                    changed += _bury(writer, entry)
                    deleted_ids.append(entry.item_id)
                else:
                    changed += _put(writer, entry, *encoded)
                    indexed += 1
            if changed:
                writer.execute("UPDATE meta SET generation = generation + 1")
        return UpsertReport(indexed, tuple(deleted_ids), tuple(stale_ids), tuple(rejected))

    def at(self, positions: Sequence[int]) -> dict[int, StoredItem]:
        """The lots at these positions; one that was replaced or deleted in the meantime is left out."""
        return {lot.position: lot for lot in self._read("position", positions)}

    def of(self, item_ids: Sequence[str]) -> dict[str, StoredItem]:
        """The lots of these ids; unknown ids are left out."""
        return {lot.item_id: lot for lot in self._read("item_id", item_ids)}

    def left_out(self) -> int:
        """Number of lots that were found to be damaged and were not written again since."""
        if not self.damaged:  # /health asks often, and a count looks at every lot
            return 0
        with self._reading, translated(self.path):
            return int(self._reader.execute("SELECT count(*) FROM lots").fetchone()[0]) - _count(self._reader, self.damaged)

    def deletions(self) -> list[Deletion]:
        """The tombstones, oldest first."""
        with self._reading, translated(self.path):
            rows = self._reader.execute("SELECT item_id, version FROM tombstones ORDER BY sequence").fetchall()
        return [Deletion(item_id, version) for item_id, version in rows]

    @contextmanager
    def snapshot(self) -> Iterator["ItemSnapshot"]:
        """One state of the database, whatever is committed while it is read."""
        with translated(self.path), closing(self._connect()) as connection:
            connection.execute("BEGIN")
            yield ItemSnapshot(connection, self.dimensions, self._scanned, self.damaged)

    def seal(self) -> None:
        """Move all commits into the database's own file and seal it; while others use it, write the generation alone."""
        with self._writing, translated(self.path):
            self._writer.execute("PRAGMA busy_timeout = 1000")
            busy = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._writer.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_TIMEOUT_S)}")
            seal = self._seal()
            if busy or self.damaged or _generation(self._writer) != seal["generation"]:
                if self._last_seal().get("generation", -1) >= seal["generation"]:
                    return
                seal["crc32"] = None  # the file is not whole without its log; if that is lost, the generation tells
        try:
            replace_file(self.path.with_name(SEAL_FILE), seal_json(seal))
        except OSError as error:
            logger.warning("%s; the next start looks at every lot", error)

    def _seal(self) -> dict[str, Any]:
        deletions = 0
        for row in self._writer.execute("SELECT item_id, version FROM tombstones ORDER BY sequence"):
            deletions = zlib.crc32(repr(row).encode(), deletions)
        known = {name: getattr(self, name) for name in ("database_id", "tower_id", "dimensions", "language")}
        try:
            checksum = crc32_of(self.path)
        except OSError as error:
            raise damaged(self.path, error) from error
        return {**known, "generation": _generation(self._writer), "deletions": deletions, "crc32": checksum}

    def _last_seal(self) -> dict[str, Any]:
        """Read what seal() wrote last; empty if that is missing or damaged."""
        try:
            return unseal_json(self.path.with_name(SEAL_FILE).read_bytes())
        except (OSError, ValueError):
            return {}

    def _is_sealed(self) -> bool:
        """True if the file is the one that seal() saw; False if every row has to be looked at.

        Raises:
            ValueError: it is damaged in more than its rows, or another index's.
        """
        sealed = self._last_seal()
        if not {"database_id", "generation", "crc32"} <= sealed.keys():
            return False
        database_id, generation = sealed["database_id"], sealed["generation"]
        if database_id != self.database_id:
            raise ValueError("it is the database of another index")
        if (lost := generation - _generation(self._writer)) > 0:
            raise ValueError(f"it lacks the last {lost} commits, or was replaced by an older state of itself")
        log = self.path.with_name(f"{self.path.name}-wal")
        if sealed["crc32"] is None or generation != _generation(self._writer) or (log.exists() and log.stat().st_size):
            return False
        found = self._seal()
        if found == sealed or found["generation"] != generation:  # another process has just written
            return found == sealed
        if any(found[name] != sealed[name] for name in ("tower_id", "dimensions", "language", "deletions")):
            raise ValueError("its checksum does not hold")
        if (fault := self._writer.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise ValueError(fault)
        logger.warning("the checksum of %s does not hold; every lot is looked at", self.path)
        return False

    def _connect(self) -> sqlite3.Connection:
        connection = _connect(self.path)
        connection.create_function("is_sound", 6, self._is_sound)
        return connection

    def _is_sound(self, position: int, item_id: bytes, version: int, document: bytes, vector: bytes, checksum: int | None) -> bool:
        """True if a row is the one that was written; one that was written without a checksum, if it can be read at all."""
        try:
            if len(vector) == 4 * self.dimensions and isinstance(vector, bytes):
                if checksum is None and isinstance(json.loads(document), dict) and np.isfinite(_decode(vector)).all():
                    return True
                if checksum == _checksum(item_id, version, document, vector):
                    return True
        except (TypeError, ValueError):
            pass
        if position not in self.damaged:
            self.damaged.add(position)
            logger.error("%s: the lot at position %d is damaged and left out; %s", self.path, position, REBUILD)
        return False

    def close(self) -> None:
        """Close the connections."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _read(self, column: str, keys: Sequence[int] | Sequence[str]) -> Iterator[StoredItem]:
        for start in range(0, len(keys), IDS_A_QUERY):
            some = keys[start : start + IDS_A_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT position, item_id, document, vector FROM lots WHERE {column} IN ({marks}) AND {SOUND}"
            with self._reading, translated(self.path):
                rows = self._reader.execute(query, some).fetchall()
            with translated(self.path):
                read = [StoredItem(at, item_id, json.loads(text), _decode(blob)) for at, item_id, text, blob in rows]
            yield from read


@dataclass(frozen=True, slots=True)
class ItemSnapshot:
    """One state of the database."""

    connection: sqlite3.Connection
    dimensions: int
    sound: str  # condition that the rows of a scan meet
    damaged: set[int]

    def generation(self) -> int:
        """Number of commits that led to this state."""
        return _generation(self.connection)

    def count(self) -> int:
        """Number of lots, without those that were found to be damaged."""
        return _count(self.connection, self.damaged)

    def last_position(self) -> int:
        """Highest position that a lot ever had; 0 before the first."""
        row = self.connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'lots'").fetchone()
        return int(row[0]) if row else 0

    def deleted_after(self, sequence: int) -> list[tuple[int, str]]:
        """(sequence, item_id) of the tombstones that came after a sequence number, oldest first."""
        query = "SELECT sequence, item_id FROM tombstones WHERE sequence > ? ORDER BY sequence"
        return list(self.connection.execute(query, (sequence,)))

    def fields_to(self, position: int, rows: int) -> Iterator[list[ItemFields]]:
        """What filters ask of the lots up to a position, in the order of positions, at most `rows` of them at a time."""
        query = f"SELECT position, item_id, {FIELD_COLUMNS} FROM lots WHERE position <= ? AND {self.sound} ORDER BY position"
        cursor = self.connection.execute(query, (position,))
        while found := cursor.fetchmany(rows):
            yield [ItemFields(*row) for row in found]

    def lots_after(self, position: int, rows: int) -> Iterator[tuple[list[ItemFields], Vector]]:
        """The lots above a position, in the order of positions: at most `rows` of them and their (N, D) vectors at a time."""
        query = f"SELECT vector, position, item_id, {FIELD_COLUMNS} FROM lots WHERE position > ? AND {self.sound} ORDER BY position"
        cursor = self.connection.execute(query, (position,))
        while found := cursor.fetchmany(rows):
            vectors = np.stack([_decode(row[0]) for row in found])  # (N, D)
            yield [ItemFields(*row[1:]) for row in found], vectors

    def texts_after(self, position: int, fields: Sequence[str]) -> Iterator[tuple[int, tuple[str | None, ...]]]:
        """(position, text of each field) of the lots above a position, in its order; None where a lot has no such field."""
        extracted = ", ".join("json_extract(document, ?)" for _ in fields)
        query = f"SELECT position, {extracted} FROM lots WHERE position > ? AND {self.sound} ORDER BY position"
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
        raise damaged(path, error) from error
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> IndexUnavailable:
    """Make the error of a file that an index cannot do without; what is a shortage is told as such."""
    told = shortage(path, reason)
    return IndexUnavailable(told or f"{path} is missing, closed or damaged ({' '.join(str(reason).split())}); {REBUILD}")


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


def _missing_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Those of ADDED_COLUMNS that a database does not have."""
    names = {table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} for table in ("lots", "meta")}
    return [(table, column) for table, column in ADDED_COLUMNS if column.split()[0] not in names[table]]


def _count(connection: sqlite3.Connection, damaged: set[int]) -> int:
    query = "SELECT count(*) FROM lots WHERE position NOT IN (SELECT value FROM json_each(?))"
    return int(connection.execute(query, (json.dumps(list(damaged)),)).fetchone()[0])


def _checksum(item_id: bytes, version: int, document: bytes, vector: bytes) -> int:
    """CRC-32 of all that a row holds."""
    return zlib.crc32(vector, zlib.crc32(document, zlib.crc32(b"%s %d" % (item_id, version))))


def _generation(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT generation FROM meta").fetchone()[0])


def _encode(entry: IndexedItem | Deletion, dimensions: int) -> tuple[str, bytes] | str | None:
    """A lot's document and vector as they are stored, None for a tombstone, the reason for an entry that is refused."""
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


def _known_version(writer: sqlite3.Connection, item_id: str) -> int:
    """The highest version that is known of a lot or of its end; -1 for a lot never heard of."""
    query = "SELECT version FROM lots WHERE item_id = ?1 UNION ALL SELECT version FROM tombstones WHERE item_id = ?1"
    return max((int(row[0]) for row in writer.execute(query, (item_id,))), default=-1)


def _bury(writer: sqlite3.Connection, entry: IndexedItem | Deletion) -> int:
    """Carry out a tombstone and remember it, so that an older event that comes late is known to be stale."""
    writer.execute("DELETE FROM lots WHERE item_id = ?", (entry.item_id,))
    writer.execute("DELETE FROM tombstones WHERE item_id = ?", (entry.item_id,))
    writer.execute("INSERT INTO tombstones (item_id, version) VALUES (?, ?)", (entry.item_id, entry.version))
    return 1


def _put(writer: sqlite3.Connection, entry: IndexedItem | Deletion, document: str, vector: bytes) -> int:
    """Write a lot at a new position; 0 if it stands there already, as it does when a part is indexed twice."""
    query = "SELECT 1 FROM lots WHERE item_id = ?1 AND version = ?2 AND document = ?3 AND vector = ?4 AND ifnull(checksum, ?5) = ?5"
    checksum = _checksum(entry.item_id.encode(), entry.version, document.encode(), vector)
    values = (entry.item_id, entry.version, document, vector, checksum)
    if writer.execute(query, values).fetchone():
        return 0
    writer.execute("DELETE FROM lots WHERE item_id = ?", (entry.item_id,))
    writer.execute("DELETE FROM tombstones WHERE item_id = ?", (entry.item_id,))
    writer.execute("INSERT INTO lots (item_id, version, document, vector, checksum) VALUES (?, ?, ?, ?, ?)", values)
    return 1
