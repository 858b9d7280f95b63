"""A buyer as a vector in the space of the lots, made of the lots that they acted on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.config.settings import scoring_parameters
from retrieval.contracts.documents import Vector
from retrieval.contracts.events import Interaction
from retrieval.errors import InvalidQuery
from retrieval.index.port import Candidate


class BuyerTower(Protocol):
    """What makes one vector of the lots that a buyer acted on."""

    def encode(self, vectors: NDArray[np.float32], weights: NDArray[np.float64], ages_days: NDArray[np.float64]) -> Vector:
        """Encode one buyer.

        Args:
            vectors: (N, D) float32 of unit length, N >= 1: the stored vector of the lot of each act, the oldest act first.
            weights: (N,) how much each act says (Interaction.weight), > 0.
            ages_days: (N,) how long before the buyer's latest act each was, in days, >= 0, falling.

        Returns:
            (D,) of any length.
        """


@dataclass(frozen=True, slots=True)
class WeightedAverage:
    """The average of the lots, each act counted with its weight: nothing is learned.

    Attributes:
        half_life_days: age at which an act counts half; None counts every act in full, whenever it was.
    """

    half_life_days: float | None = None

    def encode(self, vectors: NDArray[np.float32], weights: NDArray[np.float64], ages_days: NDArray[np.float64]) -> Vector:
        """Average; arguments and answer as BuyerTower.encode()'s."""
        shares = weights if self.half_life_days is None else weights * 0.5 ** (ages_days / self.half_life_days)  # (N,)
        return np.asarray(shares @ vectors.astype(np.float64), dtype=np.float64)  # (N,) @ (N, D) -> (D,)


class _AsSet:
    """The weighted average with the half-life that this process is told, for towers that have no buyer tower of their own."""

    def encode(self, vectors: NDArray[np.float32], weights: NDArray[np.float64], ages_days: NDArray[np.float64]) -> Vector:
        return WeightedAverage(scoring_parameters().buyer_half_life_days).encode(vectors, weights, ages_days)


AVERAGE: BuyerTower = _AsSet()


@dataclass(frozen=True, slots=True)
class BuyerVector:
    """Where a buyer stands.

    Attributes:
        vector: (dimensions,) float32 of unit length.
        known_items: ids of the lots that it was made of, in the order of the acts.
        unknown_items: ids that no lot has.
    """

    vector: Vector
    known_items: Sequence[str]
    unknown_items: Sequence[str]


def buyer_vector(
    acts: Sequence[Interaction], fetch: Callable[[Sequence[str]], list[Candidate]], tower: BuyerTower = AVERAGE
) -> BuyerVector:
    """Encode a buyer from the stored vectors of the lots that they acted on.

    An act on a lot whose auction has ended counts too, for it says as much of the buyer.

    Args:
        acts: at least one, in any order.
        fetch: item ids -> the stored lots of those that there are (VectorIndex.fetch).
        tower: makes one vector of them.

    Raises:
        InvalidQuery: no lot has any of the ids, or the vectors cancel each other out.
    """
    named = list(dict.fromkeys(act.item_id for act in acts))
    stored = {lot.item_id: lot.vector for lot in fetch(named)}
    known = sorted((act for act in acts if act.item_id in stored), key=lambda act: act.timestamp)
    if not known:
        raise InvalidQuery(f"none of the {len(named)} lots that the buyer acted on is known; send item ids of this index")
    vector = tower.encode(
        np.stack([stored[act.item_id] for act in known]).astype(np.float32),  # (N, D)
        np.array([act.weight for act in known]),
        np.array([(known[-1].timestamp - act.timestamp) / timedelta(days=1) for act in known]),
    )
    return BuyerVector(unit_vector(vector), [i for i in named if i in stored], [i for i in named if i not in stored])


def personalise(vector: Vector, buyer: Vector) -> Vector:
    """The vector of a query, (D,) of unit length, drawn towards a buyer by the buyer_share: what is searched with."""
    share = scoring_parameters().buyer_share
    return unit_vector((1 - share) * vector + share * buyer)


def unit_vector(numbers: Sequence[float] | Vector) -> Vector:
    """The vector of unit length in the direction of some numbers.

    Raises:
        InvalidQuery: they are not finite, or all of them are nothing.
    """
    vector = np.asarray(numbers, dtype=np.float64)  # (D,)
    largest = float(np.abs(vector).max(initial=0.0))
    if not np.isfinite(largest) or largest == 0.0:
        raise InvalidQuery("the vector has no direction: its numbers must be finite, and one of them other than 0")
    vector = vector / largest  # or squares of large numbers would overflow, and those of small ones vanish
    unit: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
