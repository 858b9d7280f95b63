"""The re-ranker ports: one scores candidates, one also says why."""

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
    """A re-ranker that also returns the contribution of every feature to a score, as both adapters do."""

    def explain(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Split scores into contributions by feature: SHAP values of the trees (Lundberg et al., Nature Machine Intelligence 2020).

        Args:
            features: (N, len(FEATURES)) float32 in FEATURES order.

        Returns:
            (N, len(FEATURES) + 1) float32: a column a feature in FEATURES order, the last is what every candidate has alike. A row
            adds up to the candidate's score.

        Raises:
            RankerUnavailable: no answer, or not in time.
        """
