"""Store buyers' recent interactions in a SQLite file of this machine, for `gavel serve` and `gavel buyers`."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from retrieval.buyers.history_store import MAX_PER_BUYER, interaction_key, oldest_stored, select_storable
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import epoch_ms, moment_of
from retrieval.errors import FeedbackUnavailable
from retrieval.files import creating, shortage
from retrieval.index.filters import utc_now

BUSY_TIMEOUT_S = 5.0  # seconds to wait for other writers to commit; a search only reads and never waits
SCHEMA = """
CREATE TABLE acts (
    buyer_id TEXT NOT NULL, at_ms INTEGER NOT NULL, event_type TEXT NOT NULL, item_id TEXT NOT NULL,
    PRIMARY KEY (buyer_id, at_ms, event_type, item_id)
) WITHOUT ROWID;
CREATE INDEX acts_by_age ON acts (at_ms);
"""
BEYOND_THE_LATEST = """
DELETE FROM acts WHERE buyer_id = ?1 AND (at_ms, event_type, item_id) < (
    SELECT at_ms, event_type, item_id FROM acts WHERE buyer_id = ?1
    ORDER BY at_ms DESC, event_type DESC, item_id DESC LIMIT 1 OFFSET ?2
)
"""
LATEST = """
SELECT at_ms, event_type, item_id FROM acts WHERE buyer_id = ? AND at_ms >= ?
ORDER BY at_ms DESC, event_type DESC, item_id DESC LIMIT ?
"""


class BuyerEvents:
    """A store of the latest interactions of each buyer. Threads and processes may share the file: every call opens it anew.

    Deleted rows are overwritten (secure_delete), so that no free page of the file holds an erased buyer.
    """

    def __init__(self, path: Path, days: int, clock: Callable[[], datetime] = utc_now) -> None:
        """Keep the arguments; append() creates the file.

        Args:
            path: path of the file.
            days: days that an interaction is stored.
            clock: function that returns the time in UTC.
        """
        self._path, self._days, self._clock = path, days, clock

    def append(self, interactions: Sequence[Interaction]) -> int:
        """Store interactions, see BuyerStore.append(); and delete interactions of all buyers that are older than `days`."""
        now = self._clock()
        storable = select_storable(interactions, now, self._days)
        if not storable:
            return 0
        with self._open() as connection, connection:
            connection.executemany(
                "INSERT OR IGNORE INTO acts VALUES (?, ?, ?, ?)", [(one.buyer_id, *interaction_key(one)) for one in storable]
            )
            connection.executemany(BEYOND_THE_LATEST, [(buyer, MAX_PER_BUYER - 1) for buyer in {one.buyer_id for one in storable}])
            connection.execute("DELETE FROM acts WHERE at_ms < ?", (epoch_ms(oldest_stored(now, self._days)),))
        return len(storable)

    def recent(self, buyer_id: str, limit: int = MAX_PER_BUYER) -> list[Interaction]:
        """Return the latest interactions of a buyer, the oldest first."""
        if not self._path.exists():
            return []
        oldest = epoch_ms(oldest_stored(self._clock(), self._days))
        with self._open() as connection:
            rows = connection.execute(LATEST, (buyer_id, oldest, limit)).fetchall()
        return [Interaction(buyer_id, item_id, kind, moment_of(at_ms)) for at_ms, kind, item_id in reversed(rows)]

    def erase(self, buyer_id: str) -> int:
        """Delete a buyer's interactions and return their number."""
        if not self._path.exists():
            return 0
        with self._open() as connection:
            with connection:
                erased = connection.execute("DELETE FROM acts WHERE buyer_id = ?", (buyer_id,)).rowcount
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # otherwise the write-ahead log would still hold them
        return erased

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection to the file, which only its owner may read.

        Raises:
            FeedbackUnavailable: the file is damaged, locked or inaccessible, or cannot be created.
        """
        try:
            if not self._path.exists():
                self._create()
            with closing(sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise FeedbackUnavailable(shortage(self._path, error) or f"{self._path} {_complaint(error)}") from error

    def _create(self) -> None:
        """Create the file in one step, so that no process opens it without its table."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with creating(self._path) as partial, closing(sqlite3.connect(partial)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers need not wait for writers
            connection.executescript(SCHEMA)


def _complaint(error: sqlite3.Error | OSError) -> str:
    """Describe the fault of the file and its remedy."""
    if isinstance(error, OSError):
        return f"cannot be opened ({error.strerror}); mend its permissions"
    if any(word in str(error) for word in ("locked", "busy")):
        return f"does not answer ({error}); try again when the process that writes to it has ended"
    return f"is damaged ({error}); delete it with the -wal and -shm beside it, it holds recent acts alone"
