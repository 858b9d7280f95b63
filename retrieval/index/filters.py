"""Filters of a search, and functions that check single items which were fetched by id or cached."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from retrieval.contracts.items import epoch_ms
from retrieval.text.analysis import fold_label


def utc_now() -> datetime:
    """Return the current time in UTC; auctions with an earlier `ends_at` have ended."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class BlockList:
    """Ids and labels of items that never match.

    Attributes:
        items: ids of items.
        sellers: sellers; compared after Unicode composition, with case.
        categories: categories; case, Unicode composition and invisible characters do not matter.
        brands: brands; compared like categories.
    """

    items: frozenset[str] = frozenset()
    sellers: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    brands: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("sellers", "categories", "brands"):
            labels = (unicodedata.normalize("NFC", label).strip() for label in getattr(self, name))
            object.__setattr__(self, name, frozenset(filter(None, labels)))
        object.__setattr__(self, "items", frozenset(self.items))


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on the items of an answer. An item whose auction has ended never matches.

    Attributes:
        category: required category; case, Unicode composition, invisible characters and surrounding white space do not matter.
        brand: required brand; compared like the category.
        min_price: lowest current price; items without a known price do not match.
        max_price: highest current price, likewise.
        min_seller_rating: lowest seller rating; items without a known rating do not match.
        now: time from which auctions with an earlier or equal `ends_at` have ended; None takes the time of the call. An item
            without `ends_at` never ends.
        blocked: block list, whose items do not match.
    """

    category: str | None = None
    brand: str | None = None
    min_price: float | None = None
    max_price: float | None = None
    min_seller_rating: float | None = None
    now: datetime | None = None
    blocked: BlockList = BlockList()

    def __post_init__(self) -> None:
        for name in ("category", "brand"):
            if (value := getattr(self, name)) is not None:
                value = unicodedata.normalize("NFC", value).strip()  # control characters stay, because check_filters() rejects them
                object.__setattr__(self, name, value)

    def moment(self) -> datetime:
        """Return `now`, or the current time if it is None."""
        return utc_now() if self.now is None else self.now


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
    """Return a number of a document with the precision of an index; NaN if it is missing."""
    value = document.get(name)
    return np.float32(np.nan if value is None else value)
