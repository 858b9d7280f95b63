"""Order candidates by the re-ranker, and diversify the result."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

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


def spread(context: SearchContext, ranking: Sequence[Scored], diversity: Diversity, k: int | None = None) -> list[Scored]:
    """Return the first k candidates of a ranking in the order of diversify(), with their scores; k=None returns all."""
    with context.timed("diversify"):
        relevance = np.array([score for _, score in ranking], dtype=np.float32)  # (N,)
        return [ranking[i] for i in diversify([candidate for candidate, _ in ranking], relevance, diversity, k)]
