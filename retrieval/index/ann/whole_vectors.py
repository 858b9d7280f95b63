"""Full vectors by slot that stay on the disk: what an index of codes scores its candidates from."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.errors import IndexUnavailable

Slots = NDArray[np.int64]
BLOCK_ROWS = 65_536  # vectors gathered at a time


class WholeVectors:
    """(N, D) float32 in two mapped files: those that were saved, and after them those that came since.

    The second file has no name, so that nothing is left of it when its last reader goes, however that is. Copies share it: each
    adds after its own last vector, and sees no further. So of several copies of one, only one may be added to and kept.

    Args:
        dimensions: length of the vectors.
        folder: on whose disk the second file lies.
        saved: (N, D), mapped; None for none.
    """

    def __init__(self, dimensions: int, folder: Path, saved: Vector | None = None) -> None:
        self._dimensions, self._folder = dimensions, folder
        self._saved: Vector = np.empty((0, dimensions), dtype=np.float32) if saved is None else saved
        self._added = 0
        self._file: BinaryIO | None = None
        self._mapped: Vector | None = None  # of the second file, made when it is read

    def __len__(self) -> int:
        return len(self._saved) + self._added

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self), self._dimensions

    def copy(self) -> Self:
        """The same vectors, to be added to."""
        made = type(self)(self._dimensions, self._folder, self._saved)
        made._added, made._file = self._added, self._file
        return made

    def add(self, vectors: Vector) -> None:
        """Add (n, D) vectors at the next slots.

        Raises:
            IndexUnavailable: the disk does not take them.
        """
        try:
            file = self._file = self._file or tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 -- open as long as it is read
            start, left = 4 * self._dimensions * self._added, memoryview(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            while left:  # to a place of its own, for copies share the file and its position
                written = os.pwrite(file.fileno(), left, start)
                start, left = start + written, left[written:]
        except OSError as error:
            message = f"{self._folder} does not take the vectors of the index ({error}); free space, or choose another folder"
            raise IndexUnavailable(message) from error
        self._added += len(vectors)
        self._mapped = None

    def __getitem__(self, slots: Slots) -> Vector:
        """(n, D) float32, a copy of the vectors at some slots."""
        first = len(self._saved)
        if not self._added:
            return self._saved[slots]
        if not first:
            return self._tail[slots]
        before, taken = slots < first, np.empty((len(slots), self._dimensions), dtype=np.float32)
        taken[before] = self._saved[slots[before]]
        taken[~before] = self._tail[slots[~before] - first]
        return taken

    def rows(self, start: int, stop: int) -> Vector:
        """(stop - start, D) float32, a copy of the vectors from one slot to before another."""
        return self[np.arange(start, min(stop, len(self)))]

    def scores(self, query: Vector, slots: Slots) -> NDArray[np.float32]:
        """(n,) dot products of a query with the vectors at some slots."""
        blocks = [self[slots[i : i + BLOCK_ROWS]] @ query for i in range(0, len(slots), BLOCK_ROWS)]
        return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)

    @property
    def _tail(self) -> Vector:
        if self._mapped is None:
            assert self._file is not None
            mapped = mmap.mmap(self._file.fileno(), 4 * self._dimensions * self._added, prot=mmap.PROT_READ)
            self._mapped = np.frombuffer(mapped, dtype="<f4").reshape(self._added, self._dimensions)
        return self._mapped
