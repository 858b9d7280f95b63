"""What filters and orders ask of every lot, in columns beside the graph: one value a slot, a filter is one mask over slots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.items import epoch_ms
from retrieval.index.embedded.database import ItemFields
from retrieval.index.port import Filter, Mask, TopField
from retrieval.text.analysis import fold_label

NEVER_ENDS = np.iinfo(np.int64).max
GROWTH = 1.2  # of the space for columns where it runs out, so that a lot more seldom copies those of all lots
NONE = -1  # code of a category or brand that is missing
COLUMNS: Mapping[str, type[np.generic]] = {
    "position": np.int64,
    "ends_at": np.int64,
    "current_price": np.float32,  # float32 like the field of schema.index_body, so that a limit cuts at the same lots
    "seller_rating": np.float32,
    "category": np.int32,
    "brand": np.int32,
    "bid_count": np.float64,  # missing is NaN; float64 holds a count, and a time in ms, to the unit
    "listed_at": np.float64,
    "alive": np.bool_,
}


@dataclass(frozen=True, slots=True)
class DeletedItem:
    """A position whose vector a graph still holds, though the lot was replaced or deleted."""

    position: int


class FilterColumns:
    """The filter columns of all slots. A slot is the place of a vector in the graph; a dead one belongs to no lot any more."""

    def __init__(self) -> None:
        self.item_ids: list[str] = []
        self._space: dict[str, NDArray[Any]] = {name: np.empty(0, dtype=kind) for name, kind in COLUMNS.items()}
        self._columns = dict(self._space)  # of each, what is in use
        self._slots: dict[str, int] = {}
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._columns["alive"])

    @property
    def positions(self) -> NDArray[np.int64]:
        """(N,) int64, ascending: where each slot's lot stands in the database."""
        positions: NDArray[np.int64] = self._columns["position"]
        return positions

    @property
    def living(self) -> NDArray[np.int64]:
        """(N,) int64, ascending: where the lots stand in the database that are there."""
        living: NDArray[np.int64] = self.positions[self._columns["alive"]]
        return living

    @property
    def labels(self) -> list[str]:
        """Every category and brand that a lot has or had, in lower case."""
        return list(self._codes)

    @property
    def dead(self) -> int:
        """Number of dead slots."""
        return len(self) - len(self._slots)

    def append(self, lots: Sequence[ItemFields | DeletedItem]) -> None:
        """Give the next slots to these lots; the slots that their older versions had are dead from now on."""
        if not lots:
            return
        first, end = len(self), len(self) + len(lots)
        for (name, space), values in zip(self._space.items(), zip(*map(self._row, lots), strict=True), strict=True):
            if end > len(space):
                self._space[name] = np.empty(int(GROWTH * end), dtype=space.dtype)
                self._space[name][:first] = space[:first]
            self._space[name][first:end] = values
            self._columns[name] = self._space[name][:end]
        for slot, lot in enumerate(lots, first):
            if isinstance(lot, DeletedItem):
                self.item_ids.append("")
                continue
            self.bury(lot.item_id)
            self._slots[lot.item_id] = slot
            self.item_ids.append(lot.item_id)

    def bury(self, item_id: str) -> None:
        """Mark the slot of a lot dead; nothing happens for an unknown lot."""
        slot = self._slots.pop(item_id, None)
        if slot is not None:
            self._columns["alive"][slot] = False

    def allowed(self, where: Filter, slots: NDArray[np.int64] | None = None) -> Mask:
        """(N,) bool: which of all slots, or of those that are given, have lots that may come back under a filter."""

        def column(name: str) -> NDArray[Any]:
            return self._columns[name] if slots is None else self._columns[name][slots]

        mask: Mask = column("alive") & (column("ends_at") > epoch_ms(where.moment()))
        for name, wanted in (("category", where.category), ("brand", where.brand)):
            if wanted is not None:
                mask &= column(name) == self._codes.get(fold_label(wanted), NONE - 1)
        # a missing price or rating is NaN, which no comparison holds for
        if where.min_price is not None:
            mask &= column("current_price") >= np.float32(where.min_price)
        if where.max_price is not None:
            mask &= column("current_price") <= np.float32(where.max_price)
        if where.min_seller_rating is not None:
            mask &= column("seller_rating") >= np.float32(where.min_seller_rating)
        return mask

    def numbers(self, field: TopField) -> NDArray[np.float64]:
        """(N,) float64: a number of each slot's lot; NaN where it has none."""
        numbers: NDArray[np.float64] = self._columns[field]
        return numbers

    def _row(self, lot: ItemFields | DeletedItem) -> tuple[int | float, ...]:
        if isinstance(lot, DeletedItem):
            return (lot.position, NEVER_ENDS, np.nan, np.nan, NONE, NONE, np.nan, np.nan, False)
        return (
            lot.position,
            NEVER_ENDS if lot.ends_at is None else int(lot.ends_at),
            np.nan if lot.current_price is None else lot.current_price,
            np.nan if lot.seller_rating is None else lot.seller_rating,
            self._code(lot.category),
            self._code(lot.brand),
            np.nan if lot.bid_count is None else lot.bid_count,
            np.nan if lot.listed_at is None else lot.listed_at,
            True,
        )

    def _code(self, text: str | None) -> int:
        return NONE if text is None else self._codes.setdefault(fold_label(text), len(self._codes))
