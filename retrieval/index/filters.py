"""Filters of a search, and functions that check single items which were fetched by id or cached."""

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from retrieval.contracts.attributes import ATTRIBUTE_TERMS_FIELD, as_number, label_term, number_term
from retrieval.contracts.item_states import OPEN
from retrieval.contracts.items import epoch_ms
from retrieval.errors import InvalidQuery
from retrieval.text.analysis import fold_label, fold_name

FLOAT32_FIELDS = frozenset({"current_price", "seller_rating"})  # as in opensearch.mapping, so that limits exclude the same items

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
        categories: categories, with the categories below them; case, Unicode composition and invisible characters do not matter.
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
        categories: allowed categories, with the categories below them, see CategoryPath; case, Unicode composition, invisible
            characters and surrounding white space do not matter. Empty allows any.
        brands: allowed brands; compared like categories, but without levels.
        min_price: lowest current price; items without a known price do not match.
        max_price: highest current price, likewise.
        min_seller_rating: lowest seller rating; items without a known rating do not match.
        now: time from which auctions with an earlier or equal `ends_at` have ended; None takes the time of the call. An item
            without `ends_at` never ends.
        blocked: block list, whose items do not match.
        attributes: conditions on attributes, all of which must hold.
        not_attributes: conditions on attributes, none of which may hold.
        min_bids: lowest number of bids; items without a known number do not match.
        max_bids: highest number of bids, likewise.
        sellers: allowed sellers; compared after Unicode composition, with case.
        has_photo: True allows items with a photo alone, False those without one.
        listed_after: earliest time of listing; items without a known one do not match.
        ends_after: earliest end of the auction; an item without `ends_at` never ends, and matches.
        ends_before: latest end of the auction; an item without `ends_at` does not match.
    """

    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    min_price: float | None = None
    max_price: float | None = None
    min_seller_rating: float | None = None
    now: datetime | None = None
    blocked: BlockList = BlockList()
    attributes: tuple[AttributeFilter, ...] = ()
    not_attributes: tuple[AttributeFilter, ...] = ()
    sellers: tuple[str, ...] = ()
    min_bids: int | None = None
    max_bids: int | None = None
    has_photo: bool | None = None
    listed_after: datetime | None = None
    ends_after: datetime | None = None
    ends_before: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("categories", "brands", "sellers"):
            # control characters stay, because check_filters() rejects them
            labels = (unicodedata.normalize("NFC", label).strip() for label in getattr(self, name))
            object.__setattr__(self, name, tuple(dict.fromkeys(labels)))

    @property
    def state_ranges(self) -> dict[str, tuple[float | None, float | None]]:
        """Return field of a state -> its lowest and highest value, for the fields that are limited; None for no limit.

        An item without the field is outside every range, but for a lowest `ends_at`.
        """
        ends = [None if moment is None else epoch_ms(moment) for moment in (self.ends_after, self.ends_before)]
        ranges: dict[str, tuple[float | None, float | None]] = {
            "current_price": (self.min_price, self.max_price),
            "bid_count": (self.min_bids, self.max_bids),
            "ends_at": (ends[0], ends[1]),
        }
        return {name: limits for name, limits in ranges.items() if limits != (None, None)}

    def moment(self) -> datetime:
        """Return `now`, or the current time if it is None."""
        return utc_now() if self.now is None else self.now


class CategoryPath:
    """A category as a filter names it, which holds itself and the categories below it.

    "Watches > Wrist" lies below "Watches"; the blanks around the sign make no difference.

    Args:
        label: category as typed.

    Attributes:
        labels: spellings of the category, as fold_label() writes them.
        prefixes: beginnings of the categories below it.
    """

    def __init__(self, label: str) -> None:
        folded = fold_label(label)
        parts = [part.strip() for part in folded.split(">")] if ">" in folded else [folded]
        self.labels = tuple(dict.fromkeys(sign.join(parts) for sign in (" > ", ">", " >", "> ")))
        self.prefixes = tuple(f"{spelling}{sign}" for spelling in self.labels for sign in (" >", ">"))

    def holds(self, category: str) -> bool:
        """True if a category, as fold_label() writes it, is this one or lies below it."""
        return category in self.labels or category.startswith(self.prefixes)


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
    blocked = filters.blocked
    if document.get("item_id") in blocked.items:
        return False
    for allowed, forbidden, is_among in (
        (filters.categories, blocked.categories, _is_in_categories),
        (filters.brands, blocked.brands, _is_of_brands),
        (filters.sellers, blocked.sellers, _is_of_sellers),
    ):
        if (allowed and not is_among(document, allowed)) or is_among(document, forbidden):
            return False
    terms = document.get(ATTRIBUTE_TERMS_FIELD, ()) if filters.attributes or filters.not_attributes else ()
    if not all(condition.matches(terms) for condition in filters.attributes):
        return False
    if any(condition.matches(terms) for condition in filters.not_attributes):
        return False
    if filters.has_photo is not None and bool(document.get("has_image")) != filters.has_photo:
        return False
    listed_after = None if filters.listed_after is None else epoch_ms(filters.listed_after)
    ranges = {**filters.state_ranges, "seller_rating": (filters.min_seller_rating, None), "listed_at": (listed_after, None)}
    return all(is_in_range(name, document.get(name), *limits) for name, limits in ranges.items())


def is_in_range(name: str, value: float | None, low: float | None, high: float | None) -> bool:
    """True if a field's value is in a range, with the precision of an index; see Filter.state_ranges for a missing value."""
    if value is None:
        return (low is None and high is None) or (name == "ends_at" and high is None)
    number = np.float32 if name in FLOAT32_FIELDS else np.float64
    return (low is None or bool(number(value) >= number(low))) and (high is None or bool(number(value) <= number(high)))


def _is_in_categories(document: Mapping[str, Any], categories: Collection[str]) -> bool:
    return "category" in document and any(CategoryPath(label).holds(fold_label(document["category"])) for label in categories)


def _is_of_brands(document: Mapping[str, Any], brands: Collection[str]) -> bool:
    return "brand" in document and fold_label(document["brand"]) in map(fold_label, brands)


def _is_of_sellers(document: Mapping[str, Any], sellers: Collection[str]) -> bool:
    return document.get("seller") in sellers
