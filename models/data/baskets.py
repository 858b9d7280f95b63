"""Next baskets from events: a buyer's history, and the basket that followed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from models.towers.buyer_tower import InteractionBatch
from retrieval.contracts.events import Interaction

MAX_HISTORY = 200  # latest interactions of a history; serving reads as many (retrieval.search.service.MAX_INTERACTIONS)


@dataclass(frozen=True, slots=True)
class Basket:
    """A buyer's next basket and the history before it.

    Attributes:
        buyer_id: id of the buyer.
        items: (N,) item rows of the interactions before the basket, the oldest first; N is 1 to 200.
        weights: (N,) weights of these interactions.
        ages_days: (N,) days from each of these interactions to the latest.
        owned: rows of all items that the buyer ever acted on before the basket.
        targets: distinct rows of the basket's items, ascending.
    """

    buyer_id: str
    items: NDArray[np.int64]
    weights: NDArray[np.float64]
    ages_days: NDArray[np.float64]
    owned: frozenset[int]
    targets: NDArray[np.int64]


def training_baskets(interactions: Iterable[Interaction], rows: Mapping[str, int], until: datetime) -> list[Basket]:
    """Return every basket before `until`, except each buyer's first, which has no history.

    A basket is the interactions of one buyer on one day.

    Args:
        interactions: interactions of any buyers, in any order.
        rows: item id -> row in the table of items; interactions with other items are ignored.
        until: baskets whose first interaction is at this moment or later are ignored.
    """
    baskets = []
    for days in _by_buyer(interactions, rows):
        days = [day for day in days if day[0].timestamp < until]
        baskets += [_basket(days[:number], days[number], rows) for number in range(1, len(days))]
    return baskets


def next_baskets(interactions: Iterable[Interaction], rows: Mapping[str, int], start: datetime, end: datetime) -> list[Basket]:
    """Return the first basket in [start, end) of each buyer with a history before `start`."""
    baskets = []
    for days in _by_buyer(interactions, rows):
        before = [day for day in days if day[0].timestamp < start]
        after = [day for day in days if start <= day[0].timestamp < end]
        if before and after:
            baskets.append(_basket(before, after[0], rows))
    return baskets


def pad(baskets: Sequence[Basket], new_rows: Mapping[int, int] | None = None) -> InteractionBatch:
    """Return the histories of B baskets as tensors, padded to the longest.

    Args:
        baskets: B >= 1 baskets.
        new_rows: row -> row in a smaller table; None leaves rows as they are.
    """
    shape = (len(baskets), max(len(basket.items) for basket in baskets))
    items, weights, ages = np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for number, basket in enumerate(baskets):
        length = len(basket.items)
        items[number, :length] = basket.items if new_rows is None else [new_rows[row] for row in basket.items.tolist()]
        weights[number, :length], ages[number, :length] = basket.weights, basket.ages_days
    return InteractionBatch(torch.from_numpy(items), torch.from_numpy(weights), torch.from_numpy(ages))


def _by_buyer(interactions: Iterable[Interaction], rows: Mapping[str, int]) -> Iterator[list[list[Interaction]]]:
    """Yield the days of each buyer; a day is a list of interactions in the order of time."""
    by_buyer: dict[str, list[Interaction]] = defaultdict(list)
    for interaction in interactions:
        if interaction.item_id in rows:
            by_buyer[interaction.buyer_id].append(interaction)
    for _, done in sorted(by_buyer.items()):
        done.sort(key=lambda interaction: (interaction.timestamp, interaction.item_id))
        yield [list(day) for _, day in groupby(done, key=lambda interaction: interaction.timestamp.date())]


def _basket(days: Sequence[Sequence[Interaction]], basket: Sequence[Interaction], rows: Mapping[str, int]) -> Basket:
    before = [interaction for day in days for interaction in day]
    latest, recent = before[-1].timestamp, before[-MAX_HISTORY:]
    return Basket(
        buyer_id=basket[0].buyer_id,
        items=np.array([rows[interaction.item_id] for interaction in recent]),
        weights=np.array([interaction.weight for interaction in recent]),
        ages_days=np.array([(latest - interaction.timestamp) / timedelta(days=1) for interaction in recent]),
        owned=frozenset(rows[interaction.item_id] for interaction in before),
        targets=np.array(sorted({rows[interaction.item_id] for interaction in basket})),
    )
