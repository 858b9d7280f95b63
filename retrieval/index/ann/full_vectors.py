"""Full vectors on the disk, with which the candidates of an index of compressed vectors are scored."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.errors import IndexUnavailable
from retrieval.files import reason_of

VectorIds = NDArray[np.int64]
BLOCK_ROWS = 65_536  # vectors that are copied into memory at a time


class FullVectors:
    """An array of (N, D) float32 vectors in two mapped files: first the saved vectors, then those that were added later.

    The second file has no name, so nothing remains of it once no process uses it, even after a crash. Copies share the second file,
    and each copy writes behind its own last vector. So only one of several copies may be added to and saved.

    Args:
        dimensions: length of the vectors.
        folder: folder on the disk of the second file; None takes the system's temporary folder.
        saved: saved (M, D) vectors, mapped from a file; None for none.
    """

    def __init__(self, dimensions: int, folder: Path | None, saved: Vector | None = None) -> None:
        self._dimensions, self._folder = dimensions, folder or Path(tempfile.gettempdir())
        self._saved: Vector = np.empty((0, dimensions), dtype=np.float32) if saved is None else saved
        self._added = 0
        self._file: BinaryIO | None = None
        self._mapped: Vector | None = None  # the second file, mapped when it is read

    def __len__(self) -> int:
        return len(self._saved) + self._added

    @property
    def shape(self) -> tuple[int, int]:
        """Return (N, D): number and length of the vectors."""
        return len(self), self._dimensions

    def copy(self) -> Self:
        """Return a copy, which shares the files; see the class for which copy may be added to."""
        copied = type(self)(self._dimensions, self._folder, self._saved)
        copied._added, copied._file = self._added, self._file
        return copied

    def add(self, vectors: Vector) -> None:
        """Append (n, D) vectors.

        Raises:
            IndexUnavailable: the vectors cannot be written to the disk.
        """
        try:
            file = self._file = self._file or tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 -- open as long as it is read
            start, rest = 4 * self._dimensions * self._added, memoryview(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            while rest:  # pwrite() at an offset, because copies share the file and its position
                written = os.pwrite(file.fileno(), rest, start)
                start, rest = start + written, rest[written:]
        except OSError as error:
            message = (
                f"{self._folder} does not take the vectors of the index ({reason_of(error)}); free space, or choose another folder"
            )
            raise IndexUnavailable(message) from error
        self._added += len(vectors)
        self._mapped = None

    def __getitem__(self, vector_ids: VectorIds) -> Vector:
        """Return a copy of the vectors with these n ids, (n, D) float32."""
        first = len(self._saved)
        if not self._added:
            return self._saved[vector_ids]
        if not first:
            return self._tail[vector_ids]
        in_saved, vectors = vector_ids < first, np.empty((len(vector_ids), self._dimensions), dtype=np.float32)
        vectors[in_saved] = self._saved[vector_ids[in_saved]]
        vectors[~in_saved] = self._tail[vector_ids[~in_saved] - first]
        return vectors

    def rows(self, start: int, stop: int) -> Vector:
        """Return a copy of the vectors from id `start` to before `stop`, or to the last one, as (n, D) float32."""
        return self[np.arange(start, min(stop, len(self)))]

    def scores(self, query: Vector, vector_ids: VectorIds) -> NDArray[np.float32]:
        """Return (n,) float32 dot products of a (D,) query with the vectors of these n ids."""
        blocks = [self[vector_ids[i : i + BLOCK_ROWS]] @ query for i in range(0, len(vector_ids), BLOCK_ROWS)]
        return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)

    @property
    def _tail(self) -> Vector:
        if self._mapped is None:
            assert self._file is not None
            mapped = mmap.mmap(self._file.fileno(), 4 * self._dimensions * self._added, prot=mmap.PROT_READ)
            self._mapped = np.frombuffer(mapped, dtype="<f4").reshape(self._added, self._dimensions)
        return self._mapped


def map_vectors(path: Path, shape: tuple[int, int], start: int = 0) -> Vector:
    """Return the vectors of this shape in a file from byte `start` on, as a read-only map of float32 numbers."""
    plain: Vector = np.asarray(np.memmap(path, dtype="<f4", mode="r", offset=start, shape=shape))  # indexed faster than a memmap
    return plain
