"""The ranking features: one ordered list, one function, used by training and serving alike."""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.base import Candidate, Vector
from retrieval.items import epoch_ms, query_text

MS_PER_HOUR = 3_600_000
WORD = re.compile(r"\w+")
MISSING = math.nan  # XGBoost sends a missing value down the branch that training found best for it


@dataclass(frozen=True, slots=True)
class RankingContext:
    """What is the same for every candidate of one query.

    Attributes:
        words: the query's words, lower-case.
        vector: (dimensions,) float32, the encoded query.
        now: the moment against which hours are counted.
        median_price: category -> median price of the candidates in it.
    """

    words: frozenset[str]
    vector: Vector
    now: datetime
    median_price: Mapping[str, float]


Feature = Callable[[RankingContext, Candidate, int], float]


def _similarity(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """Cosine of query and lot; both are of unit length."""
    return float(context.vector @ candidate.vector)


def _reciprocal_rank(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """1 / rank of the first stage."""
    return 1.0 / rank


def _title_overlap(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """Share of the query's words that stand in the title."""
    return _share(context.words, _words(candidate.document.get("title", "")))


def _text_overlap(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """Share of the query's words that stand in title or description."""
    return _share(context.words, _words(candidate.document.get("text", "")))


def _category_match(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """Share of the category's words that the query names."""
    return _share(_words(candidate.document.get("category", "")), context.words)


def _brand_match(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """Share of the brand's words that the query names."""
    return _share(_words(candidate.document.get("brand", "")), context.words)


def _log_price(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """log(1 + current price)."""
    price = candidate.document.get("current_price")
    return MISSING if price is None else math.log1p(price)


def _price_to_category_median(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """log of the price over the median price of the candidates in the same category."""
    price = candidate.document.get("current_price")
    middle = context.median_price.get(candidate.document.get("category", ""))
    return MISSING if price is None or middle is None else math.log1p(price) - math.log1p(middle)


def _log_bids(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """log(1 + number of bids)."""
    return math.log1p(candidate.document.get("bid_count", 0))


def _seller_rating(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """0 to 5."""
    return float(candidate.document.get("seller_rating", MISSING))


def _hours_to_end(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """Hours until the auction ends; missing when it never does."""
    return _hours(candidate.document.get("ends_at"), context.now)


def _hours_since_listed(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """Hours since the lot was listed."""
    return -_hours(candidate.document.get("listed_at"), context.now)


def _has_image(context: RankingContext, candidate: Candidate, rank: int) -> float:
    """1 when the lot was embedded with its photo."""
    return float(candidate.document.get("has_image", False))


_BY_NAME: Mapping[str, Feature] = {
    "similarity": _similarity,
    "reciprocal_rank": _reciprocal_rank,
    "title_overlap": _title_overlap,
    "text_overlap": _text_overlap,
    "category_match": _category_match,
    "brand_match": _brand_match,
    "log_price": _log_price,
    "price_to_category_median": _price_to_category_median,
    "log_bids": _log_bids,
    "seller_rating": _seller_rating,
    "hours_to_end": _hours_to_end,
    "hours_since_listed": _hours_since_listed,
    "has_image": _has_image,
}
FEATURES: tuple[str, ...] = tuple(_BY_NAME)
FEATURES_HASH = hashlib.sha256(",".join(FEATURES).encode()).hexdigest()[:12]


def feature_matrix(query: str, vector: Vector, candidates: Sequence[Candidate], now: datetime) -> NDArray[np.float32]:
    """Compute the features of every candidate of one query.

    Args:
        query: what the buyer typed.
        vector: (dimensions,) float32 of unit length, the encoded query.
        candidates: N candidates in first-stage order; their vectors are of unit length.
        now: the moment of the search, UTC.

    Returns:
        (N, len(FEATURES)) float32 in FEATURES order; NaN where a lot does not say.
    """
    context = RankingContext(_words(query_text(query)), vector, now, _median_prices(candidates))
    rows = [[feature(context, c, rank) for feature in _BY_NAME.values()] for rank, c in enumerate(candidates, 1)]
    return np.asarray(rows, dtype=np.float32).reshape(len(candidates), len(FEATURES))  # (N, F)


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower()))


def _share(wanted: frozenset[str], said: frozenset[str]) -> float:
    return len(wanted & said) / len(wanted) if wanted else 0.0


def _hours(moment_ms: Any, now: datetime) -> float:
    return MISSING if moment_ms is None else (moment_ms - epoch_ms(now)) / MS_PER_HOUR


def _median_prices(candidates: Sequence[Candidate]) -> dict[str, float]:
    prices: dict[str, list[float]] = defaultdict(list)
    for candidate in candidates:
        price = candidate.document.get("current_price")
        if price is not None:
            prices[candidate.document.get("category", "")].append(price)
    return {category: median(values) for category, values in prices.items()}
