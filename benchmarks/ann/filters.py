"""Filters as a shop has them, drawn for one query: independent of the vectors, or whole categories that lie near to it or far."""

from typing import Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.index.port import Mask

Kind = Literal["independent", "own", "other", "opposite"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CATEGORIES = 1_000
NEAR = 0.1  # of the categories, the nearest to a query, come last among others
SEED = 11


class Filters:
    """Masks over vectors, each of a given share.

    independent lets lots through by chance; own the categories nearest to the query; other categories at random, those near to
    the query last; opposite the farthest first, so that whatever is left out is the query's own neighbourhood.

    Args:
        vectors: (N, D) of unit length; a lot's category is the nearest of 1,000 lots that are drawn.
    """

    def __init__(self, vectors: Vector) -> None:
        self._rng = np.random.default_rng(SEED)
        drawn = np.sort(self._rng.choice(len(vectors), min(CATEGORIES, len(vectors)), replace=False))
        self._middles: Vector = np.ascontiguousarray(vectors[drawn])  # (C, D)
        nearest = faiss.IndexFlatIP(vectors.shape[1])
        nearest.add(self._middles)
        self._category: NDArray[np.int64] = nearest.search(np.ascontiguousarray(vectors), 1)[1][:, 0]  # (N,)
        self._sizes = np.bincount(self._category, minlength=len(drawn))

    def draw(self, kind: Kind, share: float, query: Vector) -> Mask:
        """(N,) bool with round(share * N) lots, at least one.

        Args:
            kind: how it lies to the query.
            share: in (0, 1].
            query: (D,) of unit length.
        """
        size = len(self._category)
        count = max(round(share * size), 1)
        mask = np.zeros(size, dtype=bool)
        if kind == "independent":
            mask[self._rng.choice(size, count, replace=False)] = True
            return mask
        order = self._order(kind, query)
        whole = int(np.searchsorted(np.cumsum(self._sizes[order]), count, side="right"))  # categories that pass whole
        passes = np.zeros(len(order), dtype=bool)
        passes[order[:whole]] = True
        mask |= passes[self._category]
        if missing := count - int(self._sizes[order[:whole]].sum()):
            mask[np.flatnonzero(self._category == order[whole])[:missing]] = True
        return mask

    def _order(self, kind: Kind, query: Vector) -> NDArray[np.int64]:
        by_distance: NDArray[np.int64] = np.argsort(-(self._middles @ query), kind="stable")
        if kind == "own":
            return by_distance
        if kind == "opposite":
            return by_distance[::-1]
        near = max(round(NEAR * len(by_distance)), 1)
        return np.concatenate([self._rng.permutation(by_distance[near:]), by_distance[:near]])
