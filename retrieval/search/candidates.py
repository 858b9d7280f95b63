"""Candidates of a search from the index. If one of the two lists of a hybrid search fails, the other one is used."""

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


def retrieve(index: VectorIndex, request: SearchRequest, vector: Vector | None, k: int, text: str = "") -> list[Candidate]:
    """Return the k best candidates by the mode of the request; without a vector always by keywords, `text` or the query."""
    text = text or query_text(request.query)
    if vector is None or request.mode == "keyword":
        return index.keyword(text, k, request.filters)
    if request.mode == "semantic":
        return index.semantic(vector, k, request.filters)
    return index.hybrid(text, vector, k, request.filters, request.fusion)


def retrieve_candidates(
    context: SearchContext, request: SearchRequest, vector: Vector | None, k: int, text: str = ""
) -> list[Candidate]:
    """Return the k best candidates of the request's mode.

    If the semantic or the keyword half of a hybrid search fails, the candidates are those of the other half.

    Args:
        context: context of the request; a failed half is recorded as a failed component.
        request: checked request.
        vector: (D,) float32, the query vector; None if the query could not be encoded.
        k: maximum number of candidates.
        text: text of the keyword search; empty takes the query.

    Raises:
        IndexUnavailable: nothing could be searched.
        TowerError: the mode is semantic, and there is no vector.
    """
    if vector is None and request.mode == "semantic":
        raise TowerError("the query could not be encoded; the log says why, and mode=keyword does without")
    mode = "keyword" if vector is None else request.mode
    try:
        return context.ask(mode, lambda index: retrieve(index, request, vector, k, text))
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
            lists[name] = context.ask(name, partial(retrieve, request=replace(request, mode=name), vector=vector, k=k, text=text))
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
    """Encode a buyer from the stored vectors of the items of their interactions; see buyers.vector.buyer_vector().

    Vectors are cached, because the same interactions at the same distances in time give the same vector. A vector is not cached if
    an item is unknown, because that item may be indexed at any moment.

    Args:
        context: context of the request.
        interactions: interactions of the buyer, at least one.

    Raises:
        InvalidQuery: no item of the interactions is known, or their vectors cancel each other out.
        IndexUnavailable: the index does not answer.
    """
    latest = max(one.timestamp for one in interactions)
    key = context.active.index.name, tuple((one.item_id, one.weight, latest - one.timestamp) for one in interactions)
    vector = context.buyer_vectors.get(key)
    if vector is None:
        vector = buyer_vector(interactions, partial(fetch_items, context), context.active.buyer_tower)
        if not vector.unknown_items:
            context.buyer_vectors.put(key, vector)
    return vector
