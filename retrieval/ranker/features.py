"""The ranking features, in one ordered list. Training and serving compute them with the same function, feature_matrix()."""

import hashlib
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.buyer_habits import BuyerHabits, Label, LabelHabit
from retrieval.contracts.documents import Vector
from retrieval.contracts.items import epoch_ms, query_text
from retrieval.index.fusion import RRF_RANK_CONSTANT
from retrieval.index.port import Candidate
from retrieval.text.analysis import words

MS_PER_HOUR = 3_600_000
MISSING = math.nan  # XGBoost sends a missing value down the branch that was best in training

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RankingContext:
    """One query with its N candidates.

    Attributes:
        words: words of the query in lower case, repeated words included.
        vector: (dimensions,) float32, the encoded query.
        buyer: (dimensions,) float32 of unit length, the buyer's vector; None for an unknown buyer.
        now: UTC time of the search, for the features in hours.
        candidates: candidates in the order of retrieval.
        vectors: (N, dimensions) float32, the vectors of the candidates.
        habits: the buyer's habits; None for an unknown buyer.
    """

    words: Sequence[str]
    vector: Vector
    buyer: Vector | None
    now: datetime
    candidates: Sequence[Candidate]
    vectors: NDArray[np.float32]
    habits: BuyerHabits | None

    def column(self, field: str) -> Column:
        """Return (N,) the numbers in a field of the items' documents; MISSING for a document without the field."""
        return np.array([c.document.get(field, MISSING) for c in self.candidates], dtype=np.float64)

    def texts(self, field: str) -> list[str]:
        """Return the texts in a field of the items' documents; empty for a document without the field."""
        return [c.document.get(field, "") for c in self.candidates]


Feature = Callable[[RankingContext], Column]


def _similarity(context: RankingContext) -> Column:
    """Return the cosine of the query and each item; both vectors are of unit length."""
    return np.asarray(context.vectors @ context.vector, dtype=np.float64)  # (N, D) @ (D,) -> (N,)


def _bm25_to_best(context: RankingContext) -> Column:
    """Return BM25 as a share of the best candidate's BM25, in (0, 1]; missing if the item is not in the keyword list.

    The BM25 of two engines differs by a constant factor, and a query of rarer words scores higher. The share removes both effects.
    """
    scores = _numbers(c.bm25 for c in context.candidates)
    positive = scores[scores > 0]
    return scores / positive.max() if len(positive) else scores


def _reciprocal_rank(context: RankingContext) -> Column:
    """Return 1 / rank in the order of retrieval, which in a hybrid search is that of the fused list."""
    return 1.0 / np.arange(1, len(context.candidates) + 1)


def _fused_score(context: RankingContext) -> Column:
    """Return the sum of 1 / (60 + rank) over the lists that have the item, whichever fusion the search used (index/fusion.py)."""
    ranks = np.stack([_keyword_rank(context), _semantic_rank(context)])  # (2, N)
    return np.asarray(np.nansum(1.0 / (RRF_RANK_CONSTANT + ranks), axis=0))


def _keyword_rank(context: RankingContext) -> Column:
    """Return the rank in the keyword list, from 1; missing if the item is not in the list."""
    return _numbers(c.keyword_rank for c in context.candidates)


def _semantic_rank(context: RankingContext) -> Column:
    """Return the rank in the semantic list, from 1; missing if the item is not in the list."""
    return _numbers(c.semantic_rank for c in context.candidates)


def _query_words(context: RankingContext) -> Column:
    """Return the number of words of the query."""
    return np.full(len(context.candidates), len(context.words), dtype=np.float64)


def _title_overlap(context: RankingContext) -> Column:
    """Return the share of the query's words that occur in the title."""
    return _query_overlap(context, "title")


def _text_overlap(context: RankingContext) -> Column:
    """Return the share of the query's words that occur in title or description."""
    return _query_overlap(context, "text")


def _category_match(context: RankingContext) -> Column:
    """Return the share of the category's words that occur in the query."""
    return _label_overlap(context, "category")


def _brand_match(context: RankingContext) -> Column:
    """Return the share of the brand's words that occur in the query."""
    return _label_overlap(context, "brand")


def _buyer_affinity(context: RankingContext) -> Column:
    """Return the cosine of the buyer and each item; missing without a buyer."""
    if context.buyer is None:
        return np.full(len(context.candidates), MISSING)
    return np.asarray(context.vectors @ context.buyer, dtype=np.float64)  # (N, D) @ (D,) -> (N,)


def _buyer_category_count(context: RankingContext) -> Column:
    """Return log(1 + number of the buyer's interactions with items of the item's category); missing without a buyer."""
    return _habit(context, "category", lambda habit: math.log1p(habit.count) if habit else 0.0)


def _buyer_category_days(context: RankingContext) -> Column:
    """Return the days from the buyer's latest interaction with the item's category to their latest one; missing without any."""
    return _habit(context, "category", lambda habit: habit.days if habit else MISSING)


def _buyer_brand_count(context: RankingContext) -> Column:
    """Return log(1 + number of the buyer's interactions with items of the item's brand); missing without a buyer."""
    return _habit(context, "brand", lambda habit: math.log1p(habit.count) if habit else 0.0)


def _buyer_brand_days(context: RankingContext) -> Column:
    """Return the days from the buyer's latest interaction with the item's brand to their latest one; missing without any."""
    return _habit(context, "brand", lambda habit: habit.days if habit else MISSING)


