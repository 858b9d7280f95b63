"""Events of buyers, appended to one file per day, and the file of keys that sign served lists."""

import fcntl
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from retrieval.errors import FeedbackUnavailable
from retrieval.feedback.served_lists import MIN_KEY_BYTES, ServedLists, parse_keys
from retrieval.files import creating
from retrieval.index.filters import utc_now

logger = logging.getLogger(__name__)

SUFFIX = ".ndjson"


class EventLog:
    """A sink that appends rows of feedback to `<folder>/<UTC day>.ndjson`. Threads and processes may share the folder."""

    def __init__(self, folder: Path, clock: Callable[[], datetime] = utc_now) -> None:
        """Write nothing yet; append() creates the folder.

        Args:
            folder: folder of the files, one per UTC day.
            clock: function that returns the time in UTC.
        """
        self._folder = folder
        self._clock = clock

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows, all of them or none; they are on the disk when this returns.

        A partial write is truncated. A line that a crash left unfinished is ended first, so that no row is appended to half a row.

        Raises:
            FeedbackUnavailable: the rows could not be written. It is safe to send them again, because each has its event_id.
        """
        data = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        path = self._folder / f"{self._clock():%Y-%m-%d}{SUFFIX}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
                with _locked(file):
                    _append_whole(file, data)
                os.fsync(file.fileno())  # outside the lock, so that the disk takes several requests in one go
        except OSError as error:
            raise FeedbackUnavailable(f"{path} cannot be written ({error.strerror}); free space or mend its permissions") from error

    def erase(self, buyer_id: str) -> int:
        """Overwrite the lines of a buyer with spaces, and return their number.

        No line moves, so processes that append meanwhile lose nothing. Readers skip blank lines.

        Raises:
            FeedbackUnavailable: a file cannot be read or written.
        """
        return sum(_blank(path, buyer_id) for path in sorted(self._folder.glob(f"*{SUFFIX}")))


def _append_whole(file: BinaryIO, data: bytes) -> None:
    """Append all bytes or none to a locked file.

    Raises:
        OSError: the disk did not take all bytes.
    """
    end = file.seek(0, os.SEEK_END)
    if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
        data = b"\n" + data
    try:
        while data:  # a nearly full disk takes a part first, and raises at the next write
            data = data[file.write(data) :]
    except OSError:
        file.truncate(end)
        raise


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """Lock a file against other threads and processes that append or erase while the block runs."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _blank(path: Path, buyer_id: str) -> int:
    blanked = 0
    try:
        with path.open("r+b") as file, _locked(file):
            start = 0
            for line in file.read().splitlines(keepends=True):
                if _buyer_of(line) == buyer_id:
                    file.seek(start)
                    file.write(b" " * len(line.rstrip(b"\n")))
                    blanked += 1
                start += len(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FeedbackUnavailable(f"{path} cannot be written ({error.strerror}); mend its permissions and erase again") from error
    return blanked


def _buyer_of(line: bytes) -> object:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row.get("buyer_id") if isinstance(row, dict) else None


def served_lists(path: Path) -> ServedLists:
    """Read the keys of a workspace; create the file with a new key on first use. Concurrent processes get the same key.

    Args:
        path: file of keys, one per line, the newest first; only its owner may read it.

    Returns:
        The signer with these keys. If the file cannot be read or created, it has no key, and a warning is logged.

    Raises:
        InvalidSettings: the file holds no key.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with creating(path) as partial:
                partial.write_text(f"{secrets.token_hex(MIN_KEY_BYTES)}\n")
        return ServedLists(parse_keys(path.read_bytes(), str(path)))
    except OSError as error:
        logger.warning("lists are not signed, so nothing is learnt from events: %s cannot be read or made (%s)", path, error)
        return ServedLists()
