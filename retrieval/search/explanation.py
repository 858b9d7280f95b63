"""Explain the place of each item of a page."""

import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.errors import RankerUnavailable
from retrieval.index.port import Candidate
from retrieval.index.ranking import cosines
from retrieval.ranker.features import FEATURES
from retrieval.ranker.port import ExplainingRanker, Ranker
from retrieval.search.response import Explanation

logger = logging.getLogger(__name__)

EXPECTED = "expected"  # name of the contribution that all items share: the mean score, before any feature counts


def explain_items(
    items: Sequence[Candidate],
    rerank_candidates: Sequence[Candidate],
    features: NDArray[np.float32],
    other_list: Sequence[Candidate],
    *,
    exact_id_match: Candidate | None,
    search_vector: Vector | None,
    ranker: Ranker | None,
    by_relevance: Sequence[str] = (),
    cross_scores: Mapping[str, float] = MappingProxyType({}),
) -> list[Explanation]:
    """Explain the items of a page.

    Args:
        items: items of the page.
        rerank_candidates: N candidates that were re-ranked, or would have been with a re-ranker, in the order of retrieval.
        features: (N, len(FEATURES)) float32, the features of these candidates.
        other_list: candidates of the list that the mode leaves out, best first; empty in hybrid mode, because its candidates have
            their ranks in both lists.
        exact_id_match: item whose id is the query; None if there is none.
        search_vector: (D,) float32, the vector that was searched with; None if the query could not be encoded.
        ranker: re-ranker of the request; None if it asks for none, or there is none.
        by_relevance: ids of the rerank candidates by score, before diversity moved them; empty without diversity.
        cross_scores: item_id -> score of the cross-encoder; empty without one.
    """
    rows = {candidate.item_id: row for row, candidate in enumerate(rerank_candidates)}
    others = {candidate.item_id: candidate for candidate in other_list}
    relevance_ranks = {item_id: rank for rank, item_id in enumerate(by_relevance, 1)}
    contributions = _contributions(ranker, features)
    similarities = [None] * len(items) if search_vector is None else cosines(search_vector, items)
    explanations = []
    for item, cosine in zip(items, similarities, strict=True):
        row = rows.get(item.item_id)
        candidate = item if row is None else rerank_candidates[row]  # an exact match was fetched by its id and has no ranks
        other = others.get(item.item_id, candidate)
        explanations.append(
            Explanation(
                named_by_id=exact_id_match is not None and item.item_id == exact_id_match.item_id,
                first_stage_rank=None if row is None else row + 1,
                relevance_rank=relevance_ranks.get(item.item_id),
                fused_score=None if row is None else candidate.score,
                semantic_rank=candidate.semantic_rank or other.semantic_rank,
                cosine=cosine,
                keyword_rank=candidate.keyword_rank or other.keyword_rank,
                bm25=other.bm25 if candidate.bm25 is None else candidate.bm25,
                features=None if row is None else _features_by_name(features[row]),
                contributions=None if row is None or contributions is None else contributions[row],
                cross_encoder_score=cross_scores.get(item.item_id),
            )
        )
    return explanations


def _contributions(ranker: Ranker | None, features: NDArray[np.float32]) -> list[dict[str, float]] | None:
    if not isinstance(ranker, ExplainingRanker) or not len(features):
        return None
    try:
        rows = ranker.explain(features)  # (N, F + 1)
    except RankerUnavailable as error:
        logger.warning("explained without the re-ranker: %s", error)
        return None
    return [dict(zip((*FEATURES, EXPECTED), (float(value) for value in row), strict=True)) for row in rows]


def _features_by_name(row: NDArray[np.float32]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else float(value) for name, value in zip(FEATURES, row, strict=True)}
