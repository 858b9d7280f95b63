"""Rank items by expected value: the chance that the buyer prefers an item, times its current price."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.search.reranking import Scored


def preference_chances(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the chance that a buyer prefers each item to an average item of the same list, from the re-ranker's scores.

    Lambda-gradients model the chance that item i is preferred to item j as the logistic function of s_i - s_j (Burges, "From
    RankNet to LambdaRank to LambdaMART", 2010). Here s_j is the mean of the list, because only scores of one list are comparable.
    The chance is no calibrated probability of a purchase.

    Args:
        scores: (N,) scores of the N >= 1 items of one list.

    Returns:
        (N,) chances in (0, 1); an item with the mean score has 0.5.
    """
    return np.asarray(0.5 * (1 + np.tanh((scores - scores.mean()) / 2)))  # the logistic function, without overflow


def rank_by_expected_value(ranking: Sequence[Scored]) -> list[Scored]:
    """Order re-ranked items by chance times current price; equal ones keep their order.

    Args:
        ranking: N items of one list with the scores of the re-ranker.

    Returns:
        The items with their expected values, highest first. An item without a price has the value 0.
    """
    if not ranking:
        return []
    chances = preference_chances(np.array([score for _, score in ranking], dtype=np.float64))  # (N,)
    prices = np.array([candidate.document.get("current_price") or 0.0 for candidate, _ in ranking], dtype=np.float64)
    values = chances * prices  # (N,)
    return [(ranking[i][0], float(values[i])) for i in np.argsort(-values, kind="stable")]
