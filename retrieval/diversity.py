"""Diversity: a list whose lots differ, by maximal marginal relevance, and no label that fills the first page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidQuery
from retrieval.index.base import Candidate

MAX_PER_LABEL = 100


@dataclass(frozen=True, slots=True)
class Diversity:
    """How much the lots of an answer shall differ.

    Attributes:
        strength: 0 to 1. 0 leaves the order of the scores; 1 looks, after the first lot, at unlikeness alone.
        most_per_label: lots of one label before every lot of the others, >= 1; None caps nothing.
        label: the field of a document that holds the label; a lot without it is capped by none.

    Raises:
        InvalidQuery: a value is out of its limits.
    """

    strength: float = 0.0
    most_per_label: int | None = None
    label: str = "brand"

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InvalidQuery(f"diversity is {self.strength}; allowed are numbers from 0 to 1")
        if self.most_per_label is not None and not 1 <= self.most_per_label <= MAX_PER_LABEL:
            raise InvalidQuery(f"the most lots of one {self.label} are {self.most_per_label}; allowed are 1 to {MAX_PER_LABEL}")


def diversify(candidates: Sequence[Candidate], scores: NDArray[np.float32], wanted: Diversity) -> list[int]:
    """Order candidates by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998) under a cap a label.

    Each place goes to the lot with the highest (1 - strength) * relevance - strength * (cosine with the likest lot above it).
    Relevance is the score, brought to 0 to 1 over the candidates, for a re-ranker's scores have no scale of their own. A lot
    whose label has had its places comes after all that have not, and is not dropped: a short list helps nobody. The first
    places do not depend on how many follow, so pages of one list fit together.

    Args:
        candidates: N candidates with vectors of unit length.
        scores: (N,) float32, higher is better; equal ones keep the candidates' order.
        wanted: how much they shall differ.

    Returns:
        The numbers 0 to N - 1 in the new order, the best-scored lot first.
    """
    if not candidates:
        return []
    vectors = np.stack([c.vector for c in candidates])  # (N, D)
    relevance = (1 - wanted.strength) * _from_0_to_1(scores)  # (N,)
    labels = [str(c.document.get(wanted.label, "")).lower() for c in candidates]
    likeness = np.zeros(len(candidates))  # (N,) with the likest lot above; before the first, all are alike
    left, taken, order = np.ones(len(candidates), dtype=np.bool_), Counter[str](), list[int]()
    for _ in candidates:
        allowed = left & ~_full(labels, taken, wanted.most_per_label)
        value = relevance - wanted.strength * likeness if order else scores
        best = int(np.argmax(np.where(allowed if allowed.any() else left, value, -np.inf)))
        cosines = vectors @ vectors[best]  # (N, D) @ (D,) -> (N,)
        likeness = np.maximum(likeness, cosines) if order else cosines
        left[best] = False
        taken[labels[best]] += 1
        order.append(best)
    return order


def _from_0_to_1(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = float(scores.min()), float(scores.max())
    return (scores.astype(np.float64) - low) / ((high - low) or 1.0)


def _full(labels: Sequence[str], taken: Counter[str], most: int | None) -> NDArray[np.bool_]:
    """(N,) which lots have a label that has had its places; no label has no end."""
    if most is None:
        return np.zeros(len(labels), dtype=np.bool_)
    return np.array([bool(label) and taken[label] >= most for label in labels])
