"""Filters of a search, and functions that check single items which were fetched by id or cached."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from retrieval.contracts.attributes import ATTRIBUTE_TERMS_FIELD, as_number, label_term, number_term
from retrieval.contracts.item_states import OPEN
from retrieval.contracts.items import epoch_ms
from retrieval.errors import InvalidQuery
from retrieval.text.analysis import fold_label, fold_name

_RANGE = re.compile(r"(-?\d{1,20}(?:\.\d{1,20})?)?\.\.(-?\d{1,20}(?:\.\d{1,20})?)?", re.ASCII)


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
class AttributeFilter:
    """A condition on one attribute: one of its values is among `values`, and one of its numbers in the range.

    Attributes:
        name: name of the attribute; case, spaces and marks do not matter.
        values: allowed values; case, Unicode composition and white space do not matter. Empty allows any.
        minimum: lowest number; items whose value is no number do not match.
        maximum: highest number, likewise.
    """

    name: str
    values: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def key(self) -> str:
        """Return the folded name, which begins the terms."""
        return fold_name(self.name)

    @property
    def has_range(self) -> bool:
        """True if the number of the attribute is limited."""
        return self.minimum is not None or self.maximum is not None

    @property
    def terms(self) -> list[str]:
        """Return the terms of the values; an item has one of them if it matches. A number also matches other spellings of it."""
        numbers = [number for value in self.values if (number := as_number(value)) is not None]
        return [*(label_term(self.name, value) for value in self.values), *(number_term(self.name, number) for number in numbers)]

    @property
    def term_range(self) -> tuple[str, str]:
        """Return the lowest and the highest term of the numbers in the range."""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return number_term(self.name, low), number_term(self.name, high)

    def matches(self, terms: Sequence[str]) -> bool:
        """True if an item with these terms matches."""
        if self.values and not set(self.terms) & set(terms):
            return False
        low, high = self.term_range
        return not self.has_range or any(low <= term <= high for term in terms)


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
        attributes: conditions on attributes, all of which must hold.
    """

    category: str | None = None
    brand: str | None = None
    min_price: float | None = None
    max_price: float | None = None
    min_seller_rating: float | None = None
    now: datetime | None = None
    blocked: BlockList = BlockList()
    attributes: tuple[AttributeFilter, ...] = ()

    def __post_init__(self) -> None:
        for name in ("category", "brand"):
            if (value := getattr(self, name)) is not None:
                value = unicodedata.normalize("NFC", value).strip()  # control characters stay, because check_filters() rejects them
                object.__setattr__(self, name, value)

    def moment(self) -> datetime:
        """Return `now`, or the current time if it is None."""
        return utc_now() if self.now is None else self.now


def parse_attribute_filters(texts: Iterable[str]) -> tuple[AttributeFilter, ...]:
    """Read conditions on attributes as requests write them.

    Args:
        texts: texts such as "colour:red", "size:40..44", "size:40.." or "size:..44"; several values of one name allow any of them.

    Raises:
        InvalidQuery: a text names no attribute or no value.
    """
    values: dict[str, tuple[str, list[str]]] = {}  # folded name -> name, values
    ranges: list[AttributeFilter] = []
    for text in texts:
        name, _, value = (part.strip() for part in text.partition(":"))
        if not fold_name(name) or not value:
            raise InvalidQuery(f"attribute is {text[:100]!r}; write NAME:VALUE, such as colour:red, or a range such as size:40..44")
        if (limits := _RANGE.fullmatch(value)) and (limits[1] or limits[2]):
            ranges.append(AttributeFilter(name, (), *(float(limit) if limit else None for limit in limits.groups())))
        else:
            values.setdefault(fold_name(name), (name, []))[1].append(value)
    return (*(AttributeFilter(name, tuple(several)) for name, several in values.values()), *ranges)


def is_closed(document: Mapping[str, Any], filters: Filter) -> bool:
    """True if an item is withdrawn or sold, or its auction is over at filters.moment()."""
    ends_at = document.get("ends_at")
    return document.get("status", OPEN) != OPEN or (ends_at is not None and ends_at <= epoch_ms(filters.moment()))


def matches(filters: Filter, document: Mapping[str, Any]) -> bool:
    """True if an item with this document matches the filters."""
    if is_closed(document, filters):
        return False
    for name, value in (("category", filters.category), ("brand", filters.brand)):
        if value is not None and (name not in document or fold_label(document[name]) != fold_label(value)):
            return False
    if _is_blocked(filters.blocked, document):
        return False
    terms = document.get(ATTRIBUTE_TERMS_FIELD, ()) if filters.attributes else ()
    if not all(condition.matches(terms) for condition in filters.attributes):
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
