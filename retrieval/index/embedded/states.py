"""Store the states of items in SQLite, beside all embedded indices of an alias, so that a new index or tower keeps them."""

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.contracts.item_states import OPEN, STATE_FIELDS, ItemState, StateOutcome, StateUpdate
from retrieval.errors import IndexUnavailable
from retrieval.files import shortage
from retrieval.index.embedded.database import BUSY_TIMEOUT_S, connect, rows_of_items, transaction, translated
from retrieval.index.embedded.filter_columns import STATE_COLUMNS, StateColumns
from retrieval.index.filters import Filter, utc_now
from retrieval.index.port import NAME_STAMP

logger = logging.getLogger(__name__)

STATES_FILE = "states.sqlite"
STATES_PER_STEP = 4_096  # states that are read at a time
UPDATES_PER_COMMIT = 1_000
OPENING_FIELDS = {"ends_at", "status"}  # fields that may open an auction
REMEDY = "`gavel index --rebuild` keeps what can be read of it; then send the states of the open lots again"

# REPLACE gives a changed state a new sequence number, so a reader that has read up to a number can continue from there
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS states (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE,
    {", ".join(f"{name}, {name}_version INTEGER" for name in STATE_FIELDS)}
);
CREATE TABLE IF NOT EXISTS meta (openings INTEGER NOT NULL);
INSERT INTO meta SELECT 0 WHERE NOT EXISTS (SELECT * FROM meta);
"""
COLUMNS = ", ".join(f"{name}, {name}_version" for name in STATE_FIELDS)
# values, then versions, of the fields in filter columns
FILTERED = ", ".join(
    (
        *(f"status = '{OPEN}'" if name == "status" else name for name in STATE_COLUMNS),
        *(f"ifnull({name}_version, -1)" for name in STATE_COLUMNS),
    )
)
WRITE = f"REPLACE INTO states (item_id, {COLUMNS}) VALUES ({', '.join('?' * (1 + 2 * len(STATE_FIELDS)))})"


class StateDatabase:
    """The states of items in one file. Many threads and processes may read, while one at a time writes.

    Args:
        path: path of the file, which is created if it is missing.

    Raises:
        IndexUnavailable: the file cannot be used. Every method may raise it, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_lock, self._write_lock = threading.Lock(), threading.Lock()
        with translated(path, REMEDY):
            if not path.exists():
                with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            self._reader, self._writer = connect(path), connect(path)
            self._writer.execute("PRAGMA synchronous = FULL")  # so acknowledged writes are on the disk

    def write(self, updates: Sequence[StateUpdate], now_ms: int) -> list[StateOutcome]:
        """Carry out updates in order, in durable transactions of at most UPDATES_PER_COMMIT.

        Args:
            updates: updates; several of one item are carried out one after another.
            now_ms: present time in ms since 1970, by which an update may open an auction again.

        Returns:
            The outcome of each update, "applied" or "stale".
        """
        outcomes: list[StateOutcome] = []
        for start in range(0, len(updates), UPDATES_PER_COMMIT):
            batch = updates[start : start + UPDATES_PER_COMMIT]
            with self._write_lock, translated(self.path, REMEDY), transaction(self._writer) as writer:
                states = _states_of(writer, {update.item_id for update in batch})
                changed: dict[str, ItemState] = {}
                openings = 0
                for update in batch:
                    state = states.get(update.item_id, ItemState(update.item_id))
                    after = state.after(update)
                    outcomes.append(StateOutcome(update.item_id, "stale" if after is None else "applied"))
                    if after is not None:
                        openings += bool(OPENING_FIELDS & update.values.keys()) and _opens(state, after, now_ms)
                        states[update.item_id] = changed[update.item_id] = after
                writer.executemany(WRITE, [_row(state) for state in changed.values()])
                if openings:
                    writer.execute("UPDATE meta SET openings = openings + ?", (openings,))
        return outcomes

    def restore(self, states: Iterable[ItemState]) -> None:
        """Write states as they are."""
        with self._write_lock, translated(self.path, REMEDY), transaction(self._writer) as writer:
            writer.executemany(WRITE, map(_row, states))

    def of_items(self, item_ids: Iterable[str]) -> dict[str, ItemState]:
        """Return item_id -> state of these items; items without a state are left out."""
        with self._read_lock, translated(self.path, REMEDY):
            return _states_of(self._reader, item_ids)

    def sequence(self) -> int:
        """Return a number that grows with every write; 0 before the first."""
        with self._read_lock, translated(self.path, REMEDY):
            return int(self._reader.execute("SELECT ifnull(max(sequence), 0) FROM states").fetchone()[0])

    def stamp(self, filters: Filter) -> int:
        """Return a number that changes when an update may have made an item match the filters.

        By price, bids or end, any update may. Otherwise only those count that may have opened an auction: it was over, or not
        known to be open.
        """
        if filters.state_ranges:
            return self.sequence()
        with self._read_lock, translated(self.path, REMEDY):
            return int(self._reader.execute("SELECT openings FROM meta").fetchone()[0])

    def columns_after(self, sequence: int) -> Iterator[tuple[int, StateColumns]]:
        """Yield batches of the states that were written after a sequence number, each with the number to continue from."""
        query = f"SELECT sequence, item_id, {FILTERED} FROM states WHERE sequence > ? ORDER BY sequence LIMIT ?"
        while True:
            with self._read_lock, translated(self.path, REMEDY):
                rows = self._reader.execute(query, (sequence, STATES_PER_STEP)).fetchall()
            if not rows:
                return
            sequence = rows[-1][0]
            yield sequence, _columns([row[1:] for row in rows])

    def columns_of(self, item_ids: Sequence[str]) -> StateColumns:
        """Return the states of these items; items without a state are left out."""
        with self._read_lock, translated(self.path, REMEDY):
            rows = [*rows_of_items(self._reader, f"SELECT item_id, {FILTERED} FROM states", item_ids)]
        return _columns(rows)

    def close(self) -> None:
        """Close the connections."""
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()


