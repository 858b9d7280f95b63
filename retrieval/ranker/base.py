"""The re-ranker port."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Ranker(Protocol):
    """Scores candidates from their features."""

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score candidates; higher is better, comparable within one call alone.

        Args:
            features: (N, len(FEATURES)) float32 in FEATURES order.

        Returns:
            (N,) float32.

        Raises:
            RankerUnavailable: no answer, or not in time.
        """
