"""Labels of a re-ranker: judgments, or clicks corrected for position bias.

A buyer can only click at a position that the buyer looks at. The propensity of a position is the probability of that look. A
click counts 1 / propensity. In expectation, it counts as much as at the first position (Joachims et al., "Unbiased
Learning-to-Rank with Biased Feedback", WSDM 2017). The position is no feature, because an item has none before it is ranked.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import numpy as np

from catalog.folder import Click, Qrels
from retrieval.contracts.events import event_weight

MIN_PROPENSITY = 0.1  # so a click counts at most ten times, and a single chance click does not decide
MAX_POSITION_BIAS_EXPONENT = 3.0
STEPS = 300  # steps of the search for the exponent, each 0.01


def judged_gains(qrels: Qrels) -> dict[str, dict[str, float]]:
    """Return the grades of every judged query as gains, as nDCG uses them."""
    return {qrels.queries[query]: {item: float(grade) for item, grade in grades.items()} for query, grades in qrels.grades.items()}


def clicked_gains(clicks: Sequence[Click], position_bias_exponent: float = 0.0) -> dict[str, dict[str, float]]:
    """Return gains from clicks, corrected for position bias.

    Args:
        clicks: impressions.
        position_bias_exponent: exponent of the propensity, see position_bias(); with 0 every impression counts as looked at.

    Returns:
        query -> item_id -> mean of event weight / propensity over the item's impressions; an impression without event adds 0.
    """
    weights: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for click in clicks:
        weight = event_weight(click.event_type) if click.event_type else 0.0
        weights[click.query][click.item_id].append(weight / propensity(click.position, position_bias_exponent))
    return {query: {item_id: fmean(values) for item_id, values in items.items()} for query, items in weights.items()}


def propensity(position: int, position_bias_exponent: float) -> float:
    """Return the relative probability that a buyer looks at a position >= 1: max(0.1, position ** -exponent), 1 at the first."""
    return max(MIN_PROPENSITY, math.pow(position, -position_bias_exponent))


def position_bias(clicks: Sequence[Click]) -> float | None:
    """Estimate the exponent of the position bias from items that one query showed at several positions (intervention harvesting).

    An item that the same query showed at positions j and k has the same relevance at both. So its click rates are proportional to
    the propensities (Agarwal et al., "Estimating Position Bias without Intrusive Interventions", WSDM 2019). Over all such items,
    a click at one of the two positions was at j with probability p_j / (p_j + p_k). The result is the exponent of
    p = position ** -exponent with the highest likelihood.

    Args:
        clicks: impressions with their positions; an impression with any event counts as a click.

    Returns:
        The exponent, 0 to 3; None if no clicked item was shown at two positions.
    """
    by_item: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for click in clicks:
        by_item[click.query, click.item_id][click.position].append(float(click.event_type is not None))
    rates: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])  # (above, below) -> sums of click rates
    for positions in by_item.values():
        for above, below in combinations(sorted(positions), 2):
            rates[above, below][0] += fmean(positions[above])
            rates[above, below][1] += fmean(positions[below])
    at_above, at_below = np.array(list(rates.values())).reshape(-1, 2).T  # (pairs,)
    if not at_above.sum() + at_below.sum():
        return None
    log_ratios = [math.log(below / above) for above, below in rates]
    exponents = np.linspace(0.0, MAX_POSITION_BIAS_EXPONENT, STEPS + 1)  # (S,)
    odds = np.outer(exponents, log_ratios)  # (S, pairs): log of p_above / p_below
    likelihood = -(np.logaddexp(0, -odds) @ at_above + np.logaddexp(0, odds) @ at_below)  # (S,)
    return float(exponents[int(likelihood.argmax())])
