"""What an embedding run reads: its files in one order, its rows sorted into lots and rejects."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from catalog.folder import photo_folders
from processing.embedding.parts import Lot
from processing.embedding.photos import PhotoPlace
from retrieval.contracts.item_files import SUFFIXES, find_item_files, numbered_items
from retrieval.contracts.items import Item, Reject
from retrieval.contracts.release import REJECTS_FILE

CHUNK_BYTES = 1 << 20


@dataclass
class Rows:
    """The rows of one run, sorted into lots and rejects as they are read.

    Attributes:
        files: every catalogue file of the run, in the order in which they count.
        mine: those that this instance embeds.
        rejects: where rejects go, one JSON line each.
        photos: folders whose photos lots may name, besides those of their files and of their catalogue.
        read: rows of `mine` that were read so far.
        rejected: rows of `mine` that went to the rejects.
        superseded: earlier rows, of any instance, that a lot of `mine` replaces.
    """

    files: Sequence[Path]
    mine: frozenset[Path]
    rejects: IO[bytes]
    photos: Sequence[Path] = ()
    read: int = 0
    rejected: int = 0
    superseded: int = 0
    _seen: dict[str, tuple[int, str, int]] = field(default_factory=dict)  # item_id -> version, file, line

    def lots(self) -> Iterator[Lot]:
        """The lots of this instance; a reject is written down on the way."""
        for path in self.files:
            mine, opened = path in self.mine, (*self.photos, *photo_folders(path.parent))
            for line, row in numbered_items(path):
                checked = self._check_id(row, path, line, mine) if isinstance(row, Item) else row
                if not mine:
                    continue
                self.read += 1
                if isinstance(checked, Item):
                    yield Lot(checked, PhotoPlace(checked.image, path.parent, opened))
                else:
                    self.rejected += 1
                    self.rejects.write(f"{checked.to_json()}\n".encode())

    def _check_id(self, item: Item, path: Path, line: int, mine: bool) -> Item | Reject:
        before = self._seen.get(item.item_id)
        if before is not None and item.version <= before[0]:
            reason = f"duplicate item_id: {before[1]}:{before[2]} has this lot with the same or a newer updated_at"
            return Reject(path.name, line, reason, item.item_id)
        self.superseded += mine and before is not None
        self._seen[item.item_id] = (item.version, path.name, line)
        return item


def item_folders(where: Path) -> list[Path]:
    """A folder and those below it that hold catalogue files, as buckets do that have days in folders; itself if none does."""
    found = {
        path.parent for path in where.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file() and path.name != REJECTS_FILE
    }
    return sorted(found) or [where]


def input_files(inputs: Sequence[Path]) -> list[Path]:
    """Every file once, by name; the order decides which instance embeds a file and which of two equal rows stands."""
    files = {path for given in inputs for path in find_item_files(given)}
    return sorted(files, key=lambda path: (path.name, str(path)))


def scan_inputs(files: Sequence[Path]) -> tuple[str, dict[Path, int]]:
    """Look at every file before the work begins.

    Returns:
        Hash of the names and bytes of the files, and about how many rows each has.

    Raises:
        InvalidInput: a file cannot be read, or lacks a required column.
    """
    digest = hashlib.sha256()
    counts: dict[Path, int] = {}
    for path in files:
        next(numbered_items(path), None)
        content, lines = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                content.update(chunk)
                lines += chunk.count(b"\n")
        digest.update(os.fsencode(path.name) + f"\0{content.hexdigest()}\n".encode())  # a name need not be UTF-8
        counts[path] = _parquet_rows(path) if path.suffix.lower() == ".parquet" else lines
    return digest.hexdigest(), counts


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    with path.open("rb") as file:  # by its path pyarrow opens no file whose name is no UTF-8
        return int(pq.read_metadata(file).num_rows)
