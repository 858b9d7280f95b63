"""What buyers did lately, in a SQLite file of this machine: the store behind `gavel serve` and `gavel buyers`."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from retrieval.buyers.history_store import MOST_ACTS, interaction_key, moment_of, oldest_kept, worth_keeping
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import epoch_ms
from retrieval.errors import FeedbackUnavailable
from retrieval.files import creating, shortage
from retrieval.index.port import utc_now

BUSY_TIMEOUT_S = 5.0  # how long a writer waits for others to commit; a search, which reads, never does
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
    """The latest acts of each buyer. Threads and processes may share the file: every call opens it anew.

    What is deleted is overwritten (secure_delete): an erased buyer stands in no free page of the file.
    """

    def __init__(self, path: Path, days: int, clock: Callable[[], datetime] = utc_now) -> None:
        """Make nothing yet.

        Args:
            path: of the file, made with the first act.
            days: how long an act is kept.
            clock: tells the time in UTC.
        """
        self._path, self._days, self._clock = path, days, clock

    def append(self, acts: Sequence[Interaction]) -> int:
        """Keep acts, as BuyerStore.append() says; acts of any buyer that have grown too old go."""
        now = self._clock()
        kept = worth_keeping(acts, now, self._days)
        if not kept:
            return 0
        with self._open() as connection, connection:
            connection.executemany(
                "INSERT OR IGNORE INTO acts VALUES (?, ?, ?, ?)", [(a.buyer_id, *interaction_key(a)) for a in kept]
            )
            connection.executemany(BEYOND_THE_LATEST, [(buyer, MOST_ACTS - 1) for buyer in {act.buyer_id for act in kept}])
            connection.execute("DELETE FROM acts WHERE at_ms < ?", (epoch_ms(oldest_kept(now, self._days)),))
        return len(kept)

    def recent(self, buyer_id: str, limit: int = MOST_ACTS) -> list[Interaction]:
        """The latest acts of a buyer, the oldest first."""
        if not self._path.exists():
            return []
        oldest = epoch_ms(oldest_kept(self._clock(), self._days))
        with self._open() as connection:
            rows = connection.execute(LATEST, (buyer_id, oldest, limit)).fetchall()
        return [Interaction(buyer_id, item_id, kind, moment_of(at_ms)) for at_ms, kind, item_id in reversed(rows)]

    def erase(self, buyer_id: str) -> int:
        """Forget a buyer; how many acts went."""
        if not self._path.exists():
            return 0
        with self._open() as connection:
            with connection:
                erased = connection.execute("DELETE FROM acts WHERE buyer_id = ?", (buyer_id,)).rowcount
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # or the write-ahead log would still tell
        return erased

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection to the file, made readable by its owner alone.

        Raises:
            FeedbackUnavailable: the file is damaged, locked or out of reach, or cannot be made.
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
        """Make the file whole under another name and give it its own in one step: whoever opens it finds it ready."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with creating(self._path) as partial, closing(sqlite3.connect(partial)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # whoever reads need not wait for who writes
            connection.executescript(SCHEMA)


def _complaint(error: sqlite3.Error | OSError) -> str:
    """What is wrong with the file, and the way out."""
    if isinstance(error, OSError):
        return f"cannot be opened ({error.strerror}); mend its permissions"
    if any(word in str(error) for word in ("locked", "busy")):
        return f"does not answer ({error}); try again when the process that writes to it has ended"
    return f"is damaged ({error}); delete it with the -wal and -shm beside it, it holds recent acts alone"
