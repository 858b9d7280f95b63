"""Checks of entries, the same for every adapter, and batches of bounded size."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.contracts.items import MAX_ID_BYTES, latest_version

UNIT_LENGTH_TOLERANCE = 1e-3
TEXT_FIELDS = ("text", "title", "category", "brand", "seller")
BATCH_CHARS = 16_000_000  # of the texts of lots that are held in memory together
Lot = TypeVar("Lot")
NUMBER_FIELDS = ("current_price", "bid_count", "seller_rating", "listed_at", "ends_at", "updated_at")


def entry_fault(entry: IndexedItem | Deletion, dimensions: int) -> str | None:
    """Say why an index of this many dimensions cannot take an entry.

    Args:
        entry: a lot or a tombstone.
        dimensions: length of the index's vectors.

    Returns:
        The reason, or None for a sound entry.
    """
    fault = _identity_fault(entry.item_id, entry.version)
    if fault or isinstance(entry, Deletion):
        return fault
    return _vector_fault(entry, dimensions) or _document_fault(entry.document)


def batches(lots: Iterable[Lot], most: int, chars: Callable[[Lot], int], most_chars: int = BATCH_CHARS) -> Iterator[list[Lot]]:
    """Cut lots into batches that are bounded in their number and in the length of their texts.

    Args:
        lots: read no further than the end of the batch that is asked for.
        most: lots of a batch, > 0.
        chars: length of a lot's texts.
        most_chars: a batch ends with the lot that reaches it.
    """
    batch: list[Lot] = []
    held = 0
    for lot in lots:
        batch.append(lot)
        held += chars(lot)
        if len(batch) == most or held >= most_chars:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def entry_chars(entry: IndexedItem | Deletion) -> int:
    """Length of the texts of an entry's document."""
    return sum(len(value) for value in entry.document.values() if isinstance(value, str)) if isinstance(entry, IndexedItem) else 0


def _identity_fault(item_id: str, version: int) -> str | None:
    try:
        size = len(item_id.encode())
    except UnicodeEncodeError:
        return "the item_id is not valid Unicode"
    if not 1 <= size <= MAX_ID_BYTES:
        return f"the item_id has {size} bytes, 1 to {MAX_ID_BYTES} are allowed"
    if version < 0:
        return f"the version is {version}, it must be 0 or more"
    if version > latest_version():
        return f"the version {version} lies in the future (milliseconds since 1970); mend updated_at and embed the lot again"
    return None


def _vector_fault(entry: IndexedItem, dimensions: int) -> str | None:
    vector = np.asarray(entry.vector)
    if vector.shape != (dimensions,):
        return f"the vector has shape {vector.shape}, the index ({dimensions},)"
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not math.isfinite(length):
        return "the vector holds numbers that are not finite"
    if abs(length - 1) > UNIT_LENGTH_TOLERANCE:
        return f"the vector has length {length:.4g}, not 1"
    return None


def _document_fault(document: Mapping[str, Any]) -> str | None:
    for name in TEXT_FIELDS:
        value = document.get(name)
        if value is not None and not isinstance(value, str):
            return f"{name} is not a text: {value!r}"
    for name in NUMBER_FIELDS:
        value = document.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"{name} is not a finite number: {value!r}"
    return None
