"""What buyers did, appended to a file a day."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from retrieval.errors import FeedbackUnavailable
from retrieval.index.base import utc_now

SUFFIX = ".ndjson"


class EventLog:
    """Appends rows of feedback to `<folder>/<UTC day>.ndjson`. Threads and processes may share the folder."""

    def __init__(self, folder: Path, clock: Callable[[], datetime] = utc_now) -> None:
        """Make nothing yet.

        Args:
            folder: made with the first rows.
            clock: tells the day, in UTC.
        """
        self._folder = folder
        self._clock = clock

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows in one write, so that no other writer's lines come between and a crash leaves whole batches.

        Raises:
            FeedbackUnavailable: the disk did not take them all.
        """
        data = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        path = self._folder / f"{self._clock():%Y-%m-%d}{SUFFIX}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                written = os.write(file, data)
            finally:
                os.close(file)
        except OSError as error:
            raise FeedbackUnavailable(f"{path} cannot be written ({error.strerror}); free space or mend its permissions") from error
        if written != len(data):
            raise FeedbackUnavailable(f"{path} took {written} of {len(data)} bytes; free space on its disk")

    def erase(self, buyer_id: str) -> int:
        """Blank the lines of a buyer where they stand; how many there were.

        No line moves, so that whoever appends meanwhile loses nothing; a blank line is no event to any reader.

        Raises:
            FeedbackUnavailable: a file cannot be read or written.
        """
        return sum(_blank(path, buyer_id) for path in sorted(self._folder.glob(f"*{SUFFIX}")))


def _blank(path: Path, buyer_id: str) -> int:
    blanked = 0
    try:
        with path.open("r+b") as file:
            start = 0
            for line in file.read().splitlines(keepends=True):
                if _buyer_of(line) == buyer_id:
                    file.seek(start)
                    file.write(b" " * len(line.rstrip(b"\n")))
                    blanked += 1
                start += len(line)
    except OSError as error:
        raise FeedbackUnavailable(f"{path} cannot be written ({error.strerror}); mend its permissions and erase again") from error
    return blanked


def _buyer_of(line: bytes) -> object:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row.get("buyer_id") if isinstance(row, dict) else None
