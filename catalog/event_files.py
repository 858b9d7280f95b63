"""Read the events that POST /events stores: NDJSON by day on one machine, gzip objects of Firehose below dates in S3.

Firehose joins the records of some minutes into one object, adds no line ends and may deliver a record twice. Older logs may lack
line ends, too. So JSON values are read one after another, whatever separates them, and a repeated event counts once.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from catalog.click_log import impressions, parse_click
from catalog.folder import Click
from retrieval.contracts.items import Reject
from retrieval.errors import InvalidInput
from retrieval.feedback.rows import event_id, parse_query
from retrieval.files import reason_of
from retrieval.progress import Progress

GZIP_MARK = b"\x1f\x8b"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class EventFiles:
    """The events of files: rows = events + duplicates + unproven + rejects.

    Attributes:
        clicks: impressions, list by list, best position first; several events of one impression are merged.
        rows: number of JSON values and broken lines.
        events: number of distinct events.
        duplicates: number of rows that repeat an event.
        rejects: rows that break the contract, with file, line and reason.
        files: number of files.
        unproven: number of rows without proof that a search returned the item; they are not used.
    """

    clicks: list[Click]
    rows: int
    events: int
    duplicates: int
    rejects: list[Reject]
    files: int
    unproven: int = 0


def read_events(places: Sequence[Path], progress: Progress | None = None, *, trust_unsigned: bool = False) -> EventFiles:
    """Read event files, plain or gzip, whatever their names.

    An event on an item of one served list counts once, however often and by whomever it is sent. All rows of a list get buyer,
    client and time of the list's first row. So nobody can turn one served list into many.

    Args:
        places: files, or folders with their sub-folders; hidden files are ignored.
        progress: called with (files read, files).
        trust_unsigned: True also accepts rows without proof that their list was served, for files of a trusted system.

    Raises:
        InvalidInput: a place does not exist, or there is no file.
    """
    files = event_files(places)
    clicks: list[Click] = []
    rejects: list[Reject] = []
    events: set[str] = set()
    origins: dict[str, tuple[str, str, datetime]] = {}  # query_id of a served list -> buyer, client and time of its first row
    rows = duplicates = unproven = 0
    for number, path in enumerate(files, 1):
        for line, row in numbered_events(path):
            rows += 1
            try:
                click = parse_click(row)
                click = replace(click, query=parse_query(click.query))
            except InvalidInput as error:
                rejects.append(Reject(str(path), line, str(error)))
                continue
            assert isinstance(row, dict)
            query_id, client = str(row.get("query_id") or ""), str(row.get("client") or "")
            served = row.get("served") is True and query_id != ""
            if not served and not trust_unsigned:
                unproven += 1
                continue
            key = f"{query_id} {click.event_type} {click.item_id}" if served else event_id(row)
            if key in events:
                duplicates += 1
                continue
            events.add(key)
            buyer_id, timestamp = click.buyer_id, click.timestamp
            if served:
                buyer_id, client, timestamp = origins.setdefault(query_id, (buyer_id, client, timestamp))
            clicks.append(replace(click, buyer_id=buyer_id, client=client, timestamp=timestamp))
        if progress:
            progress(number, len(files))
    return EventFiles(impressions(clicks), rows, len(events), duplicates, rejects, len(files), unproven)


def event_files(places: Iterable[Path]) -> list[Path]:
    """Return the files of some places, each once, sorted by path.

    Raises:
        InvalidInput: a place does not exist, or there is no file.
    """
    files: set[Path] = set()
    for place in places:
        if not place.exists():
            raise InvalidInput(f"{place} does not exist; name the folder of events, such as .gavel/events, or files of it")
        below = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        files |= {path for path in below if not any(part.startswith(".") for part in path.relative_to(place).parts)}
    if not files:
        raise InvalidInput(
            f"there is no event file in {', '.join(map(str, places))}; `gavel serve` writes them to <home>/events, and "
            "`gavel aws events` fetches those of a stage"
        )
    return sorted(files)


def numbered_events(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, event) for the lines of a file, from 1; for a line that cannot be read, (line, reason)."""
    line = 0
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(_lines(file), 1):
                yield from ((line, value) for value in _values(raw))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield line + 1, f"the rest of the file is no gzip: {error}; fetch it again"
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {reason_of(error)}") from error


def _lines(file: BinaryIO) -> Iterable[bytes]:
    packed = file.read(len(GZIP_MARK)) == GZIP_MARK
    file.seek(0)
    return gzip.open(file) if packed else file


def _values(raw: bytes) -> Iterator[dict[str, Any] | str]:
    """Yield the JSON objects of a line; an unreadable object ends the line, because the start of the next object is unknown."""
    try:
        text = raw.decode().strip()
        while text:
            value, end = _DECODER.raw_decode(text)
            yield value if isinstance(value, dict) else f"a JSON {type(value).__name__} stands here, not an object"
            text = text[end:].lstrip()
    except (ValueError, RecursionError) as error:
        yield f"the line is not JSON: {error}"
