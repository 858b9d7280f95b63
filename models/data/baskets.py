"""Next baskets out of events: what a buyer had done before, and what they took next."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from models.towers.buyer_tower import Acts
from retrieval.contracts.events import Interaction

MAX_ACTS = 200  # of a history, the latest: what serving takes (retrieval.search.service.MAX_INTERACTIONS)


@dataclass(frozen=True, slots=True)
class Basket:
    """A buyer's next basket and the history before it.

    Attributes:
        buyer_id: who.
        items: (N,) rows of the lots of the acts before, the oldest first, 1 to 200 of them.
        weights: (N,) of these acts.
        ages_days: (N,) days before the latest of them.
        owned: rows of all lots that the buyer ever acted on before.
        targets: rows of the lots of the basket, each once.
    """

    buyer_id: str
    items: NDArray[np.int64]
    weights: NDArray[np.float64]
    ages_days: NDArray[np.float64]
    owned: frozenset[int]
    targets: NDArray[np.int64]


def training_baskets(acts: Iterable[Interaction], rows: Mapping[str, int], until: datetime) -> list[Basket]:
    """Every basket before a moment but each buyer's first; a basket is what a buyer did on one day.

    Args:
        acts: of any buyers, in any order.
        rows: item id -> its row in the table of lots; acts on others are passed over.
        until: no act from here on is looked at.
    """
    made = []
    for days in _by_buyer(acts, rows):
        days = [day for day in days if day[0].timestamp < until]
        made += [_basket(days[:number], days[number], rows) for number in range(1, len(days))]
    return made


def next_baskets(acts: Iterable[Interaction], rows: Mapping[str, int], start: datetime, end: datetime) -> list[Basket]:
    """For each buyer with a history before `start`, their first basket from `start` on and before `end`."""
    made = []
    for days in _by_buyer(acts, rows):
        before = [day for day in days if day[0].timestamp < start]
        after = [day for day in days if start <= day[0].timestamp < end]
        if before and after:
            made.append(_basket(before, after[0], rows))
    return made


def pad(baskets: Sequence[Basket], places: Mapping[int, int] | None = None) -> Acts:
    """The histories of B baskets as tensors, padded to the longest.

    Args:
        baskets: at least one.
        places: row -> place in a smaller table; None leaves rows as they are.
    """
    shape = (len(baskets), max(len(basket.items) for basket in baskets))
    items, weights, ages = np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for number, basket in enumerate(baskets):
        length = len(basket.items)
        items[number, :length] = basket.items if places is None else [places[row] for row in basket.items.tolist()]
        weights[number, :length], ages[number, :length] = basket.weights, basket.ages_days
    return Acts(torch.from_numpy(items), torch.from_numpy(weights), torch.from_numpy(ages))


def _by_buyer(acts: Iterable[Interaction], rows: Mapping[str, int]) -> Iterator[list[list[Interaction]]]:
    """Buyer by buyer their days, each with its acts in the order of time."""
    by_buyer: dict[str, list[Interaction]] = defaultdict(list)
    for act in acts:
        if act.item_id in rows:
            by_buyer[act.buyer_id].append(act)
    for _, done in sorted(by_buyer.items()):
        done.sort(key=lambda act: (act.timestamp, act.item_id))
        yield [list(day) for _, day in groupby(done, key=lambda act: act.timestamp.date())]


def _basket(days: Sequence[Sequence[Interaction]], basket: Sequence[Interaction], rows: Mapping[str, int]) -> Basket:
    before = [act for day in days for act in day]
    latest, recent = before[-1].timestamp, before[-MAX_ACTS:]
    return Basket(
        buyer_id=basket[0].buyer_id,
        items=np.array([rows[act.item_id] for act in recent]),
        weights=np.array([act.weight for act in recent]),
        ages_days=np.array([(latest - act.timestamp) / timedelta(days=1) for act in recent]),
        owned=frozenset(rows[act.item_id] for act in before),
        targets=np.array(sorted({rows[act.item_id] for act in basket})),
    )
