"""Diversity: a list whose lots differ, by maximal marginal relevance, and no label that fills the first page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidQuery
from retrieval.index.port import Candidate
from retrieval.text.analysis import fold_label

MAX_PER_LABEL = 100
LABELS = ("brand", "seller")  # fields of a document that can be capped


@dataclass(frozen=True, slots=True)
class Diversity:
    """How much the lots of an answer shall differ.

    Attributes:
        strength: 0 to 1. 0 leaves the order of the scores; 1 looks, after the first lot, at unlikeness alone.
        most_per_brand: lots of one brand before every lot of the others, 1 to 100; None caps nothing.
        most_per_seller: the same of one seller. A lot without brand or seller is capped by none.

    Raises:
        InvalidQuery: a value is out of its limits.
    """

    strength: float = 0.0
    most_per_brand: int | None = None
    most_per_seller: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InvalidQuery(f"diversity is {self.strength}; allowed are numbers from 0 to 1")
        for label, most in self.caps.items():
            if not 1 <= most <= MAX_PER_LABEL:
                raise InvalidQuery(f"the most lots of one {label} are {most}; allowed are 1 to {MAX_PER_LABEL}")

    @property
    def is_active(self) -> bool:
        """True if it changes any order."""
        return self.strength > 0 or bool(self.caps)

    @property
    def caps(self) -> dict[str, int]:
        """Field -> lots of one label of it that come first."""
        given = zip(LABELS, (self.most_per_brand, self.most_per_seller), strict=True)
        return {label: most for label, most in given if most is not None}


def diversify(candidates: Sequence[Candidate], scores: NDArray[np.float32], diversity: Diversity) -> list[int]:
    """Order candidates by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998) under a cap a label.

    Each place goes to the lot with the highest (1 - strength) * relevance - strength * (cosine with the likest lot above it).
    Relevance is the score, brought to 0 to 1 over the candidates, for a re-ranker's scores have no scale of their own. A lot
    whose label has had its places comes after all that have not, and is not dropped: a short list helps nobody. The first
    places do not depend on how many follow, so pages of one list fit together.

    Args:
        candidates: N candidates with vectors of unit length.
        scores: (N,) float32, higher is better; equal ones keep the candidates' order.
        diversity: how much they differ.

    Returns:
        The numbers 0 to N - 1 in the new order, the best-scored lot first.
    """
    if not candidates:
        return []
    vectors = np.stack([c.vector for c in candidates])  # (N, D)
    relevance = (1 - diversity.strength) * _from_0_to_1(scores)  # (N,)
    labels = {field: [fold_label(str(c.document.get(field, ""))) for c in candidates] for field in diversity.caps}
    likeness = np.zeros(len(candidates))  # (N,) with the likest lot above; before the first, all are alike
    left, taken, order = np.ones(len(candidates), dtype=np.bool_), {field: Counter[str]() for field in labels}, list[int]()
    for _ in candidates:
        allowed = left.copy()
        for field, most in diversity.caps.items():
            allowed &= ~_full(labels[field], taken[field], most)
        value = relevance - diversity.strength * likeness if order else scores
        best = int(np.argmax(np.where(allowed if allowed.any() else left, value, -np.inf)))
        cosines = vectors @ vectors[best]  # (N, D) @ (D,) -> (N,)
        likeness = np.maximum(likeness, cosines) if order else cosines
        left[best] = False
        for field, told in labels.items():
            taken[field][told[best]] += 1
        order.append(best)
    return order


def _from_0_to_1(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = float(scores.min()), float(scores.max())
    return (scores.astype(np.float64) - low) / ((high - low) or 1.0)


def _full(labels: Sequence[str], taken: Counter[str], most: int) -> NDArray[np.bool_]:
    """(N,) which lots have a label that has had its places; no label has no end."""
    return np.array([bool(label) and taken[label] >= most for label in labels])
