"""Random filters like those of a shop: independent of the vectors, or whole categories near a query or far from it."""

from typing import Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.index.port import Mask

Kind = Literal["independent", "own", "other", "opposite"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CATEGORIES = 1_000
NEAR = 0.1  # share of the categories that count as near a query and come last in "other"
SEED = 11


class Filters:
    """Random masks over vectors.

    The kind of a filter says which vectors pass:

    - "independent": random vectors;
    - "own": the categories nearest to the query;
    - "other": random categories, with those near the query last;
    - "opposite": the farthest categories first, so that the query's neighbourhood is excluded.

    Args:
        vectors: (N, D) unit vectors. The category of a vector is the nearest of 1,000 random vectors among them.
    """

    def __init__(self, vectors: Vector) -> None:
        self._rng = np.random.default_rng(SEED)
        centres = np.sort(self._rng.choice(len(vectors), min(CATEGORIES, len(vectors)), replace=False))
        self._centres: Vector = np.ascontiguousarray(vectors[centres])  # (C, D)
        nearest = faiss.IndexFlatIP(vectors.shape[1])
        nearest.add(self._centres)
        self._category: NDArray[np.int64] = nearest.search(np.ascontiguousarray(vectors), 1)[1][:, 0]  # (N,)
        self._sizes = np.bincount(self._category, minlength=len(centres))

    def draw(self, kind: Kind, share: float, query: Vector) -> Mask:
        """Return a (N,) bool mask with round(share * N) True values, at least one.

        Args:
            kind: relation of the passing vectors to the query.
            share: share of the vectors that pass, in (0, 1].
            query: (D,) unit vector.
        """
        size = len(self._category)
        count = max(round(share * size), 1)
        mask = np.zeros(size, dtype=bool)
        if kind == "independent":
            mask[self._rng.choice(size, count, replace=False)] = True
            return mask
        order = self._order(kind, query)
        complete = int(np.searchsorted(np.cumsum(self._sizes[order]), count, side="right"))  # categories that pass whole
        passes = np.zeros(len(order), dtype=bool)
        passes[order[:complete]] = True
        mask |= passes[self._category]
        if missing := count - int(self._sizes[order[:complete]].sum()):
            mask[np.flatnonzero(self._category == order[complete])[:missing]] = True
        return mask

    def _order(self, kind: Kind, query: Vector) -> NDArray[np.int64]:
        by_distance: NDArray[np.int64] = np.argsort(-(self._centres @ query), kind="stable")
        if kind == "own":
            return by_distance
        if kind == "opposite":
            return by_distance[::-1]
        near = max(round(NEAR * len(by_distance)), 1)
        return np.concatenate([self._rng.permutation(by_distance[near:]), by_distance[:near]])
