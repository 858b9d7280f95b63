"""Paired tests over queries for a difference between two systems, with scipy.

The p-value is that of a randomisation test, which Smucker, Allan and Carterette (CIKM 2007) recommend for retrieval measures. The
confidence interval is a percentile bootstrap over queries (Efron and Tibshirani 1993).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from retrieval.errors import InvalidInput

RESAMPLES = 10_000
BATCH = 1_000  # resamples in memory at once
CONFIDENCE = 0.95
TIE = 1e-9  # smaller differences count as 0, because they may be rounding errors of sums


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """The comparison of two systems on the same queries by one measure.

    Attributes:
        queries: number of queries.
        base: mean of the baseline.
        new: mean of the new system.
        difference: new - base.
        low: lower end of the 95 % confidence interval of the difference.
        high: upper end of that interval.
        p_value: two-sided p-value, in (0, 1]: the chance of a difference at least this large if the systems are equally good.
        wins: number of queries on which the new system is better.
        losses: number of queries on which the new system is worse.
        ties: number of queries on which both are equal.
    """

    queries: int
    base: float
    new: float
    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    ties: int


def compare_paired(
    base: Mapping[str, float], new: Mapping[str, float], *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedComparison:
    """Test if the means of two systems differ, and return the comparison.

    The paired randomisation test changes the sign of every query's difference at random, `resamples` times. If there are fewer
    combinations of signs, it tries each of them once.

    Args:
        base: query_id -> value of the measure, for the baseline.
        new: query_id -> value of the measure on the same queries, for the new system.
        resamples: number of resamples, > 0, for the test and again for the interval.
        seed: seed of test and interval.

    Raises:
        InvalidInput: there is no query, or `base` and `new` have different queries.
    """
    if not base or base.keys() != new.keys():
        raise InvalidInput(
            f"two runs over the same queries are needed; they have {len(base)} and {len(new)}; measure both on one split"
        )
    differences = np.array([new[query] - base[query] for query in base])  # (Q,)
    differences[np.abs(differences) < TIE] = 0.0
    p_value, low, high = _test(differences, resamples, seed)
    return PairedComparison(
        queries=len(differences),
        base=float(np.mean(list(base.values()))),
        new=float(np.mean(list(new.values()))),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=p_value,
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
    )


def _test(differences: NDArray[np.float64], resamples: int, seed: int) -> tuple[float, float, float]:
    """Return the p-value and both ends of the interval. The p-value is 1 for a single query or if all differences are 0."""
    if len(differences) < 2 or not differences.any():
        return 1.0, float(differences.min()), float(differences.max())
    data = (differences,)
    test = stats.permutation_test(
        data,
        np.mean,
        permutation_type="samples",  # with one sample, scipy changes the signs
        n_resamples=resamples,
        batch=BATCH,
        vectorized=True,
        rng=np.random.default_rng([seed, 0]),
    )
    interval = stats.bootstrap(
        data,
        np.mean,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=BATCH,
        vectorized=True,
        rng=np.random.default_rng([seed, 1]),
    ).confidence_interval
    return float(test.pvalue), float(interval.low), float(interval.high)
