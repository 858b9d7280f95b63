"""Diversify a list by maximal marginal relevance, with caps for each brand, seller and category."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidQuery
from retrieval.index.port import Candidate
from retrieval.text.analysis import fold_label

MAX_PER_LABEL = 100
LABELS = ("brand", "seller", "category")  # fields of a document that can have a cap


@dataclass(frozen=True, slots=True)
class Diversity:
    """Parameters of the diversification of an answer.

    Attributes:
        strength: weight of dissimilarity, 0 to 1. 0 leaves the order of the scores; 1 ignores the scores after the first item.
        most_per_brand: cap of items per brand, 1 to 100; items over a cap come after all others. None for no cap.
        most_per_seller: cap of items per seller, likewise.
        most_per_category: cap of items per category, likewise. An item without a label is under no cap of that kind.
        drop_surplus: True leaves items over a cap out, instead of placing them after the others.

    Raises:
        InvalidQuery: a value is not in its range.
    """

    strength: float = 0.0
    most_per_brand: int | None = None
    most_per_seller: int | None = None
    most_per_category: int | None = None
    drop_surplus: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InvalidQuery(f"diversity is {self.strength}; allowed are numbers from 0 to 1")
        for label, cap in self.caps.items():
            if not 1 <= cap <= MAX_PER_LABEL:
                raise InvalidQuery(f"the most lots of one {label} are {cap}; allowed are 1 to {MAX_PER_LABEL}")

    @property
    def is_active(self) -> bool:
        """True if the order may change, because strength is above 0 or there is a cap."""
        return self.strength > 0 or bool(self.caps)

    @property
    def caps(self) -> dict[str, int]:
        """Return field -> cap of items per label, without fields that have no cap."""
        caps = zip(LABELS, (self.most_per_brand, self.most_per_seller, self.most_per_category), strict=True)
        return {label: cap for label, cap in caps if cap is not None}


def diversify(
    candidates: Sequence[Candidate], scores: NDArray[np.float32], diversity: Diversity, k: int | None = None
) -> list[int]:
    """Order candidates by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998), with caps per label.

    Each rank goes to the item with the highest (1 - strength) * relevance - strength * (cosine with the most similar item above).
    Relevance is the score, scaled to 0 to 1 over the candidates, because a re-ranker's scores have no scale of their own. Items
    over a cap come after all others, unless diversity.drop_surplus leaves them out. The first ranks do not depend on k, so pages of
    one list fit together.

    Args:
        candidates: N candidates with vectors of unit length.
        scores: (N,) float32, higher is better; candidates with equal scores keep their order.
        diversity: parameters of the diversification.
        k: maximum number of ranks to assign; None assigns all.

    Returns:
        Indices of the candidates in the new order, that of the best score first.
    """
    if not candidates:
        return []
    vectors = np.stack([c.vector for c in candidates])  # (N, D)
    relevance = (1 - diversity.strength) * _scale_to_1(scores)  # (N,)
    labels = {field: [fold_label(str(c.document.get(field, ""))) for c in candidates] for field in diversity.caps}
    similarity = np.zeros(len(candidates))  # (N,) cosine with the most similar item above; 0 before the first rank
    left, counts, order = np.ones(len(candidates), dtype=np.bool_), {field: Counter[str]() for field in labels}, list[int]()
    for _ in candidates[:k]:
        allowed = left.copy()
        for field, cap in diversity.caps.items():
            allowed &= ~_at_cap(labels[field], counts[field], cap)
        if not allowed.any():
            if diversity.drop_surplus:
                break
            allowed = left
        value = relevance - diversity.strength * similarity if order else scores
        best = int(np.argmax(np.where(allowed, value, -np.inf)))
        cosines = vectors @ vectors[best]  # (N, D) @ (D,) -> (N,)
        similarity = np.maximum(similarity, cosines) if order else cosines
        left[best] = False
        for field, field_labels in labels.items():
            counts[field][field_labels[best]] += 1
        order.append(best)
    return order


def _scale_to_1(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = float(scores.min()), float(scores.max())
    return (scores.astype(np.float64) - low) / ((high - low) or 1.0)


def _at_cap(labels: Sequence[str], counts: Counter[str], cap: int) -> NDArray[np.bool_]:
    """Return the (N,) mask of items whose label has reached its cap; items without a label have no cap."""
    return np.array([bool(label) and counts[label] >= cap for label in labels])
