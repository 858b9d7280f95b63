"""A buyer as a vector in the space of the lots: the weighted average of the lots that they acted on."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.errors import InvalidQuery
from retrieval.events import Interaction
from retrieval.index.base import Candidate, Vector

# How far a buyer's acts draw the query's vector: enough to settle which of several meanings is meant, too little to change
# the subject. Set by hand.
BUYER_SHARE = 0.2


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


def buyer_vector(acts: Sequence[Interaction], fetch: Callable[[Sequence[str]], list[Candidate]]) -> BuyerVector:
    """Average the stored vectors of the lots that a buyer acted on.

    Every act counts with the weight of its type (events.EVENT_WEIGHTS), whenever it was; of an ended auction too, for it says
    as much of the buyer.

    Args:
        acts: at least one.
        fetch: item ids -> the stored lots of those that there are (VectorIndex.fetch).

    Raises:
        InvalidQuery: no lot has any of the ids, or the vectors cancel each other out.
    """
    weights: dict[str, float] = defaultdict(float)
    for act in acts:
        weights[act.item_id] += act.weight
    lots = {lot.item_id: lot.vector for lot in fetch(list(weights))}
    unknown = [item_id for item_id in weights if item_id not in lots]
    if not lots:
        raise InvalidQuery(f"none of the {len(weights)} lots that the buyer acted on is known; send item ids of this index")
    total = sum(weights[item_id] * vector.astype(np.float64) for item_id, vector in lots.items())  # (D,)
    return BuyerVector(unit_vector(np.asarray(total)), [i for i in weights if i in lots], unknown)


def drawn_towards(vector: Vector, buyer: Vector) -> Vector:
    """The vector of a query, (D,) of unit length, drawn a fifth of the way towards a buyer: what is searched with."""
    return unit_vector((1 - BUYER_SHARE) * vector + BUYER_SHARE * buyer)


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
