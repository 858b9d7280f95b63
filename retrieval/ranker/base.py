"""The re-ranker port."""

from typing import Protocol, runtime_checkable

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


@runtime_checkable
class ExplainingRanker(Ranker, Protocol):
    """A ranker that can say what its scores are made of."""

    def explain(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What every feature adds to the score of every candidate (SHAP: Lundberg and Lee, NeurIPS 2017).

        Args:
            features: (N, len(FEATURES)) float32 in FEATURES order.

        Returns:
            (N, len(FEATURES) + 1) float32; the last column is the expected score, and a row sums up to its score.

        Raises:
            RankerUnavailable: no answer, or not in time.
        """
