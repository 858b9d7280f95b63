"""Select the best items of a search of an embedded index, before their documents are read."""

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.embedded.database import RowId
from retrieval.index.embedded.filter_columns import FilterColumns, RowIds, VectorIds
from retrieval.index.filters import Filter
from retrieval.index.port import TopField

FIRST_DEPTH = 1_000  # best documents of a keyword search that are filtered first; as many times more where too few of them pass


class Hit(NamedTuple):
    """An item of a ranking.

    Attributes:
        row_id: in the database.
        item_id: of the item.
        score: as Candidate.score.
    """

    row_id: RowId
    item_id: str
    score: float


Ranking = Sequence[Hit]
"""Best first: by descending score, ties by item_id."""


def top_k_keyword(scores: NDArray[np.float32], row_ids: RowIds, columns: FilterColumns, filters: Filter, k: int) -> Ranking:
    """Return the best documents of a keyword search that pass a filter.

    A common word is in a great many documents. So only the best ones are filtered, and more of them if fewer than k pass.
    Documents that tie with the last of these are always among them.

    Args:
        scores: (N,) BM25 of every document; 0 shares no word with the query.
        row_ids: (N,) ascending, of the documents' items.
        columns: of all items.
        filters: to pass.
        k: how many at most.
    """
    matching = np.flatnonzero(scores > 0)
    positive, depth = scores[matching], max(k, FIRST_DEPTH)
    while True:
        doc_ids = matching[positive >= _kth_highest(positive, depth)]
        vector_ids = _find_sorted(columns.row_ids, row_ids[doc_ids])
        doc_ids, vector_ids = doc_ids[vector_ids >= 0], vector_ids[vector_ids >= 0]
        passing = columns.matches(filters, vector_ids)
        if np.count_nonzero(passing) >= k or depth >= len(matching):
            break
        depth *= FIRST_DEPTH
    doc_ids, vector_ids = doc_ids[passing], vector_ids[passing]
    best = top_k_places(vector_ids, scores[doc_ids], columns.item_ids, k)
    ids = [columns.item_ids[vector_id] for vector_id in vector_ids[best]]
    return top_k(map(Hit, row_ids[doc_ids[best]].tolist(), ids, scores[doc_ids[best]].tolist()), k)


def top_k_vectors(vector_ids: VectorIds, scores: NDArray[np.float64], columns: FilterColumns, k: int) -> Ranking:
    """Return the vectors with the highest scores.

    Args:
        vector_ids: (N,) in any order.
        scores: (N,) of these.
        columns: of all items.
        k: how many at most.
    """
    best = top_k_places(vector_ids, scores, columns.item_ids, k)
    pairs = zip(vector_ids[best].tolist(), scores[best].tolist(), strict=True)
    return top_k((Hit(RowId(int(columns.row_ids[i])), columns.item_ids[i], score) for i, score in pairs), k)


def top_k_field(columns: FilterColumns, field: TopField, filters: Filter, k: int) -> Ranking:
    """Return the items with the highest numbers in a field that pass a filter; none without a number."""
    vector_ids = np.flatnonzero(columns.matches(filters))
    numbers = columns.numbers(field)[vector_ids]
    present = ~np.isnan(numbers)
    return top_k_vectors(vector_ids[present], numbers[present], columns, k)


def top_k(hits: Iterable[Hit], k: int) -> Ranking:
    """Return the k best, by descending score, ties by item_id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.item_id))[:k]


def top_k_places(vector_ids: VectorIds, scores: NDArray[Any], item_ids: Sequence[str], k: int) -> list[int]:
    """Return the places of the k highest scores, in no order, ties by item_id; items of one day or one title may all tie."""
    if len(scores) <= k:
        return list(range(len(scores)))
    cut = np.partition(scores, -k)[-k]
    best: list[int] = np.flatnonzero(scores > cut).tolist()
    tied: list[int] = np.flatnonzero(scores == cut).tolist()
    return best + heapq.nsmallest(k - len(best), tied, key=lambda place: item_ids[int(vector_ids[place])])


def _kth_highest(scores: NDArray[np.float32], k: int) -> float:
    """Return the k-th highest of positive scores; 0 if there are fewer."""
    return float(np.partition(scores, -k)[-k]) if len(scores) > k else 0.0


def _find_sorted(ascending: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each value in an ascending array; -1 where it is missing."""
    if not len(ascending):
        return np.full(len(values), -1)
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.where(ascending[places] == values, places, -1)
