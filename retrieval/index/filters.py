"""Filters on single items that were fetched by id or cached, with the same results as in the indexes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from retrieval.contracts.items import epoch_ms
from retrieval.index.port import BlockList, Filter
from retrieval.text.analysis import fold_label


def has_ended(document: Mapping[str, Any], filters: Filter) -> bool:
    """True if the auction of an item is over at filters.moment()."""
    ends_at = document.get("ends_at")
    return ends_at is not None and ends_at <= epoch_ms(filters.moment())


def matches(filters: Filter, document: Mapping[str, Any]) -> bool:
    """True if an item with this document matches the filters."""
    if has_ended(document, filters):
        return False
    for name, value in (("category", filters.category), ("brand", filters.brand)):
        if value is not None and (name not in document or fold_label(document[name]) != fold_label(value)):
            return False
    if _is_blocked(filters.blocked, document):
        return False
    price, rating = _number(document, "current_price"), _number(document, "seller_rating")
    # a missing number is NaN, for which every comparison is false
    return (
        (filters.min_price is None or bool(price >= np.float32(filters.min_price)))
        and (filters.max_price is None or bool(price <= np.float32(filters.max_price)))
        and (filters.min_seller_rating is None or bool(rating >= np.float32(filters.min_seller_rating)))
    )


def _is_blocked(blocked: BlockList, document: Mapping[str, Any]) -> bool:
    """True if an item with this document is on a block list."""
    if document.get("item_id") in blocked.items or document.get("seller") in blocked.sellers:
        return True
    return any(
        name in document and fold_label(document[name]) in map(fold_label, labels)
        for name, labels in (("category", blocked.categories), ("brand", blocked.brands))
    )


def _number(document: Mapping[str, Any], name: str) -> np.float32:
    """Return a number with the precision of an index."""
    value = document.get(name)
    return np.float32(np.nan if value is None else value)
