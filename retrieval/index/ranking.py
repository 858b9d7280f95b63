"""Scores and order of candidates, the same for every adapter."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.index.fusion import Fusion, fuse
from retrieval.index.port import Candidate

SCORE_DECIMALS = 6  # decimals of a cosine; in further ones engines differ, because they sum in different orders


def rank_by_cosine(vector: Vector, candidates: Iterable[Candidate], k: int) -> list[Candidate]:
    """Score candidates by the exact cosine with their stored vectors, and sort them.

    Engines round and scale their scores differently; this gives one answer.

    Args:
        vector: (dimensions,) float32, with any norm above 0.
        candidates: candidates with their stored vectors, in any order.
        k: maximum number of candidates to return.

    Returns:
        At most k candidates by descending cosine, rounded to 6 decimals and clipped to [-1, 1]; ties by item_id.
    """
    unscored = list(candidates)
    scored = [Candidate(c.item_id, s, c.document, c.vector) for c, s in zip(unscored, cosines(vector, unscored), strict=True)]
    return sort_by_score(scored)[:k]


def cosines(vector: Vector, candidates: Sequence[Candidate]) -> list[float]:
    """Return the exact cosines of a (dimensions,) vector with the candidates' vectors, in [-1, 1], rounded to 6 decimals."""
    if not candidates:
        return []
    cosines: list[float] = cosines_with(vector, np.stack([c.vector for c in candidates])).tolist()
    return cosines


def cosines_with(vector: Vector, stored: Vector) -> NDArray[np.float64]:
    """Return (N,) float64: the exact cosines of a (D,) vector with (N, D) others, in [-1, 1], rounded to 6 decimals."""
    others, query = stored.astype(np.float64), vector.astype(np.float64)
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(query)  # (N,)
    rounded: NDArray[np.float64] = np.round(others @ query / np.maximum(lengths, 1e-12), SCORE_DECIMALS)
    return np.clip(rounded, -1.0, 1.0)


class Scored(Protocol):
    """An item of a ranked list."""

    @property
    def item_id(self) -> str:
        """Return the id of the item."""

    @property
    def score(self) -> float:
        """Return the value that orders the list."""


def scores_of(ranking: Sequence[Scored]) -> list[tuple[str, float]]:
    """Return (item_id, score) of every item, in the order of the ranking, as fuse() takes them."""
    return [(item.item_id, item.score) for item in ranking]


def add_ranks(candidates: Sequence[Candidate], semantic: Sequence[Scored] = (), keyword: Sequence[Scored] = ()) -> list[Candidate]:
    """Return candidates with their ranks in the lists that they come from.

    Args:
        candidates: candidates in any order.
        semantic: the semantic list, best first.
        keyword: the keyword list, best first; its scores are BM25.

    Returns:
        Copies of the candidates in the same order, with `semantic_rank`, `keyword_rank` and `bm25`.
    """
    semantic_ranks = {c.item_id: rank for rank, c in enumerate(semantic, 1)}
    keyword_ranks = {c.item_id: rank for rank, c in enumerate(keyword, 1)}
    bm25 = {c.item_id: c.score for c in keyword}
    return [
        Candidate(
            *(c.item_id, c.score, c.document, c.vector),
            bm25=bm25.get(c.item_id),
            keyword_rank=keyword_ranks.get(c.item_id),
            semantic_rank=semantic_ranks.get(c.item_id),
        )
        for c in candidates
    ]


def fuse_candidates(keyword: Sequence[Candidate], semantic: Sequence[Candidate], fusion: Fusion, k: int) -> list[Candidate]:
    """Return the k best of two fused lists, with their ranks in both."""
    by_id = {candidate.item_id: candidate for candidate in (*keyword, *semantic)}
    fused = fuse(scores_of(keyword), scores_of(semantic), fusion)[:k]
    best = [Candidate(item_id, score, by_id[item_id].document, by_id[item_id].vector) for item_id, score in fused]
    return add_ranks(best, semantic, keyword)


def sort_by_score(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Sort candidates by descending score, ties by item_id."""
    return sorted(candidates, key=lambda c: (-c.score, c.item_id))
