"""Answer one query: retrieve candidates from the index and re-rank the best of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from retrieval.buyers.vector import personalise
from retrieval.contracts.buyer_habits import BuyerHabits
from retrieval.contracts.documents import Vector, listed_fields
from retrieval.contracts.items import query_text
from retrieval.errors import IndexUnavailable, InvalidInput, InvalidQuery
from retrieval.index.filters import matches
from retrieval.index.port import Candidate
from retrieval.index.ranking import cosines
from retrieval.ranker.features import feature_matrix
from retrieval.search.candidates import encode_interactions, fetch_items, retrieve_candidates, retrieve_other_list
from retrieval.search.context import SearchContext
from retrieval.search.expansion import expand_query
from retrieval.search.explanation import explain_items
from retrieval.search.request import MAX_OFFSET, MAX_REACH, SearchRequest
from retrieval.search.reranking import Scored, cross_encode, rerank, spread
from retrieval.search.response import Explanation, SearchAnswer, SearchResult
from retrieval.text.spelling import corrected, doubtful_words

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Query:
    """A request with its vectors.

    Attributes:
        request: checked request.
        vector: (D,) query vector; None if the query could not be encoded.
        search_vector: (D,) vector to search with: the query vector, moved towards the buyer vector if there is one.
        buyer: (D,) buyer vector; None without interactions.
        habits: the buyer's habits; None without interactions.
        unknown_items: item ids of the interactions that no item has.
    """

    request: SearchRequest
    vector: Vector | None
    search_vector: Vector | None
    buyer: Vector | None = None
    habits: BuyerHabits | None = None
    unknown_items: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Retrieved:
    """Candidates of a query.

    Attributes:
        rerank_candidates: best candidates, in the order of retrieval.
        exact_id_match: item whose id is the query, which gets the first rank; None if there is none.
        tail: candidates after these, in the order of retrieval; fetched only if the page reaches them.
        has_more: True if the tail was not fetched and may have candidates.
    """

    rerank_candidates: Sequence[Candidate]
    exact_id_match: Candidate | None
    tail: Sequence[Candidate]
    has_more: bool


def answer_request(context: SearchContext, request: SearchRequest, vector: Vector | None) -> SearchAnswer:
    """Answer a checked request.

    All pages are cut from one list: the rerank candidates in the order of the re-ranker, diversified if requested, then the others
    of the MAX_REACH best in the order of retrieval.

    Args:
        context: context of the request.
        request: checked request, whose filters have a `now`.
        vector: (D,) float32, the query vector; None if the query could not be encoded.

    Raises:
        TowerError: the mode is semantic, and there is no vector.
        IndexUnavailable: the index does not answer.
    """
    ranker = context.active.ranker if request.rerank else None
    diversity = request.diversity if request.diversity is not None and request.diversity.is_active else None
    end = request.offset + request.k
    with context.timed("total", span="answer"):
        expanded = expand_query(context, request)
        with context.timed("retrieve"):
            query = _personalised(context, request, vector)
            retrieved = _retrieved(context, query, expanded.text)
        candidates = retrieved.rerank_candidates
        by_relevance, reranked = rerank(context, ranker, candidates, partial(_features, query))
        cross_scores: dict[str, float] = {}
        if request.rerank:
            by_relevance, cross_scores = cross_encode(context, query_text(request.query), by_relevance)
        ranking = by_relevance
        if diversity is not None:
            ranking = spread(context, by_relevance, diversity, mixed_scores=bool(cross_scores))
        ranking = _with_exact_match_and_tail(ranking, retrieved)
        page = ranking[request.offset : end]
        did_you_mean = _did_you_mean(context, request, retrieved)
        explanations: Sequence[Explanation | None] = [None] * len(page)
        if request.explain:
            explanations = explain_items(
                [candidate for candidate, _ in page],
                candidates,
                _features(query, candidates),
                retrieve_other_list(context, request, query.search_vector, context.limits.rerank_candidates),
                exact_id_match=retrieved.exact_id_match,
                search_vector=query.search_vector,
                ranker=ranker,
                by_relevance=[c.item_id for c, _ in by_relevance] if diversity is not None else [],
                cross_scores=cross_scores,
            )
        results = search_results(page, vector, request.offset, explanations)
    return SearchAnswer(
        results=results,
        tower_id=context.active.index.tower_id,
        mode=request.mode,
        reranked=reranked or bool(cross_scores),
        failed_components=context.failed_components,
        timings_ms=context.timings_ms,
        next_offset=end if end <= MAX_OFFSET and (len(ranking) > end or retrieved.has_more) else None,
        unknown_items=query.unknown_items,
        did_you_mean=did_you_mean,
        expansion_terms=expanded.terms if request.explain else (),
    )


def search_results(
    page: Sequence[Scored], vector: Vector | None, offset: int = 0, explanations: Sequence[Explanation | None] = ()
) -> list[SearchResult]:
    """Return the results of a page.

    Args:
        page: candidates of the page with their scores, best first.
        vector: (D,) float32, the query vector; None leaves the similarities out.
        offset: number of items before the page.
        explanations: one explanation per item; empty for none.
    """
    similarities = [None] * len(page) if vector is None else cosines(vector, [c for c, _ in page])
    return [
        SearchResult(rank, c.item_id, score, similarity, listed_fields(c.document), explanation)
        for rank, ((c, score), similarity, explanation) in enumerate(
            zip(page, similarities, explanations or [None] * len(page), strict=True), offset + 1
        )
    ]


def _personalised(context: SearchContext, request: SearchRequest, vector: Vector | None) -> _Query:
    """Return the request with its vectors; the search vector is moved towards the items that the buyer interacted with."""
    query = _Query(request, vector, vector)
    if vector is None:
        if request.mode == "hybrid":
            context.fail("semantic")
        return query
    if not request.recent:
        return query
    try:
        buyer = encode_interactions(context, request.recent)
    except InvalidQuery:  # none of these items exists any more, but the words can be searched for
        return _Query(request, vector, vector, unknown_items=list(dict.fromkeys(one.item_id for one in request.recent)))
    except IndexUnavailable as error:
        logger.warning("searching without the buyer's interactions: %s", error)
        context.fail("buyer")
        return query
    return _Query(request, vector, personalise(vector, buyer.vector), buyer.vector, buyer.habits, buyer.unknown_items)


def _retrieved(context: SearchContext, query: _Query, text: str) -> _Retrieved:
    request, count = query.request, context.limits.rerank_candidates
    candidates = retrieve_candidates(context, request, query.search_vector, count, text)
    match = _exact_id_match(context, request)
    item_ids = {candidate.item_id for candidate in candidates} | ({match.item_id} if match else set())
    full = len(candidates) >= count
    if not full or request.offset + request.k <= len(item_ids):
        return _Retrieved(candidates, match, [], has_more=full)
    further = retrieve_candidates(context, request, query.search_vector, MAX_REACH, text)
    return _Retrieved(candidates, match, [c for c in further if c.item_id not in item_ids], has_more=False)


def _exact_id_match(context: SearchContext, request: SearchRequest) -> Candidate | None:
    """Return the item whose id is the query, if it matches the filters, else None."""
    if not request.exact_id:
        return None
    try:
        items = fetch_items(context, [request.exact_id])
    except IndexUnavailable as error:
        logger.warning("searching without a look for the lot of that id: %s", error)
        return None
    return next((item for item in items if matches(request.filters, item.document)), None)


def _features(query: _Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
    """Return the (N, F) features of candidates. The similarity is missing (NaN) if the query could not be encoded."""
    vector = query.vector
    if vector is None:
        vector = np.full(candidates[0].vector.shape if candidates else (0,), np.nan, dtype=np.float32)
    return feature_matrix(query.request.query, vector, candidates, query.request.filters.moment(), query.buyer, query.habits)


def _with_exact_match_and_tail(ranking: Sequence[Scored], retrieved: _Retrieved) -> list[Scored]:
    """Return the list that pages are cut from: the exact match, the rest of the ranking, the tail."""
    match = retrieved.exact_id_match
    tail = [(c, c.score) for c in retrieved.tail]
    if match is None:
        return [*ranking, *tail]
    score = next((score for c, score in ranking if c.item_id == match.item_id), match.score)
    return [(match, score), *((c, score) for c, score in ranking if c.item_id != match.item_id), *tail]


def _did_you_mean(context: SearchContext, request: SearchRequest, retrieved: _Retrieved) -> str | None:
    """Suggest a corrected query, or None. First page only, for query words that occur in no candidate."""
    if retrieved.exact_id_match or request.offset:
        return None
    text = query_text(request.query)
    words = doubtful_words(text, [candidate.document for candidate in retrieved.rerank_candidates])
    if not words:
        return None
    with context.timed("spelling"):
        try:
            corrections = context.ask("spelling", lambda index: index.corrections(words))
        except (IndexUnavailable, InvalidInput) as error:
            logger.warning("searching without a look at the spelling: %s", error)
            corrections = {}
        return corrected(text, corrections)
