"""The habits of a buyer for the ranking features: categories, brands and prices of the items of their interactions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Any, Literal, get_args

from retrieval.contracts.events import Interaction

Label = Literal["category", "brand"]


@dataclass(frozen=True, slots=True)
class LabelHabit:
    """A buyer's interactions with the items of one category or brand.

    Attributes:
        count: number of interactions, > 0.
        days: days >= 0 from the latest of them to the buyer's latest interaction with any item.
    """

    count: int
    days: float


@dataclass(frozen=True, slots=True)
class BuyerHabits:
    """The habits of a buyer. Times are relative to the buyer's latest interaction, as in the buyer's vector.

    Attributes:
        by_label: "category" or "brand" -> value of that field -> the buyer's interactions with its items.
        median_price: median price of the items, each counted once; None if no item has a price.
    """

    by_label: Mapping[Label, Mapping[str, LabelHabit]]
    median_price: float | None


def summarise_habits(interactions: Sequence[Interaction], documents: Mapping[str, Mapping[str, Any]]) -> BuyerHabits:
    """Return the habits of a buyer.

    Args:
        interactions: interactions of one buyer with stored items, at least one, the oldest first.
        documents: item_id -> document of the stored item.
    """
    prices = [document["current_price"] for document in documents.values() if document.get("current_price") is not None]
    labels: tuple[Label, ...] = get_args(Label)
    by_label = {label: _habits(label, interactions, documents) for label in labels}
    return BuyerHabits(by_label, float(median(prices)) if prices else None)


def _habits(label: Label, interactions: Sequence[Interaction], documents: Mapping[str, Mapping[str, Any]]) -> dict[str, LabelHabit]:
    """Return value of the label -> interactions with its items; items without the label are left out."""
    latest, habits = interactions[-1].timestamp, dict[str, LabelHabit]()
    for one in interactions:  # the oldest first, so that the last one of a label is its latest
        if value := documents[one.item_id].get(label):
            count = habits[value].count + 1 if value in habits else 1
            habits[value] = LabelHabit(count, (latest - one.timestamp) / timedelta(days=1))
    return habits
