"""Store the fields by which items are filtered and ordered in columns by vector id, so that a filter is computed as one mask."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.items import epoch_ms
from retrieval.index.embedded.attribute_columns import AttributeColumns
from retrieval.index.embedded.database import ItemFields, RowId
from retrieval.index.embedded.growing_array import GROWTH
from retrieval.index.filters import CategoryPath, Filter
from retrieval.index.port import Mask, TopField
from retrieval.text.analysis import fold_label

VectorIds = NDArray[np.int64]
"""Ids of vectors, from 0 in the order in which they were added to the vector index."""
RowIds = NDArray[np.int64]
"""Row ids of items in the database, see RowId."""

NEVER_ENDS = np.iinfo(np.int64).max
FEW_CODES = 4  # up to which comparing one by one is quicker than np.isin(): at a million items .3 against 2.4 ms for one
NO_LABEL = -1  # code of a missing category, brand or seller
COLUMNS: Mapping[str, type[np.generic]] = {
    "row_id": np.int64,
    "version": np.int64,  # of the row
    "row_sets": np.uint8,  # bit n: the row sets the n-th field of STATE_COLUMNS, so that an older state of it does not count
    "ends_at": np.int64,
    "current_price": np.float32,  # float32, as in opensearch.mapping, so that limits exclude the same items
    "seller_rating": np.float32,
    "category": np.int32,
    "brand": np.int32,
    "seller": np.int32,
    "bid_count": np.float64,  # NaN if missing; float64 represents counts and times in ms exactly
    "listed_at": np.float64,
    "status": np.bool_,  # False for an item that is withdrawn or sold
    "live": np.bool_,
    "has_image": np.bool_,
}
# field of a state by which items are filtered or ordered -> cell of an item without it; `status` is True for an open item
STATE_COLUMNS: Mapping[str, int | float | bool] = {
    "ends_at": NEVER_ENDS,
    "current_price": np.nan,
    "bid_count": np.nan,
    "status": True,
}


@dataclass(frozen=True, slots=True)
class StateColumns:
    """The states of N items, in columns in the order of STATE_COLUMNS.

    Attributes:
        item_ids: ids of the items, each once.
        versions: (N, 4) int64 versions of the fields; -1 for a field that no update set.
        values: (N, 4) float64 values; NaN for a field that was cleared, 1 or 0 for an item that is open or not.
    """

    item_ids: Sequence[str]
    versions: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DeletedItem:
    """A row that was replaced or deleted, whose vector is still in a vector index."""

    row_id: RowId


class FilterColumns:
    """The filter columns of all vectors. A vector counts as deleted once its row is replaced or deleted.

    Attributes:
        item_ids: item id of each vector; "" for a DeletedItem.
    """

    def __init__(self) -> None:
        self.item_ids: list[str] = []
        self._space: dict[str, NDArray[Any]] = {name: np.empty(0, dtype=kind) for name, kind in COLUMNS.items()}
        self._columns = dict(self._space)  # used part of each array in _space
        self._vector_ids: dict[str, int] = {}
        self._codes: dict[str, int] = {}
        self._subcategories: dict[str, int] = {}  # those of _codes that name a category above them, too
        self._sellers: dict[str, int] = {}
        self._attributes = AttributeColumns()

    def __len__(self) -> int:
        return len(self._columns["live"])

    @property
    def row_ids(self) -> RowIds:
        """Return the row id of each vector, (N,) int64, ascending."""
        row_ids: RowIds = self._columns["row_id"]
        return row_ids

    @property
    def live_row_ids(self) -> RowIds:
        """Return the row ids of the vectors that are not deleted, int64, ascending."""
        live: RowIds = self.row_ids[self._columns["live"]]
        return live

    @property
    def labels(self) -> list[str]:
        """Return every category and brand that an item has or had, as fold_label() writes them."""
        return list(self._codes)

    @property
    def deleted(self) -> int:
        """Return the number of deleted vectors."""
        return len(self) - len(self._vector_ids)

    def append(self, items: Sequence[ItemFields | DeletedItem]) -> None:
        """Append the items, which get the next vector ids, and mark the vectors of their older versions as deleted."""
        if not items:
            return
        first, end = len(self), len(self) + len(items)
        for (name, space), values in zip(self._space.items(), zip(*map(self._row, items), strict=True), strict=True):
            if end > len(space):
                self._space[name] = np.empty(int(GROWTH * end), dtype=space.dtype)
                self._space[name][:first] = space[:first]
            self._space[name][first:end] = values
            self._columns[name] = self._space[name][:end]
        self._attributes.append(first, [None if isinstance(item, DeletedItem) else item.attribute_terms for item in items])
        for vector_id, item in enumerate(items, first):
            if isinstance(item, DeletedItem):
                self.item_ids.append("")
                continue
            self.delete(item.item_id)
            self._vector_ids[item.item_id] = vector_id
            self.item_ids.append(item.item_id)

    def set_states(self, states: StateColumns) -> None:
        """Set the columns of the items of these states, as ItemState.over() does; states of unknown items change nothing."""
        vector_ids = np.array([self._vector_ids.get(item_id, -1) for item_id in states.item_ids], dtype=np.int64)
        known = vector_ids >= 0
        if not known.any():
            return
        row_versions, row_sets = self._columns["version"][vector_ids], self._columns["row_sets"][vector_ids]
        for bit, (name, missing) in enumerate(STATE_COLUMNS.items()):
            versions, values, column = states.versions[:, bit], states.values[:, bit], self._columns[name]
            counts = known & (versions >= 0) & ((versions >= row_versions) | (row_sets & 1 << bit == 0))
            given = counts & ~np.isnan(values)
            column[vector_ids[given]] = values[given]
            column[vector_ids[counts & ~given]] = missing

    def delete(self, item_id: str) -> None:
        """Mark the vector of an item as deleted; do nothing for an unknown item."""
        vector_id = self._vector_ids.pop(item_id, None)
        if vector_id is not None:
            self._columns["live"][vector_id] = False

    def matches(self, filters: Filter, vector_ids: VectorIds | None = None) -> Mask:
        """Return a (N,) bool mask of the items that match the filters; deleted items never match.

        Args:
            filters: conditions on the items.
            vector_ids: (N,) vectors whose items are checked; None checks all.
        """

        def column(name: str) -> NDArray[Any]:
            return self._columns[name] if vector_ids is None else self._columns[name][vector_ids]

        mask: Mask = column("live") & column("status") & (column("ends_at") > epoch_ms(filters.moment()))
        blocked = filters.blocked
        for name, codes_of, allowed, forbidden in (
            ("category", self._category_codes, filters.categories, blocked.categories),
            ("brand", self._brand_codes, filters.brands, blocked.brands),
            ("seller", self._seller_codes, filters.sellers, blocked.sellers),
        ):
            if allowed:
                mask &= _is_any_of(column(name), codes_of(allowed))
            if forbidden:
                mask &= ~_is_any_of(column(name), codes_of(forbidden))
        for name, (low, high) in filters.state_ranges.items():
            mask &= _is_in_range(column(name), low, high)
            if name == "ends_at" and high is not None:
                mask &= column(name) != NEVER_ENDS
        if filters.min_seller_rating is not None:
            mask &= _is_in_range(column("seller_rating"), filters.min_seller_rating, None)
        if filters.listed_after is not None:
            mask &= column("listed_at") >= epoch_ms(filters.listed_after)
        if filters.has_photo is not None:
            mask &= column("has_image") == filters.has_photo
        for conditions, must_hold in ((filters.attributes, True), (filters.not_attributes, False)):
            for condition in conditions:
                matching = self._attributes.matches(condition, len(self))
                mask &= (matching if vector_ids is None else matching[vector_ids]) == must_hold
        if blocked_ids := [self._vector_ids[item_id] for item_id in blocked.items if item_id in self._vector_ids]:
            if vector_ids is None:
                mask[blocked_ids] = False
            else:
                mask &= ~np.isin(vector_ids, blocked_ids)
        return mask

    def _category_codes(self, categories: Collection[str]) -> list[int]:
        paths = [CategoryPath(label) for label in categories]
        codes = [self._codes[label] for path in paths for label in path.labels if label in self._codes]
        prefixes = tuple(prefix for path in paths for prefix in path.prefixes)
        return [*codes, *(code for label, code in self._subcategories.items() if label.startswith(prefixes))]

    def _brand_codes(self, brands: Collection[str]) -> list[int]:
        return [self._codes[label] for label in map(fold_label, brands) if label in self._codes]

    def _seller_codes(self, sellers: Collection[str]) -> list[int]:
        return [self._sellers[seller] for seller in sellers if seller in self._sellers]

    def numbers(self, field: TopField) -> NDArray[np.float64]:
        """Return a field of each vector's item as (N,) float64; NaN for an item without the field."""
        numbers: NDArray[np.float64] = self._columns[field]
        return numbers

    def _row(self, item: ItemFields | DeletedItem) -> tuple[int | float, ...]:
        if isinstance(item, DeletedItem):
            return (
                item.row_id,
                0,
                0,
                NEVER_ENDS,
                np.nan,
                np.nan,
                NO_LABEL,
                NO_LABEL,
                NO_LABEL,
                np.nan,
                np.nan,
                False,
                False,
                False,
            )
        return (
            item.row_id,
            item.version,
            sum(1 << bit for bit, name in enumerate(STATE_COLUMNS) if getattr(item, name, None) is not None),
            NEVER_ENDS if item.ends_at is None else int(item.ends_at),
            np.nan if item.current_price is None else item.current_price,
            np.nan if item.seller_rating is None else item.seller_rating,
            self._category_code(item.category),
            self._code(item.brand),
            NO_LABEL if item.seller is None else self._sellers.setdefault(item.seller, len(self._sellers)),
            np.nan if item.bid_count is None else item.bid_count,
            np.nan if item.listed_at is None else item.listed_at,
            True,
            True,
            bool(item.has_image),
        )

    def _category_code(self, category: str | None) -> int:
        code = self._code(category)
        if category is not None and ">" in category:
            self._subcategories[fold_label(category)] = code
        return code

    def _code(self, label: str | None) -> int:
        return NO_LABEL if label is None else self._codes.setdefault(fold_label(label), len(self._codes))


def _is_any_of(column: NDArray[np.int32], codes: Sequence[int]) -> Mask:
    """Return a (N,) bool mask of the cells with one of these codes."""
    if len(codes) > FEW_CODES:
        return np.isin(column, codes)
    mask: Mask = np.zeros(len(column), dtype=np.bool_)
    for code in codes:
        mask |= column == code
    return mask


def _is_in_range(column: NDArray[Any], low: float | None, high: float | None) -> Mask:
    """Return a (N,) bool mask of the numbers in a range. A missing number is NaN, for which every comparison is false."""
    mask: Mask = np.ones(len(column), dtype=np.bool_)
    if low is not None:
        mask &= column >= column.dtype.type(low)
    if high is not None:
        mask &= column <= column.dtype.type(high)
    return mask
