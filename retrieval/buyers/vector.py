"""Encode a buyer as a vector in the space of the items, from the items of their interactions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.config.settings import scoring_parameters
from retrieval.contracts.buyer_habits import BuyerHabits, summarise_habits
from retrieval.contracts.documents import Vector
from retrieval.contracts.events import Interaction
from retrieval.errors import InvalidQuery
from retrieval.index.port import Candidate


class BuyerTower(Protocol):
    """An encoder of the items of a buyer's interactions as one vector."""

    def encode(self, vectors: NDArray[np.float32], weights: NDArray[np.float64], ages_days: NDArray[np.float64]) -> Vector:
        """Encode one buyer.

        Args:
            vectors: (N, D) float32 of unit length, N >= 1: the stored vectors of the items, one per interaction, the oldest first.
            weights: (N,) weights > 0 of the interactions (Interaction.weight).
            ages_days: (N,) days >= 0, in descending order, from each interaction to the buyer's latest one.

        Returns:
            (D,) vector with any norm.
        """


@dataclass(frozen=True, slots=True)
class WeightedAverage:
    """The average of the items, weighted by the interactions; nothing is learned.

    Attributes:
        half_life_days: age in days at which an interaction has half its weight; None never decays.
    """

    half_life_days: float | None = None

    def encode(self, vectors: NDArray[np.float32], weights: NDArray[np.float64], ages_days: NDArray[np.float64]) -> Vector:
        """Return the weighted sum of the items; arguments and result are those of BuyerTower.encode()."""
        decayed = weights if self.half_life_days is None else weights * 0.5 ** (ages_days / self.half_life_days)  # (N,)
        return np.asarray(decayed @ vectors.astype(np.float64), dtype=np.float64)  # (N,) @ (N, D) -> (D,)


class _ConfiguredAverage:
    """A WeightedAverage with the half-life of this process's settings, for towers without a trained buyer tower."""

    def encode(self, vectors: NDArray[np.float32], weights: NDArray[np.float64], ages_days: NDArray[np.float64]) -> Vector:
        return WeightedAverage(scoring_parameters().buyer_half_life_days).encode(vectors, weights, ages_days)


AVERAGE: BuyerTower = _ConfiguredAverage()


@dataclass(frozen=True, slots=True)
class BuyerVector:
    """A buyer as a vector.

    Attributes:
        vector: (dimensions,) float32 of unit length.
        known_items: ids of the items that the vector was made of, each once, in the order of the interactions.
        unknown_items: ids in the interactions that no item has, likewise.
        habits: categories, brands and prices of the known items.
    """

    vector: Vector
    known_items: Sequence[str]
    unknown_items: Sequence[str]
    habits: BuyerHabits


def buyer_vector(
    interactions: Sequence[Interaction], fetch: Callable[[Sequence[str]], list[Candidate]], tower: BuyerTower = AVERAGE
) -> BuyerVector:
    """Encode a buyer from the stored vectors of the items of their interactions, and describe their habits.

    Items whose auction has ended count, too, because they say as much about the buyer.

    Args:
        interactions: interactions of one buyer, at least one, in any order.
        fetch: item ids -> those items that are stored (VectorIndex.fetch).
        tower: encoder of the items as one vector.

    Raises:
        InvalidQuery: no item is stored, or the vectors cancel each other out.
    """
    item_ids = list(dict.fromkeys(one.item_id for one in interactions))
    stored = {item.item_id: item for item in fetch(item_ids)}
    usable = sorted((one for one in interactions if one.item_id in stored), key=lambda one: one.timestamp)
    if not usable:
        raise InvalidQuery(f"none of the {len(item_ids)} lots that the buyer acted on is known; send item ids of this index")
    vector = tower.encode(
        np.stack([stored[one.item_id].vector for one in usable]).astype(np.float32),  # (N, D)
        np.array([one.weight for one in usable]),
        np.array([(usable[-1].timestamp - one.timestamp) / timedelta(days=1) for one in usable]),
    )
    habits = summarise_habits(usable, {item_id: item.document for item_id, item in stored.items()})
    known, unknown = [i for i in item_ids if i in stored], [i for i in item_ids if i not in stored]
    return BuyerVector(unit_vector(vector), known, unknown, habits)


def personalise(vector: Vector, buyer: Vector) -> Vector:
    """Return the mean of a query vector (D,) and a buyer vector (D,), weighted by the setting buyer_share, at unit length."""
    share = scoring_parameters().buyer_share
    return unit_vector((1 - share) * vector + share * buyer)


def unit_vector(numbers: Sequence[float] | Vector) -> Vector:
    """Return the (D,) numbers as a float32 vector of unit length.

    Raises:
        InvalidQuery: a number is not finite, or all are 0.
    """
    vector = np.asarray(numbers, dtype=np.float64)  # (D,)
    largest = float(np.abs(vector).max(initial=0.0))
    if not np.isfinite(largest) or largest == 0.0:
        raise InvalidQuery("the vector has no direction: its numbers must be finite, and one of them other than 0")
    vector = vector / largest  # otherwise squares of large numbers would overflow, and squares of small ones become 0
    unit: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
