"""What a re-ranker learns from: judgments, or clicks freed of the places at which lots were shown.

A click at a position needs a buyer who looked there. With the propensity, the chance that one looks, a click counts 1 / propensity:
in expectation that is what it would have counted at the first position (Joachims et al., "Unbiased Learning-to-Rank with Biased
Feedback", WSDM 2017). Position itself never becomes a feature: at serving time there is none yet.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import numpy as np

from catalog.folder import Click, Qrels
from retrieval.contracts.events import event_weight

MIN_PROPENSITY = 0.1  # a click deeper than this counts ten times and no more: one chance click must not decide
MAX_POSITION_BIAS_EXPONENT = 3.0
STEPS = 300  # of the search for the fall, so that it is found to 0.01


def judged_gains(qrels: Qrels) -> dict[str, dict[str, float]]:
    """The grades of every judged query, as gains: nDCG counts them so, too."""
    return {qrels.queries[query]: {item: float(grade) for item, grade in grades.items()} for query, grades in qrels.grades.items()}


def clicked_gains(clicks: Sequence[Click], position_bias_exponent: float = 0.0) -> dict[str, dict[str, float]]:
    """What buyers did with the lots that they were shown, freed of the lots' positions.

    Args:
        clicks: impressions.
        fall: of the propensity, as position_bias() finds it; 0 counts every impression as looked at.

    Returns:
        query -> item_id -> mean over the times that the lot was shown of event weight / propensity, 0 for one never touched.
    """
    weights: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for click in clicks:
        weight = event_weight(click.event_type) if click.event_type else 0.0
        weights[click.query][click.item_id].append(weight / propensity(click.position, position_bias_exponent))
    return {query: {item_id: fmean(shown) for item_id, shown in items.items()} for query, items in weights.items()}


def propensity(position: int, position_bias_exponent: float) -> float:
    """Chance that a buyer looks at a position >= 1, against 1 at the first: position ** -fall, and 0.1 at least."""
    return max(MIN_PROPENSITY, float(position) ** -position_bias_exponent)


def position_bias(clicks: Sequence[Click]) -> float | None:
    """How fast buyers stop looking, from lots that one query showed at several positions (intervention harvesting).

    A lot that the same query showed now at position j, now at k has one relevance and two chances to be seen, so its click rates
    at the two are as the propensities (Agarwal et al., "Estimating Position Bias without Intrusive Interventions", WSDM 2019).
    Over all such lots, a click at one of the two positions was made at j with probability p_j / (p_j + p_k); the fall of
    p = position ** -fall is the one under which the click rates are likeliest.

    Args:
        clicks: impressions with their positions; every touched one counts as a click, whatever came of it.

    Returns:
        The fall, 0 to 3; None when no lot that was ever clicked stood at two positions, and nothing can be told.
    """
    shown: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for click in clicks:
        shown[click.query, click.item_id][click.position].append(float(click.event_type is not None))
    rates: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])  # (above, below) -> sums of click rates
    for positions in shown.values():
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
