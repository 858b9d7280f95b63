"""Read the embedding parts of a release."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from retrieval.contracts.documents import BadLine, Deletion, IndexedItem, parse_bulk_lines
from retrieval.errors import ReleaseError

IndexOp = IndexedItem | Deletion


class PartReader:
    """The lines of an embedding part, read once as a stream.

    Args:
        source: a .ndjson.gz file, or anything that reads its bytes, such as the body of an S3 object.
        name: what errors call it; its path where there is one.

    Attributes:
        sha256: hexadecimal hash of the bytes, once the last line was read.
        bad_lines: lines that could not be read, as (item_id, reason).
    """

    def __init__(self, source: Path | BinaryIO, name: str = "the part") -> None:
        self.sha256 = ""
        self.bad_lines: list[tuple[str, str]] = []
        self.name = str(source) if isinstance(source, Path) else name
        self._source = source

    def __iter__(self) -> Iterator[IndexOp]:
        """The entries; damaged lines are set aside.

        Raises:
            ReleaseError: the bytes are not gzip, end too early or are none at all.
        """
        empty = True
        with self._source.open("rb") if isinstance(self._source, Path) else nullcontext(self._source) as file:
            hashed = _HashedFile(file)
            try:
                with gzip.open(hashed, "rb") as lines:  # type: ignore[call-overload]  # it reads, and gzip asks for no more
                    for entry in parse_bulk_lines(lines):
                        empty = False
                        if isinstance(entry, BadLine):
                            self.bad_lines.append((entry.item_id, entry.reason))
                        else:
                            yield entry
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ReleaseError(f"{self.name} is not a whole embedding part: {error}; run `gavel embed` again") from error
        if empty:  # gzip takes a file of no bytes for a whole one, and no run writes a part without entries
            raise ReleaseError(f"{self.name} holds no entry; run `gavel embed` again")
        self.sha256 = hashed.digest.hexdigest()


class _HashedFile:
    """A file that hashes the bytes that are read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def read_part(source: Path | BinaryIO) -> Iterator[IndexOp]:
    """Read an embedding part of which every line must be sound, as a stream.

    Args:
        source: as of PartReader.

    Raises:
        ReleaseError: the part is not whole, or holds a damaged line.
    """
    part = PartReader(source)
    for entry in chain(part, [None]):
        if part.bad_lines:
            raise ReleaseError(f"{part.name}: {part.bad_lines[0][1]}; run `gavel embed` again")
        if entry is not None:
            yield entry
