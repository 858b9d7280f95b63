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

MAX_HISTORY = 200  # of a history, the latest: what serving takes (retrieval.search.service.MAX_INTERACTIONS)


@dataclass(frozen=True, slots=True)
class Basket:
    """A buyer's next basket and the history before it.

    Attributes:
        buyer_id: who.
        items: (N,) rows of the items of the interactions before, the oldest first, 1 to 200 of them.
        weights: (N,) of these interactions.
        ages_days: (N,) days before the latest of them.
        owned: rows of all items that the buyer ever acted on before.
        targets: rows of the items of the basket, each once.
    """

    buyer_id: str
    items: NDArray[np.int64]
    weights: NDArray[np.float64]
    ages_days: NDArray[np.float64]
    owned: frozenset[int]
    targets: NDArray[np.int64]


def training_baskets(interactions: Iterable[Interaction], rows: Mapping[str, int], until: datetime) -> list[Basket]:
    """Every basket before a moment but each buyer's first; a basket is what a buyer did on one day.

    Args:
        interactions: of any buyers, in any order.
        rows: item id -> its row in the table of items; interactions with others are ignored.
        until: interactions from here on are ignored.
    """
    baskets = []
    for days in _by_buyer(interactions, rows):
        days = [day for day in days if day[0].timestamp < until]
        baskets += [_basket(days[:number], days[number], rows) for number in range(1, len(days))]
    return baskets


def next_baskets(interactions: Iterable[Interaction], rows: Mapping[str, int], start: datetime, end: datetime) -> list[Basket]:
    """For each buyer with a history before `start`, their first basket from `start` on and before `end`."""
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
        baskets: at least one.
        new_rows: row -> place in a smaller table; None leaves rows as they are.
    """
    shape = (len(baskets), max(len(basket.items) for basket in baskets))
    items, weights, ages = np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for number, basket in enumerate(baskets):
        length = len(basket.items)
        items[number, :length] = basket.items if new_rows is None else [new_rows[row] for row in basket.items.tolist()]
        weights[number, :length], ages[number, :length] = basket.weights, basket.ages_days
    return InteractionBatch(torch.from_numpy(items), torch.from_numpy(weights), torch.from_numpy(ages))


def _by_buyer(interactions: Iterable[Interaction], rows: Mapping[str, int]) -> Iterator[list[list[Interaction]]]:
    """Buyer by buyer their days, each with its interactions in the order of time."""
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
