"""Test whether two systems differ, with paired tests over queries from scipy.

Smucker, Allan and Carterette (CIKM 2007) recommend the randomisation test for measures of retrieval. The interval is a
percentile bootstrap over queries (Efron and Tibshirani 1993).
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
TIE = 1e-9  # measures are sums of floats: a smaller difference counts as none


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two systems on the same queries, by one measure.

    Attributes:
        queries: number compared.
        base: mean of the baseline.
        new: mean of the other system.
        difference: new - base.
        low: lower end of the 95 % interval of the difference.
        high: upper end of it.
        p_value: two-sided, in (0, 1]: probability of so great a difference by chance.
        wins: queries on which `new` is better.
        losses: queries on which it is worse.
        ties: the others.
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
    """Test whether the means of two systems differ.

    Every query's difference changes its sign at random (the paired randomisation test), `resamples` times, or once per
    combination of signs if there are fewer.

    Args:
        base: query_id -> value of one measure, for the baseline.
        new: the same queries, for the other system.
        resamples: of the test and of the interval, > 0.
        seed: of both.

    Raises:
        InvalidInput: there is no query, or the queries of the two differ.
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
    """Return p value and interval; a single query, or no difference at all, gives p = 1."""
    if len(differences) < 2 or not differences.any():
        return 1.0, float(differences.min()), float(differences.max())
    data = (differences,)
    test = stats.permutation_test(
        data,
        np.mean,
        permutation_type="samples",  # of one sample: the signs change
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
