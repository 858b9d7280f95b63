"""Why a lot stands where it does."""

import logging
import math
from collections.abc import Container, Mapping, Sequence

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

EXPECTED = "expected"  # the contribution that is the same for all: the score of a lot that nothing is known of


def explanations(
    lots: Sequence[Candidate],
    window: Sequence[Candidate],
    features: NDArray[np.float32],
    lists: Mapping[str, Sequence[Candidate]],
    *,
    named: Container[str],
    searched: Vector | None,
    ranker: Ranker | None,
    by_relevance: Sequence[str] = (),
) -> list[Explanation]:
    """Explain the lots of a page.

    Args:
        lots: those of the page.
        window: N candidates that were, or could have been, re-ranked, in first-stage order.
        features: (N, len(FEATURES)) float32 of the window.
        lists: "semantic" and "keyword" -> what each of them found alone, best first; a list that failed is empty.
        named: ids of the lots that the query named.
        searched: (D,) float32, what was searched with; None when the query could not be encoded.
        ranker: what re-ranked the window.
        by_relevance: ids of the window by score, before diversity moved them; empty without diversity.
    """
    places = {candidate.item_id: row for row, candidate in enumerate(window)}
    ranks = {name: {c.item_id: rank for rank, c in enumerate(found, 1)} for name, found in lists.items()}
    bm25 = {c.item_id: c.score for c in lists["keyword"]}
    unmoved = {item_id: rank for rank, item_id in enumerate(by_relevance, 1)}
    contributions = _contributions(ranker, features)
    similarities = [None] * len(lots) if searched is None else cosines(searched, lots)
    told = []
    for lot, cosine in zip(lots, similarities, strict=True):
        row = places.get(lot.item_id)
        told.append(
            Explanation(
                named_by_id=lot.item_id in named,
                first_stage_rank=None if row is None else row + 1,
                relevance_rank=unmoved.get(lot.item_id),
                fused_score=None if row is None else window[row].score,
                semantic_rank=ranks["semantic"].get(lot.item_id),
                cosine=cosine,
                keyword_rank=ranks["keyword"].get(lot.item_id),
                bm25=bm25.get(lot.item_id),
                features=None if row is None else _by_name(features[row]),
                contributions=None if row is None or contributions is None else contributions[row],
            )
        )
    return told


def _contributions(ranker: Ranker | None, features: NDArray[np.float32]) -> list[dict[str, float]] | None:
    if not isinstance(ranker, ExplainingRanker) or not len(features):
        return None
    try:
        rows = ranker.explain(features)  # (N, F + 1)
    except RankerUnavailable as error:
        logger.warning("explained without the re-ranker: %s", error)
        return None
    return [dict(zip((*FEATURES, EXPECTED), (float(value) for value in row), strict=True)) for row in rows]


def _by_name(row: NDArray[np.float32]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else float(value) for name, value in zip(FEATURES, row, strict=True)}
