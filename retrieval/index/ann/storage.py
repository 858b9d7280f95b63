"""A file of vectors that an embedded index maps: what FAISS wrote and more, positions, and a footer that vouches for all."""

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
Positions = NDArray[np.int64]

FOOTER_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Footer:
    """The end of the file.

    Attributes:
        database_id: the database that the positions are of.
        slots: vectors.
        payload: bytes before the footer; the last of them are the positions.
        crc32: of the payload.
        told: what a kind of index says beside.
    """

    database_id: str
    slots: int
    payload: int
    crc32: int
    told: Mapping[str, Any] = field(default_factory=dict)


def seal(path: Path, positions: Positions, database_id: str, told: Mapping[str, Any] | None = None) -> Footer:
    """Append positions and a footer to a file.

    Args:
        path: as FAISS wrote it.
        positions: (N,) where each slot's lot stands in the database.
        database_id: the database that the positions are of.
        told: what load() must know beside.
    """
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(positions.astype("<i8").tobytes())
        file.flush()
        payload = file.tell()
        footer = Footer(database_id, len(positions), payload, crc32_of(path, payload), told or {})
        encoded = seal_json(asdict(footer)).encode()
        file.write(encoded + len(encoded).to_bytes(FOOTER_LENGTH_BYTES, "little"))
    return footer


def checked(path: Path, database_id: str) -> Footer:
    """The footer of a file, which is read whole for its checksum.

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


def positions_in(path: Path, footer: Footer) -> Positions:
    """(N,) where each slot's lot stands in the database; to be asked last.

    Raises:
        OSError: the file is gone.
        ValueError: it is not the file any more that the footer is of.
    """
    if _footer(path) != footer:
        raise ValueError("it was replaced while it was read")
    with path.open("rb") as file:
        file.seek(footer.payload - 8 * footer.slots)
        positions = np.frombuffer(file.read(8 * footer.slots), dtype="<i8").astype(np.int64)
    return positions


class MappedIndex:
    """FAISS's index in a file, mapped; the file stays open, for its name may go to a newer one.

    Args:
        path: FAISS's own format at its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.index: Any = _faiss.read_index(str(path), _faiss.IO_FLAG_MMAP_IFC)
        self._file: BinaryIO = path.open("rb")

    def copy(self) -> Any:
        """The same in memory: FAISS ends the process that changes a mapped index."""
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
