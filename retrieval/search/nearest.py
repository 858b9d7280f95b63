"""Lots without a query: the nearest to a vector, or where nothing is known to be near to, the popular and the fresh ones."""

from collections.abc import Collection, Iterator
from itertools import islice, zip_longest

from retrieval.contracts.documents import Vector
from retrieval.deadline import Deadline
from retrieval.index.port import Candidate, Filter
from retrieval.search.candidates import FirstStage
from retrieval.search.live_index import ActiveIndex
from retrieval.search.pipeline import Scored, ranked, timed
from retrieval.search.response import SearchAnswer, Source


def nearest_items(
    first_stage: FirstStage,
    live: ActiveIndex,
    vector: Vector,
    k: int,
    filters: Filter,
    deadline: Deadline,
    *,
    exclude_ids: Collection[str] = (),
    source: Source | None = None,
) -> SearchAnswer:
    """The lots nearest to a vector.

    Args:
        first_stage: how the index is asked.
        live: what is searched.
        vector: (D,) float32 of unit length.
        k: how many, checked.
        filters: which lots may come back, checked.
        deadline: of the whole request.
        exclude_ids: item ids that are left out.
        source: what the answer shall say that it was found by.

    Raises:
        IndexUnavailable: the index does not answer.
    """
    timings: dict[str, float] = {}
    with timed(timings, "total"), timed(timings, "retrieve"):
        found = first_stage.nearest(live.index, vector, k + len(exclude_ids), filters, deadline)
    chosen = [candidate for candidate in found if candidate.item_id not in exclude_ids][:k]
    results = ranked([(c, c.score) for c in chosen], vector)
    return SearchAnswer(results, live.index.tower_id, "semantic", False, [], timings, source=source)


def popular_and_fresh(
    first_stage: FirstStage, live: ActiveIndex, k: int, filters: Filter, deadline: Deadline, *, exclude_ids: Collection[str] = ()
) -> SearchAnswer:
    """The lots with the most bids and the newest ones in turn, each once; a lot that nobody has bid on is not popular.

    Arguments and errors as nearest_lots()'s. A lot's score is 1 / its place in the list of the two that brought it.
    """
    timings: dict[str, float] = {}
    with timed(timings, "total"), timed(timings, "retrieve"):
        depth = k + len(exclude_ids)
        popular = [c for c in first_stage.top(live.index, "bid_count", depth, filters, deadline) if c.score > 0]
        fresh = first_stage.top(live.index, "listed_at", depth, filters, deadline)
    chosen = islice((scored for scored in _in_turn(popular, fresh) if scored[0].item_id not in exclude_ids), k)
    results = ranked(list(chosen), None)
    return SearchAnswer(results, live.index.tower_id, "semantic", False, [], timings, source="popular_and_fresh")


def _in_turn(*lists: list[Candidate]) -> Iterator[Scored]:
    """The lots of several lists, one of each in turn, each lot where it comes first."""
    seen: set[str] = set()
    for place, row in enumerate(zip_longest(*lists), 1):
        for candidate in row:
            if candidate is not None and candidate.item_id not in seen:
                seen.add(candidate.item_id)
                yield candidate, 1 / place
