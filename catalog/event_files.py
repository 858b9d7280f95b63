"""The events that POST /events keeps, as they lie in files: NDJSON a day here, gzip objects of Firehose below dates in S3.

Firehose joins what came within some minutes into one object, sets no line ends of its own and may deliver a record twice; an
older log may lack them, too. So values are read one after another, whatever stands between them, and an event counts once.
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
from retrieval.progress import Progress

GZIP_MARK = b"\x1f\x8b"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class EventFiles:
    """The rows of event files: rows = events + duplicates + unproven + rejects.

    Attributes:
        clicks: impressions, list by list, best position first; several events of one are one.
        rows: values and broken lines that were found.
        events: different ones.
        duplicates: rows that told an event once more.
        rejects: rows that broke the contract, with file, line and reason.
        files: how many there were.
        unproven: rows of lots that no search is known to have answered with; they teach nothing.
    """

    clicks: list[Click]
    rows: int
    events: int
    duplicates: int
    rejects: list[Reject]
    files: int
    unproven: int = 0


def read_events(places: Sequence[Path], progress: Progress | None = None, *, trust_unsigned: bool = False) -> EventFiles:
    """Read event files, plain or gzip, whatever they are called.

    Of one served list, an event on a lot counts once, however often and by whomever it is told, and all its rows have the buyer,
    client and time of the first: who was served one list cannot make many of it.

    Args:
        places: files, or folders that are searched to the bottom; hidden files are passed over.
        progress: called with (files read, files).
        trust_unsigned: take rows whose list was not proved to be served, too: they come from a system of one's own.

    Raises:
        InvalidInput: a place does not exist, or there is no file.
    """
    files = event_files(places)
    clicks: list[Click] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    tellers: dict[str, tuple[str, str, datetime]] = {}  # query_id of a served list -> buyer, client and time of its first row
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
            known, key = len(seen), f"{query_id} {click.event_type} {click.item_id}" if served else event_id(row)
            seen.add(key)
            if len(seen) == known:
                duplicates += 1
                continue
            buyer_id, timestamp = click.buyer_id, click.timestamp
            if served:
                buyer_id, client, timestamp = tellers.setdefault(query_id, (buyer_id, client, timestamp))
            clicks.append(replace(click, buyer_id=buyer_id, client=client, timestamp=timestamp))
        if progress:
            progress(number, len(files))
    return EventFiles(impressions(clicks), rows, len(seen), duplicates, rejects, len(files), unproven)


def event_files(places: Iterable[Path]) -> list[Path]:
    """The files of some places, each once, by name.

    Raises:
        InvalidInput: a place does not exist, or there is no file.
    """
    found: set[Path] = set()
    for place in places:
        if not place.exists():
            raise InvalidInput(f"{place} does not exist; name the folder of events, such as .gavel/events, or files of it")
        below = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        found |= {path for path in below if not any(part.startswith(".") for part in path.relative_to(place).parts)}
    if not found:
        raise InvalidInput(
            f"there is no event file in {', '.join(map(str, places))}; `gavel serve` writes them to <home>/events, and "
            "`gavel aws events` fetches those of a stage"
        )
    return sorted(found)


def numbered_events(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The values of a file with their lines, counted from 1; or the reason why there is none."""
    line = 0
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(_lines(file), 1):
                yield from ((line, value) for value in _values(raw))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield line + 1, f"the rest of the file is no gzip: {error}; fetch it again"
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error


def _lines(file: BinaryIO) -> Iterable[bytes]:
    packed = file.read(len(GZIP_MARK)) == GZIP_MARK
    file.seek(0)
    return gzip.open(file) if packed else file


def _values(raw: bytes) -> Iterator[dict[str, Any] | str]:
    """The JSON objects of a line; what cannot be read ends it, for nobody knows where the next one begins."""
    try:
        text = raw.decode().strip()
        while text:
            value, end = _DECODER.raw_decode(text)
            yield value if isinstance(value, dict) else f"a JSON {type(value).__name__} stands here, not an object"
            text = text[end:].lstrip()
    except (ValueError, RecursionError) as error:
        yield f"the line is not JSON: {error}"
