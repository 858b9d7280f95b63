"""The vector file of an embedded index: FAISS's own format, further data, row ids, and a footer with a checksum of all these."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.files import BLOCK_BYTES, crc32_of, seal_json, unseal_json

_faiss: Any = faiss  # untyped, because FAISS's stubs lack readers by callback
RowIds = NDArray[np.int64]

FOOTER_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer of a vector file. Its JSON has the names of the attributes as keys.

    Attributes:
        database_id: id of the database of the row ids.
        slots: number of vectors.
        payload: number of bytes before the footer, which end with the row ids.
        crc32: CRC-32 of these bytes.
        told: metadata of the index type.
    """

    database_id: str
    slots: int
    payload: int
    crc32: int
    told: Mapping[str, Any] = field(default_factory=dict)


def seal(path: Path, row_ids: RowIds, database_id: str, meta: Mapping[str, Any] | None = None) -> Footer:
    """Append row ids and a footer to a file, and return the footer.

    Args:
        path: path of the file, which is complete otherwise.
        row_ids: (N,) row id in the database of each vector.
        database_id: id of the database.
        meta: further metadata that loading needs, stored as `told`.
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
    """Return the footer of a file, after reading the whole file to compare its checksum.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged, or of another database.
    """
    footer = _footer(path)
    if footer.database_id != database_id:
        raise ValueError("it is of another database")
    if crc32_of(path, footer.payload) != footer.crc32:
        raise ValueError("its checksum does not hold")
    return footer


def read_row_ids(path: Path, footer: Footer) -> RowIds:
    """Return (N,) the row id in the database of each vector.

    Call it after all other reads, because it checks that the file is still the one of the footer.

    Raises:
        OSError: the file does not exist any more.
        ValueError: the file was replaced since its footer was read.
    """
    if _footer(path) != footer:
        raise ValueError("it was replaced while it was read")
    with path.open("rb") as file:
        file.seek(footer.payload - 8 * footer.slots)
        row_ids = np.frombuffer(file.read(8 * footer.slots), dtype="<i8").astype(np.int64)
    return row_ids


class MappedIndex:
    """A FAISS index mapped from a file. The file stays open for copy(), because a newer one may take its name.

    Args:
        path: path of a file that begins with FAISS's own format.
    """

    def __init__(self, path: Path) -> None:
        self.index: Any = _faiss.read_index(str(path), _faiss.IO_FLAG_MMAP_IFC)
        self._file: BinaryIO = path.open("rb")

    def copy(self) -> Any:
        """Return a copy of the index in memory, which may be modified. FAISS aborts the process if a mapped index is modified."""
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
