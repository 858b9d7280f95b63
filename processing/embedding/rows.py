"""Input of an embedding run: files in a fixed order, and their rows as items or rejects."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO

from catalog.folder import photo_folders
from processing.embedding.downloads import Downloads
from processing.embedding.parts import LocatedItem
from processing.embedding.photos import PhotoPlace
from retrieval.contracts.item_files import DEFAULT_OPTIONS, ReadingLog, ReadOptions, hive_values, numbered_items, plan_reading
from retrieval.contracts.item_folders import list_item_files
from retrieval.contracts.items import Item, Reject

CHUNK_BYTES = 1 << 20


@dataclass
class Rows:
    """The rows of one run, split into items and rejects as they are read.

    Attributes:
        files: every catalogue file of the run, in reading order.
        own: the files that this instance embeds.
        rejects: file that gets one JSON line per reject.
        photos: folders whose photos items may name, besides those of their files and of their catalogue.
        options: what the user says about the files.
        log: gets notices and counts about the files of `own`.
        downloads: where photos of addresses are fetched to; None fetches none.
        read: number of rows of `own` read so far.
        rejected: number of rows of `own` rejected so far.
        superseded: number of earlier rows, of any instance, that an item of `own` replaces.
    """

    files: Sequence[Path]
    own: frozenset[Path]
    rejects: IO[bytes]
    photos: Sequence[Path] = ()
    options: ReadOptions = DEFAULT_OPTIONS
    log: ReadingLog = field(default_factory=ReadingLog)
    downloads: Downloads | None = None
    read: int = 0
    rejected: int = 0
    superseded: int = 0
    _latest: dict[str, tuple[int, str, int]] = field(default_factory=dict)  # item_id -> version, file, line

    def items(self) -> Iterator[LocatedItem]:
        """Yield the items of this instance, and write its rejects to `rejects`."""
        for path in self.files:
            own, opened = path in self.own, (*self.photos, *photo_folders(path.parent))
            for line, row in numbered_items(path, self.options, self.log if own else None):
                checked = self._check_id(row, path, line, own) if isinstance(row, Item) else row
                if not own:
                    continue
                self.read += 1
                if isinstance(checked, Item):
                    place = PhotoPlace(checked.image, path.parent, opened, checked.more_images, self.downloads)
                    yield LocatedItem(checked, place, path.name, line)
                else:
                    self.rejected += 1
                    self.rejects.write(f"{checked.to_json()}\n".encode())

    def _check_id(self, item: Item, path: Path, line: int, own: bool) -> Item | Reject:
        before = self._latest.get(item.item_id)
        if before is not None and item.version <= before[0]:
            reason = f"duplicate item_id: {before[1]}:{before[2]} has this lot with the same or a newer updated_at"
            return Reject(path.name, line, reason, item.item_id)
        self.superseded += own and before is not None
        self._latest[item.item_id] = (item.version, path.name, line)
        return item


def input_files(inputs: Sequence[Path], log: ReadingLog | None = None) -> list[Path]:
    """Return every file once, by name. The order decides which instance embeds a file and which of two equal rows counts.

    Args:
        inputs: files and folders.
        log: gets what was passed over in the folders.
    """
    listings = [list_item_files(place) for place in inputs]
    passed_over = [other for listing in listings for other in listing.passed_over]
    if log is not None and passed_over:
        log.passed_over = passed_over
    return sorted({path for listing in listings for path in listing.files}, key=lambda path: (path.name, str(path)))


def scan_inputs(files: Sequence[Path], options: ReadOptions = DEFAULT_OPTIONS) -> tuple[str, dict[Path, int]]:
    """Hash every file and estimate its rows.

    Each process reads a file only once: later calls reuse its hash until its size or modification time changes.

    Returns:
        Hash of the names and bytes of the files and of the options that are set, and file -> approximate number of rows.

    Raises:
        InvalidInput: a file cannot be read, lacks a required column, or has a column that can be read in two ways.
    """
    digest = hashlib.sha256()
    counts: dict[Path, int] = {}
    for path in files:
        status = path.stat()
        plan_reading(path, options)
        sha256, counts[path] = _scan_file(path, status.st_size, status.st_mtime_ns)
        digest.update(os.fsencode(path.name) + f"\0{sha256}\n".encode())  # a name need not be UTF-8
        if folders := hive_values(path):
            digest.update(f"{folders}\n".encode(errors="surrogateescape"))
    if options != DEFAULT_OPTIONS:
        digest.update(f"{options}\n".encode(errors="surrogateescape"))
    return digest.hexdigest(), counts


@lru_cache(maxsize=4_096)
def _scan_file(path: Path, size: int, mtime_ns: int) -> tuple[str, int]:
    """Return the SHA-256 and the approximate number of rows of a file; the cache recognises a change by size and time."""
    content, lines = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            content.update(chunk)
            lines += chunk.count(b"\n")
    return content.hexdigest(), _parquet_rows(path) if path.suffix.lower() == ".parquet" else lines


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    with path.open("rb") as file:  # opened here, because pyarrow cannot open a path that is not UTF-8
        return int(pq.read_metadata(file).num_rows)