def mend_states(path: Path) -> None:
    """Set a damaged file of states aside, and write what can be read of it to a new one; do nothing for a sound or missing file.

    Raises:
        IndexUnavailable: the file cannot be used for another reason, such as a full disk.
    """
    if not path.exists() or _is_sound(path):
        return
    aside = path.with_name(f"{path.name}.damaged-{utc_now():{NAME_STAMP}}")
    for ending in ("", "-wal"):
        file = path.with_name(f"{path.name}{ending}")
        if file.exists():
            file.rename(aside.with_name(f"{aside.name}{ending}"))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    states: list[ItemState] = []
    with suppress(sqlite3.Error, TypeError, ValueError), closing(connect(aside)) as connection:
        for row in connection.execute(f"SELECT item_id, {COLUMNS} FROM states ORDER BY sequence"):
            states.append(_state(row))
    with closing(StateDatabase(path)) as mended:
        mended.restore(states)
    logger.warning("%s was damaged: %d states could be read; the file lies in %s", path, len(states), aside)


def _is_sound(path: Path) -> bool:
    try:
        with closing(connect(path)) as connection:
            connection.execute("SELECT openings FROM meta").fetchone()
            connection.execute("SELECT count(*) FROM states").fetchone()
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.Error as error:
        if message := shortage(path, error):
            raise IndexUnavailable(message) from error
        return False


def _states_of(connection: sqlite3.Connection, item_ids: Iterable[str]) -> dict[str, ItemState]:
    rows = rows_of_items(connection, f"SELECT item_id, {COLUMNS} FROM states", [*item_ids])
    return {row[0]: _state(row) for row in rows}


def _columns(rows: Sequence[Sequence[Any]]) -> StateColumns:
    """Return the columns of rows of item_id and FILTERED."""
    fields = len(STATE_COLUMNS)
    values = np.array([row[1 : 1 + fields] for row in rows], dtype=np.float64).reshape(-1, fields)  # (N, 4), None as NaN
    versions = np.array([row[1 + fields :] for row in rows], dtype=np.int64).reshape(-1, fields)  # (N, 4)
    return StateColumns([row[0] for row in rows], versions, values)


def _state(row: Sequence[Any]) -> ItemState:
    """Return the state of a row of item_id and COLUMNS."""
    fields = [(name, row[1 + 2 * n], row[2 + 2 * n]) for n, name in enumerate(STATE_FIELDS) if row[2 + 2 * n] is not None]
    values = {name: bool(value) if name == "reserve_met" and value is not None else value for name, value, _ in fields}
    return ItemState(row[0], values, {name: version for name, _, version in fields})


def _row(state: ItemState) -> tuple[Any, ...]:
    cells = ((state.values.get(name), state.versions.get(name)) for name in STATE_FIELDS)
    return (state.item_id, *(cell for pair in cells for cell in pair))


def _opens(before: ItemState, after: ItemState, now_ms: int) -> bool:
    """True if an item is open after an update, and was over before, or was not known to be open."""
    return _is_open(after.values, now_ms, unknown=True) and not _is_open(before.values, now_ms, unknown=False)


def _is_open(values: Mapping[str, Any], now_ms: int, *, unknown: bool) -> bool:
    """True if an item with these values is open; `unknown` is the answer if they name no end."""
    if values.get("status", OPEN) not in (OPEN, None):
        return False
    if "ends_at" not in values:
        return unknown
    return values["ends_at"] is None or values["ends_at"] > now_ms
