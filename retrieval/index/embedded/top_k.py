"""What searches of an embedded index find, before the lots themselves are read."""

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.embedded.filter_columns import FilterColumns
from retrieval.index.port import Filter, TopField

HELD_AGAINST_FILTER = 1_000  # lots of a keyword search, the best first; many times more where a filter leaves too few of them


class Hit(NamedTuple):
    """A lot that a search found.

    Attributes:
        position: in the database.
        item_id: of the lot.
        score: as Candidate.score.
    """

    position: int
    item_id: str
    score: float


Hits = Sequence[Hit]  # best first


def keyword_hits(
    scores: NDArray[np.float32], positions: NDArray[np.int64], columns: FilterColumns, filters: Filter, k: int
) -> Hits:
    """The best of a keyword search that pass a filter.

    A common word is in a great many lots, so that the best alone are looked at, and more of them only if the filter leaves fewer
    than k; lots that tie with the last one are always among them.

    Args:
        scores: (N,) BM25 of every document; 0 shares no word with the query.
        positions: (N,) ascending, where the documents' lots stand in the database.
        columns: what the filter asks of every lot.
        filters: the filter.
        k: how many hits at most.

    Returns:
        By descending score, ties by item_id.
    """
    found = np.flatnonzero(scores > 0)
    of_found, depth = scores[found], max(k, HELD_AGAINST_FILTER)
    while True:
        rows = found[of_found >= _kth_highest(of_found, depth)]
        slots = _find_sorted(columns.positions, positions[rows])
        rows, slots = rows[slots >= 0], slots[slots >= 0]
        passing = columns.allowed(filters, slots)
        if np.count_nonzero(passing) >= k or depth >= len(found):
            break
        depth *= HELD_AGAINST_FILTER
    rows, slots = rows[passing], slots[passing]
    best = best_places(slots, scores[rows], columns.item_ids, k)
    ids = [columns.item_ids[slot] for slot in slots[best]]
    hits = map(Hit, positions[rows[best]].tolist(), ids, scores[rows[best]].tolist())
    return best_hits(hits, k)


def best_hits(hits: Iterable[Hit], k: int) -> Hits:
    """The k best, by descending score, ties by item_id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.item_id))[:k]


def top_hits(columns: FilterColumns, field: TopField, filters: Filter, k: int) -> Hits:
    """The lots with the highest numbers that pass a filter, by descending number, ties by item_id; none without a number."""
    slots = np.flatnonzero(columns.allowed(filters))
    numbers = columns.numbers(field)[slots]
    slots, numbers = slots[~np.isnan(numbers)], numbers[~np.isnan(numbers)]
    best = slots[best_places(slots, numbers, columns.item_ids, k)].tolist()
    return best_hits((Hit(int(columns.positions[s]), columns.item_ids[s], float(columns.numbers(field)[s])) for s in best), k)


def best_places(slots: NDArray[np.int64], numbers: NDArray[Any], item_ids: Sequence[str], k: int) -> list[int]:
    """Which k of some slots have the highest numbers, ties by item_id, in no order; lots of one day or one title may all tie."""
    if len(numbers) <= k:
        return list(range(len(numbers)))
    cut = np.partition(numbers, -k)[-k]
    best: list[int] = np.flatnonzero(numbers > cut).tolist()
    tied: list[int] = np.flatnonzero(numbers == cut).tolist()
    return best + heapq.nsmallest(k - len(best), tied, key=lambda number: item_ids[int(slots[number])])


def _kth_highest(scores: NDArray[np.float32], k: int) -> float:
    """The k-th highest of some scores above 0; 0 where there are fewer."""
    return float(np.partition(scores, -k)[-k]) if len(scores) > k else 0.0


def _find_sorted(ascending: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted number stands in an ascending array; -1 where it does not."""
    if not len(ascending):
        return np.full(len(wanted), -1)
    places = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[places] == wanted, places, -1)
