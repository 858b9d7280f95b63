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
    """An embedding part, whose operations can be read once, as a stream.

    Args:
        source: path of the .ndjson.gz file, or a file object with its bytes, such as the body of an S3 object.
        name: name of the part for error messages; ignored if `source` is a path.

    Attributes:
        sha256: hexadecimal sha256 of the bytes, set after the last line; empty before.
        bad_lines: (item_id, reason) of each damaged line.
    """

    def __init__(self, source: Path | BinaryIO, name: str = "the part") -> None:
        self.sha256 = ""
        self.bad_lines: list[tuple[str, str]] = []
        self.name = str(source) if isinstance(source, Path) else name
        self._source = source

    def __iter__(self) -> Iterator[IndexOp]:
        """Yield the operations; collect damaged lines in `bad_lines`.

        Raises:
            ReleaseError: the bytes are not gzip, end too early, or hold no operation.
        """
        empty = True
        with self._source.open("rb") if isinstance(self._source, Path) else nullcontext(self._source) as file:
            hashing = _HashingFile(file)
            try:
                with gzip.open(hashing, "rb") as lines:  # type: ignore[call-overload]  # gzip needs only read()
                    for op in parse_bulk_lines(lines):
                        empty = False
                        if isinstance(op, BadLine):
                            self.bad_lines.append((op.item_id, op.reason))
                        else:
                            yield op
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ReleaseError(f"{self.name} is not a whole embedding part: {error}; run `gavel embed` again") from error
        if empty:  # gzip accepts an empty file, and no run writes a part without operations
            raise ReleaseError(f"{self.name} holds no entry; run `gavel embed` again")
        self.sha256 = hashing.digest.hexdigest()


class _HashingFile:
    """A file that hashes the bytes that are read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def read_part(source: Path | BinaryIO) -> Iterator[IndexOp]:
    """Yield the operations of an embedding part as a stream; a damaged line is an error.

    Args:
        source: path or file object of the part, see PartReader.

    Raises:
        ReleaseError: the part is not whole, or holds a damaged line.
    """
    part = PartReader(source)
    for op in chain(part, [None]):
        if part.bad_lines:
            raise ReleaseError(f"{part.name}: {part.bad_lines[0][1]}; run `gavel embed` again")
        if op is not None:
            yield op
