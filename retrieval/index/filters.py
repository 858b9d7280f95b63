"""Whether one lot passes a filter, decided as the indexes decide it: for lots that were fetched by id or kept in a cache."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from retrieval.contracts.items import epoch_ms
from retrieval.index.port import Filter
from retrieval.text.analysis import fold_label


def has_ended(document: Mapping[str, Any], filters: Filter) -> bool:
    """Whether the auction of a lot is over at filters.moment()."""
    ends_at = document.get("ends_at")
    return ends_at is not None and ends_at <= epoch_ms(filters.moment())


def matches(filters: Filter, document: Mapping[str, Any]) -> bool:
    """Whether a lot with this document may come back under a filter."""
    if has_ended(document, filters):
        return False
    for name, wanted in (("category", filters.category), ("brand", filters.brand)):
        if wanted is not None and (name not in document or fold_label(document[name]) != fold_label(wanted)):
            return False
    price, rating = _number(document, "current_price"), _number(document, "seller_rating")
    # a missing number is NaN, which no comparison holds for
    return (
        (filters.min_price is None or bool(price >= np.float32(filters.min_price)))
        and (filters.max_price is None or bool(price <= np.float32(filters.max_price)))
        and (filters.min_seller_rating is None or bool(rating >= np.float32(filters.min_seller_rating)))
    )


def _number(document: Mapping[str, Any], name: str) -> np.float32:
    """As wide as an index keeps it."""
    value = document.get(name)
    return np.float32(np.nan if value is None else value)
