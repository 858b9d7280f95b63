"""The re-ranker ports: Ranker scores candidates, ExplainingRanker also explains the scores, CrossEncoder reads their texts."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Ranker(Protocol):
    """A re-ranker, which scores candidates from their features."""

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score candidates; a higher score is better. Only scores of one call are comparable.

        Args:
            features: (N, len(FEATURES)) float32 in FEATURES order.

        Returns:
            (N,) float32.

        Raises:
            RankerUnavailable: the re-ranker does not answer, or not in time.
        """


@runtime_checkable
class ExplainingRanker(Ranker, Protocol):
    """A re-ranker that also returns the contribution of every feature to a score, as both adapters do."""

    def explain(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Split scores into contributions by feature: SHAP values of the trees (Lundberg et al., Nature Machine Intelligence 2020).

        Args:
            features: (N, len(FEATURES)) float32 in FEATURES order.

        Returns:
            (N, len(FEATURES) + 1) float32: one column per feature in FEATURES order, then a constant that all candidates share.
            A row adds up to the candidate's score.

        Raises:
            RankerUnavailable: the re-ranker does not answer, or not in time.
        """


class CrossEncoder(Protocol):
    """A model that reads a query and an item together, and so is too slow for more than the best candidates."""

    def score_pairs(self, query: str, texts: Sequence[str], timeout_s: float) -> NDArray[np.float32]:
        """Score the texts of items for a query; a higher score is better.

        Args:
            query: cleaned query.
            texts: N texts as item_text() makes them.
            timeout_s: seconds after which the scores are of no use.

        Returns:
            (N,) float32, in the order of the texts.

        Raises:
            RankerUnavailable: the model does not answer, or not in time.
        """
