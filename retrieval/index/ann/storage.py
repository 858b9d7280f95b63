"""The vector file of an embedded index: FAISS's own format and more, row ids, and a footer with a checksum of all."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.files import BLOCK_BYTES, crc32_of, seal_json, unseal_json

_faiss: Any = faiss  # its type stubs leave out readers by callback
RowIds = NDArray[np.int64]

FOOTER_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Footer:
    """The end of the file; the attributes are the names that it is stored with.

    Attributes:
        database_id: the database of the row ids.
        slots: number of vectors.
        payload: bytes before the footer; the last of them are the row ids.
        crc32: of the payload.
        told: meta data of the index type.
    """

    database_id: str
    slots: int
    payload: int
    crc32: int
    told: Mapping[str, Any] = field(default_factory=dict)


def seal(path: Path, row_ids: RowIds, database_id: str, meta: Mapping[str, Any] | None = None) -> Footer:
    """Append row ids and a footer to a file.

    Args:
        path: as FAISS wrote it.
        row_ids: (N,) the database row of each vector id.
        database_id: the database of the row ids.
        meta: further values that loading needs.
    """
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(row_ids.astype("<i8").tobytes())
        file.flush()
        payload = file.tell()
        footer = Footer(database_id, len(row_ids), payload, crc32_of(path, payload), meta or {})
        text = seal_json(asdict(footer)).encode()
        file.write(text + len(text).to_bytes(FOOTER_LENGTH_BYTES, "little"))
    return footer


def read_footer(path: Path, database_id: str) -> Footer:
    """Return the footer of a file, which is read to its end to compare the checksum.

    Raises:
        OSError: no such file.
        ValueError: damaged, or of another database.
    """
    footer = _footer(path)
    if footer.database_id != database_id:
        raise ValueError("it is of another database")
    if crc32_of(path, footer.payload) != footer.crc32:
        raise ValueError("its checksum does not hold")
    return footer


def read_row_ids(path: Path, footer: Footer) -> RowIds:
    """Return (N,) the database row of each vector id; call it last, because it checks that the file is still the same.

    Raises:
        OSError: the file is gone.
        ValueError: the file was replaced since its footer was read.
    """
    if _footer(path) != footer:
        raise ValueError("it was replaced while it was read")
    with path.open("rb") as file:
        file.seek(footer.payload - 8 * footer.slots)
        row_ids = np.frombuffer(file.read(8 * footer.slots), dtype="<i8").astype(np.int64)
    return row_ids


class MappedIndex:
    """A FAISS index mapped from a file; the file stays open, because a newer one may take its name.

    Args:
        path: begins with FAISS's own format.
    """

    def __init__(self, path: Path) -> None:
        self.index: Any = _faiss.read_index(str(path), _faiss.IO_FLAG_MMAP_IFC)
        self._file: BinaryIO = path.open("rb")

    def copy(self) -> Any:
        """Return the same index in memory, because FAISS aborts the process if a mapped index is modified."""
        self._file.seek(0)
        return _faiss.read_index(_faiss.PyCallbackIOReader(self._file.read, BLOCK_BYTES))


def _footer(path: Path) -> Footer:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < FOOTER_LENGTH_BYTES:
            raise ValueError("it is too short")
        file.seek(size - FOOTER_LENGTH_BYTES)
        length = int.from_bytes(file.read(FOOTER_LENGTH_BYTES), "little")
        if length > size - FOOTER_LENGTH_BYTES:
            raise ValueError("it has no footer")
        file.seek(size - FOOTER_LENGTH_BYTES - length)
        footer = unseal_json(file.read(length))
    try:
        return Footer(**footer)
    except TypeError:
        raise ValueError("it has no footer") from None