def _price_to_buyer_median(context: RankingContext) -> Column:
    """Return log(1 + price) - log(1 + median price of the buyer's items); missing without a buyer or a price."""
    usual = MISSING if context.habits is None or context.habits.median_price is None else context.habits.median_price
    return np.log1p(context.column("current_price")) - math.log1p(usual)


def _log_price(context: RankingContext) -> Column:
    """Return log(1 + current price)."""
    return np.log1p(context.column("current_price"))


def _price_to_category_median(context: RankingContext) -> Column:
    """Return log(1 + price) - log(1 + median price of the candidates in the item's category)."""
    prices, categories = context.column("current_price"), context.texts("category")
    of_category: dict[str, list[float]] = defaultdict(list)
    for category, price in zip(categories, prices.tolist(), strict=True):
        if price == price:  # False for NaN, a missing price
            of_category[category].append(price)
    medians = {category: median(values) for category, values in of_category.items()}
    return np.log1p(prices) - np.log1p(_numbers(medians.get(category) for category in categories))


def _log_bids(context: RankingContext) -> Column:
    """Return log(1 + number of bids)."""
    return np.log1p(np.nan_to_num(context.column("bid_count")))


def _seller_rating(context: RankingContext) -> Column:
    """Return the rating of the seller, 0 to 5; missing if it is unknown."""
    return context.column("seller_rating")


def _hours_to_end(context: RankingContext) -> Column:
    """Return the hours until the auction ends; missing if it never ends."""
    return (context.column("ends_at") - epoch_ms(context.now)) / MS_PER_HOUR


def _hours_since_listed(context: RankingContext) -> Column:
    """Return the hours since the item was listed; missing if the time is unknown."""
    return (epoch_ms(context.now) - context.column("listed_at")) / MS_PER_HOUR


def _has_image(context: RankingContext) -> Column:
    """Return 1 if the item was embedded with its photo, else 0."""
    return np.nan_to_num(context.column("has_image"))


_BY_NAME: Mapping[str, Feature] = {
    "similarity": _similarity,
    "bm25_to_best": _bm25_to_best,
    "reciprocal_rank": _reciprocal_rank,
    "fused_score": _fused_score,
    "keyword_rank": _keyword_rank,
    "semantic_rank": _semantic_rank,
    "query_words": _query_words,
    "title_overlap": _title_overlap,
    "text_overlap": _text_overlap,
    "category_match": _category_match,
    "brand_match": _brand_match,
    "buyer_affinity": _buyer_affinity,
    "buyer_category_count": _buyer_category_count,
    "buyer_category_days": _buyer_category_days,
    "buyer_brand_count": _buyer_brand_count,
    "buyer_brand_days": _buyer_brand_days,
    "price_to_buyer_median": _price_to_buyer_median,
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


def feature_matrix(
    query: str,
    vector: Vector,
    candidates: Sequence[Candidate],
    now: datetime,
    buyer: Vector | None = None,
    habits: BuyerHabits | None = None,
) -> NDArray[np.float32]:
    """Compute the features of every candidate of one query.

    Args:
        query: text of the query, as typed.
        vector: (dimensions,) float32 of unit length, the encoded query.
        candidates: N candidates in the order of retrieval; their vectors are of unit length.
        now: UTC time of the search.
        buyer: (dimensions,) float32 of unit length, the vector of the buyer's history; None without a history.
        habits: the habits of the buyer's history; None without a history.

    Returns:
        (N, len(FEATURES)) float32 in FEATURES order; NaN for missing values.
    """
    if not candidates:
        return np.empty((0, len(FEATURES)), dtype=np.float32)
    vectors = np.stack([c.vector for c in candidates])
    context = RankingContext(words(query_text(query)), vector, buyer, now, candidates, vectors, habits)
    return np.stack([feature(context) for feature in _BY_NAME.values()], axis=1).astype(np.float32)  # (N, F)


def _habit(context: RankingContext, label: Label, value: Callable[[LabelHabit | None], float]) -> Column:
    """Return a value of the buyer's habit for the label of each item; MISSING without a buyer."""
    if context.habits is None:
        return np.full(len(context.candidates), MISSING)
    by_value = context.habits.by_label[label]
    return np.array([value(by_value.get(text)) for text in context.texts(label)])


def _numbers(values: Any) -> Column:
    """Return the values as a column of numbers, with NaN for None."""
    return np.array([MISSING if value is None else value for value in values], dtype=np.float64)


def _query_overlap(context: RankingContext, field: str) -> Column:
    """Return, for each item, the share of the query's words that occur in one of its text fields."""
    query = frozenset(context.words)
    return np.array([_share(query, _words(text)) for text in context.texts(field)])


def _label_overlap(context: RankingContext, field: str) -> Column:
    """Return, for each item, the share of its label's words that occur in the query. Each distinct label is compared once."""
    query = frozenset(context.words)
    labels = context.texts(field)
    overlaps = {label: _share(_words(label), query) for label in set(labels)}
    return np.array([overlaps[label] for label in labels])


def _words(text: str) -> frozenset[str]:
    return frozenset(words(unicodedata.normalize("NFKC", text)))  # NFKC, as item_text() and query_text() write texts


def _share(words: frozenset[str], others: frozenset[str]) -> float:
    return len(words & others) / len(words) if words else 0.0
