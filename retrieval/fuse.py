"""Fusion of ranked lists."""

from collections import defaultdict
from collections.abc import Sequence


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]], k: int = 60) -> list[tuple[str, float]]:
    """Fuse ranked lists of item ids by reciprocal rank (Cormack et al., SIGIR 2009).

    Args:
        rankings: one list of item ids per retriever, best first; an id may be missing from a list.
        k: rank constant, > 0; larger values flatten the head.

    Returns:
        (item_id, score) by descending score, ties by item_id; scores lie in (0, len(rankings) / (k + 1)].
    """
    scores: dict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, item_id in enumerate(ranking, 1):
            scores[item_id] += 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
