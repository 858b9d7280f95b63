"""Store the attributes of items as columns of numbers, so that a filter is computed as one mask."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.attributes import parse_number_term
from retrieval.index.embedded.growing_array import GrowingArray
from retrieval.index.filters import AttributeFilter
from retrieval.index.port import Mask


class AttributeColumns:
    """The attributes of all vectors' items: a hash of each term, and each number with a hash of its name.

    Python's hash of a text has 64 bits and another seed in each process, so that nobody can choose terms with equal hashes.
    """

    def __init__(self) -> None:
        self._terms, self._term_ids = GrowingArray(np.int64), GrowingArray(np.int32)
        self._names, self._numbers, self._number_ids = GrowingArray(np.int64), GrowingArray(np.float64), GrowingArray(np.int32)

    def append(self, first: int, terms: Sequence[str | None]) -> None:
        """Append the terms of items.

        Args:
            first: vector id of the first item; the others follow.
            terms: JSON list of each item's terms, see attributes.attribute_terms(); None for an item without attributes.
        """
        pairs = [(vector_id, term) for vector_id, text in enumerate(terms, first) if text for term in json.loads(text)]
        if not pairs:
            return
        self._terms.append(np.array([hash(term) for _, term in pairs]))
        self._term_ids.append(np.array([vector_id for vector_id, _ in pairs]))
        numbers = [(vector_id, number) for vector_id, term in pairs if (number := parse_number_term(term))]
        self._names.append(np.array([hash(name) for _, (name, _) in numbers], dtype=np.int64))
        self._numbers.append(np.array([value for _, (_, value) in numbers], dtype=np.float64))
        self._number_ids.append(np.array([vector_id for vector_id, _ in numbers], dtype=np.int32))

    def matches(self, condition: AttributeFilter, count: int) -> Mask:
        """Return a (count,) bool mask of the vectors whose items match a condition."""
        mask: Mask = np.ones(count, dtype=np.bool_)
        if condition.values:
            hashes = np.array([hash(term) for term in condition.terms])
            mask &= _mask_of(self._term_ids.values[np.isin(self._terms.values, hashes)], count)
        if condition.has_range:
            inside = self._names.values == hash(condition.key)
            if condition.minimum is not None:
                inside &= self._numbers.values >= condition.minimum
            if condition.maximum is not None:
                inside &= self._numbers.values <= condition.maximum
            mask &= _mask_of(self._number_ids.values[inside], count)
        return mask


def _mask_of(vector_ids: NDArray[np.int32], count: int) -> Mask:
    mask: Mask = np.zeros(count, dtype=np.bool_)
    mask[vector_ids] = True
    return mask
