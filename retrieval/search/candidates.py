"""Candidates of a search from the index. Hybrid search falls back to one of its two lists when the other fails."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from retrieval.buyers.vector import BuyerVector, buyer_vector
from retrieval.contracts.documents import Vector
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import query_text
from retrieval.errors import GavelError, IndexMissing, IndexUnavailable, InvalidInput, TowerError
from retrieval.index.fusion import Fusion
from retrieval.index.port import Candidate, VectorIndex
from retrieval.index.ranking import fuse_candidates
from retrieval.search.context import SearchContext
from retrieval.search.request import Mode, SearchRequest

logger = logging.getLogger(__name__)

LISTS: tuple[Mode, Mode] = ("keyword", "semantic")  # of a hybrid search; keyword first, because it takes less time
OTHER_LIST: dict[Mode, Mode] = {"semantic": "keyword", "keyword": "semantic"}


def retrieve(index: VectorIndex, request: SearchRequest, vector: Vector | None, k: int) -> list[Candidate]:
    """Return the k best candidates by the mode of the request; by keywords if there is no vector."""
    text = query_text(request.query)
    if vector is None or request.mode == "keyword":
        return index.keyword(text, k, request.filters)
    if request.mode == "semantic":
        return index.semantic(vector, k, request.filters)
    return index.hybrid(text, vector, k, request.filters, request.fusion)


def retrieve_candidates(context: SearchContext, request: SearchRequest, vector: Vector | None, k: int) -> list[Candidate]:
    """Return the k best candidates by the mode of the request, from one list alone if the other one fails.

    Args:
        context: of the request; the list that failed becomes a failed component.
        request: checked.
        vector: (D,) float32, the query vector; None if the query could not be encoded.
        k: how many.

    Raises:
        IndexUnavailable: no list could be searched.
        TowerError: semantic search without a vector.
    """
    if vector is None and request.mode == "semantic":
        raise TowerError("the query could not be encoded; the log says why, and mode=keyword does without")
    mode = "keyword" if vector is None else request.mode
    try:
        return context.ask(mode, lambda index: retrieve(index, request, vector, k))
    except IndexMissing:
        raise
    except (IndexUnavailable, InvalidInput) as error:
        if mode != "hybrid":
            raise
        logger.warning("hybrid search failed, its two lists are searched one by one: %s", error)
    lists: dict[Mode, list[Candidate]] = {"keyword": [], "semantic": []}
    failures: list[GavelError] = []
    for name in LISTS:
        try:
            lists[name] = context.ask(name, partial(retrieve, request=replace(request, mode=name), vector=vector, k=k))
        except IndexMissing:
            raise
        except (IndexUnavailable, InvalidInput) as error:
            logger.warning("searching without the %s list: %s", name, error)
            context.fail(name)
            failures.append(error)
    if len(failures) == len(LISTS):
        raise IndexUnavailable(str(failures[0])) from failures[0]
    return fuse_candidates(lists["keyword"], lists["semantic"], request.fusion or Fusion(), k)


def retrieve_other_list(context: SearchContext, request: SearchRequest, vector: Vector | None, k: int) -> list[Candidate]:
    """Return the k best candidates of the list that the mode leaves out, for explanations; empty if it cannot be searched."""
    other = OTHER_LIST.get(request.mode)
    if other is None or vector is None or not query_text(request.query):  # a photo may come without words
        return []
    try:
        return context.ask(other, lambda index: retrieve(index, replace(request, mode=other), vector, k))
    except (IndexUnavailable, InvalidInput) as error:
        logger.warning("explained without the %s list: %s", other, error)
        return []


def fetch_items(context: SearchContext, item_ids: Sequence[str]) -> list[Candidate]:
    """Return the stored items of these ids; unknown ids are left out."""
    return context.ask("fetch", lambda index: index.fetch(item_ids))


def encode_interactions(context: SearchContext, interactions: Sequence[Interaction]) -> BuyerVector:
    """Encode a buyer from the stored vectors of the items of their interactions (buyers.buyer_vector).

    Equal interactions at equal distances in time give the same vector, so it is cached; unless an item is unknown, because it may
    be indexed any moment.

    Args:
        context: of the request.
        interactions: at least one.
    """
    latest = max(one.timestamp for one in interactions)
    key = context.active.index.name, tuple((one.item_id, one.weight, latest - one.timestamp) for one in interactions)
    vector = context.buyer_vectors.get(key)
    if vector is None:
        vector = buyer_vector(interactions, partial(fetch_items, context), context.active.buyer_tower)
        if not vector.unknown_items:
            context.buyer_vectors.put(key, vector)
    return vector
