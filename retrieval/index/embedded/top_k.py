"""Select the best items of a search in an embedded index, before their documents are read."""

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.embedded.database import RowId
from retrieval.index.embedded.filter_columns import FilterColumns, RowIds, VectorIds
from retrieval.index.filters import Filter
from retrieval.index.port import TopField

FIRST_DEPTH = 1_000  # best documents of a keyword search that are filtered first; 1,000 times as many if too few of them match


class Hit(NamedTuple):
    """An item of a ranking.

    Attributes:
        row_id: row id of the item in the database.
        item_id: id of the item.
        score: score of the item, see Candidate.score.
    """

    row_id: RowId
    item_id: str
    score: float


Ranking = Sequence[Hit]
"""Hits by descending score, ties by item_id."""


def top_k_keyword(scores: NDArray[np.float32], row_ids: RowIds, columns: FilterColumns, filters: Filter, k: int) -> Ranking:
    """Return the best documents of a keyword search that match the filters.

    A common word is in very many documents. So only the best documents are filtered at first, and more if fewer than k match.
    All documents that tie with the last filtered one are filtered, too.

    Args:
        scores: (N,) BM25 scores of all documents; 0 for a document that shares no word with the query.
        row_ids: (N,) row ids of the documents' items, ascending.
        columns: filter columns of all items.
        filters: conditions on the items.
        k: maximum number of hits.
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
    """Return the items of the vectors with the highest scores.

    Args:
        vector_ids: (N,) ids of vectors, in any order.
        scores: (N,) scores of these vectors.
        columns: filter columns of all items.
        k: maximum number of hits.
    """
    best = top_k_places(vector_ids, scores, columns.item_ids, k)
    pairs = zip(vector_ids[best].tolist(), scores[best].tolist(), strict=True)
    return top_k((Hit(RowId(int(columns.row_ids[i])), columns.item_ids[i], score) for i, score in pairs), k)


def top_k_field(columns: FilterColumns, field: TopField, filters: Filter, k: int) -> Ranking:
    """Return the matching items with the highest numbers in a field; items without a number are left out."""
    vector_ids = np.flatnonzero(columns.matches(filters))
    numbers = columns.numbers(field)[vector_ids]
    present = ~np.isnan(numbers)
    return top_k_vectors(vector_ids[present], numbers[present], columns, k)


def top_k(hits: Iterable[Hit], k: int) -> Ranking:
    """Return the k best hits, by descending score, ties by item_id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.item_id))[:k]


def top_k_places(vector_ids: VectorIds, scores: NDArray[Any], item_ids: Sequence[str], k: int) -> list[int]:
    """Return the indices of the k highest of (N,) scores, in no order.

    Ties are broken by item_id, and only tied ids are compared, because very many items may tie, such as those of one day.
    """
    if len(scores) <= k:
        return list(range(len(scores)))
    cut = np.partition(scores, -k)[-k]
    best: list[int] = np.flatnonzero(scores > cut).tolist()
    tied: list[int] = np.flatnonzero(scores == cut).tolist()
    return best + heapq.nsmallest(k - len(best), tied, key=lambda place: item_ids[int(vector_ids[place])])


def _kth_highest(scores: NDArray[np.float32], k: int) -> float:
    """Return the k-th highest of positive scores; 0 if there are at most k."""
    return float(np.partition(scores, -k)[-k]) if len(scores) > k else 0.0


def _find_sorted(ascending: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of each value in an ascending array; -1 for a value that is missing there."""
    if not len(ascending):
        return np.full(len(values), -1)
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.where(ascending[places] == values, places, -1)
