"""Order candidates by the re-ranker, the best of them by the cross-encoder, and diversify the result."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import TEXT_FIELD
from retrieval.errors import RankerUnavailable
from retrieval.index.port import Candidate
from retrieval.ranker.port import Ranker
from retrieval.search.context import SearchContext
from retrieval.search.diversification import Diversity, diversify

logger = logging.getLogger(__name__)

Scored = tuple[Candidate, float]


def rerank(
    context: SearchContext,
    ranker: Ranker | None,
    candidates: Sequence[Candidate],
    compute_features: Callable[[Sequence[Candidate]], NDArray[np.float32]],
) -> tuple[list[Scored], bool]:
    """Order candidates by the scores of the re-ranker; equal ones stay in the order of retrieval.

    Args:
        context: context of the request; a re-ranker that does not answer becomes a failed component.
        ranker: re-ranker; None keeps the order of retrieval.
        candidates: N candidates in the order of retrieval.
        compute_features: candidates -> their features, (N, len(FEATURES)) float32.

    Returns:
        The candidates with their scores, best first; and True if these are scores of the re-ranker, False for those of retrieval.
    """
    if ranker is not None and candidates:
        with context.timed("rerank"):
            try:
                if context.deadline.left() <= 0:
                    raise RankerUnavailable("the time of this search was used up")
                with context.circuits["rerank"].guard():
                    scores = ranker.score(compute_features(candidates))  # (N,)
                return [(candidates[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")], True
            except RankerUnavailable as error:
                logger.warning("answered without the re-ranker: %s", error)
                context.fail("rerank")
    return [(candidate, candidate.score) for candidate in candidates], False


def cross_encode(context: SearchContext, query: str, ranking: Sequence[Scored]) -> tuple[list[Scored], dict[str, float]]:
    """Order the first candidates of a ranking by the cross-encoder; the others follow as they are.

    Args:
        context: context of the request; a cross-encoder that does not answer in time becomes a failed component.
        query: cleaned query.
        ranking: candidates with their scores, best first.

    Returns:
        The candidates with their scores, best first; and item_id -> score of the cross-encoder, empty if it gave none.
    """
    cross_encoder, first = context.active.cross_encoder, ranking[: context.limits.cross_encoder_candidates]
    if cross_encoder is None or not first:
        return list(ranking), {}
    with context.timed("cross_encode"):
        try:
            timeout_s = min(context.limits.cross_encoder_timeout_s, context.deadline.left())
            if timeout_s <= 0:
                raise RankerUnavailable("the time of this search was used up")
            with context.circuits["cross_encode"].guard():
                texts = [str(candidate.document.get(TEXT_FIELD, "")) for candidate, _ in first]
                scores = cross_encoder.score_pairs(query, texts, timeout_s)  # (N,)
        except RankerUnavailable as error:
            logger.warning("answered without the cross-encoder: %s", error)
            context.fail("cross_encoder")
            return list(ranking), {}
    best = [(first[i][0], float(scores[i])) for i in np.argsort(-scores, kind="stable")]
    return [*best, *ranking[len(first) :]], {candidate.item_id: score for candidate, score in best}


def spread(
    context: SearchContext, ranking: Sequence[Scored], diversity: Diversity, k: int | None = None, *, mixed_scores: bool = False
) -> list[Scored]:
    """Return the first k candidates of a ranking in the order of diversify(), with their scores; k=None returns all.

    In a ranking whose first scores are of the cross-encoder and the others of the re-ranker, ranks are the relevance.
    """
    with context.timed("diversify"):
        relevance = np.array([score for _, score in ranking], dtype=np.float32)  # (N,)
        if mixed_scores:
            relevance = -np.arange(len(ranking), dtype=np.float32)
        return [ranking[i] for i in diversify([candidate for candidate, _ in ranking], relevance, diversity, k)]
