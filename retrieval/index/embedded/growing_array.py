"""A NumPy array that grows at its end."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROWTH = 1.2  # factor by which a full array grows, so that an append seldom copies it


class GrowingArray:
    """An array that only grows, so that earlier `values` do not change.

    Args:
        kind: type of the numbers.

    Attributes:
        values: (N,) numbers so far.
    """

    def __init__(self, kind: type[np.generic]) -> None:
        self._space: NDArray[Any] = np.empty(0, dtype=kind)
        self.values = self._space

    def append(self, values: NDArray[Any]) -> None:
        """Append (M,) numbers."""
        first, end = len(self.values), len(self.values) + len(values)
        if end > len(self._space):
            space = np.empty(int(GROWTH * end), dtype=self._space.dtype)
            space[:first] = self.values
            self._space = space
        self._space[first:end] = values
        self.values = self._space[:end]
