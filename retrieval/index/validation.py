"""Checks of index operations, the same for every adapter, and batches with a maximum size."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from retrieval.contracts.attributes import ATTRIBUTE_TERMS_FIELD, ATTRIBUTE_TEXT_FIELD, ATTRIBUTES_FIELD
from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.contracts.items import MAX_ID_BYTES, latest_version

UNIT_LENGTH_TOLERANCE = 1e-3
MAX_TERM_CHARS = 8_000  # of an attribute's term, because Lucene rejects an item with a term of more than 32,766 bytes
TEXT_FIELDS = ("text", "title", "category", "brand", "seller", ATTRIBUTE_TEXT_FIELD)
BATCH_CHARS = 16_000_000  # characters of texts per batch, which is in memory as a whole
T = TypeVar("T")
NUMBER_FIELDS = ("current_price", "bid_count", "seller_rating", "listed_at", "ends_at", "updated_at")


def entry_fault(entry: IndexedItem | Deletion, dimensions: int) -> str | None:
    """Return the fault of an operation, or None if an index of this many dimensions can store it.

    Args:
        entry: item or deletion to check.
        dimensions: length of the index's vectors.
    """
    fault = _identity_fault(entry.item_id, entry.version)
    if fault or isinstance(entry, Deletion):
        return fault
    return _vector_fault(entry, dimensions) or _document_fault(entry.document)


def batches(items: Iterable[T], most: int, chars: Callable[[T], int], most_chars: int = BATCH_CHARS) -> Iterator[list[T]]:
    """Yield items in batches, with a maximum number of items and length of texts per batch.

    Args:
        items: items to split, which are read only up to the end of the current batch.
        most: maximum number of items per batch, > 0.
        chars: item -> number of characters of its texts.
        most_chars: number of characters at which a batch ends, with the item that reaches it.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += chars(item)
        if len(batch) == most or total >= most_chars:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def entry_chars(entry: IndexedItem | Deletion) -> int:
    """Return the number of characters of the texts in an operation's document; 0 for a deletion."""
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
    if not isinstance(document.get(ATTRIBUTES_FIELD, {}), Mapping):
        return f"{ATTRIBUTES_FIELD} is not an object: {document[ATTRIBUTES_FIELD]!r}"
    terms = document.get(ATTRIBUTE_TERMS_FIELD, [])
    if not isinstance(terms, list) or not all(isinstance(term, str) and len(term) <= MAX_TERM_CHARS for term in terms):
        return f"{ATTRIBUTE_TERMS_FIELD} is not a list of texts of at most {MAX_TERM_CHARS:,} characters"
    for name in NUMBER_FIELDS:
        value = document.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"{name} is not a finite number: {value!r}"
    return None
