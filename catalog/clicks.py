"""Simulate buyers: result lists, examined positions and events."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from numpy.random import Generator

from catalog.folder import Click
from catalog.lots import Lot
from catalog.questions import Question

BUYERS = 300
LIST_LENGTH = 15
POSITION_BIAS_EXPONENT = 0.6  # P(examined at position p) = p ** -0.6, the position bias of Joachims et al. (WSDM 2017)
STEPS = (("view", 0.0), ("add_to_cart", -0.9), ("purchase", -0.9))  # event, change of the log-odds


def simulate_clicks(
    questions: Sequence[Question], lots: Sequence[Lot], rng: Generator, now: datetime, sessions: int = 3
) -> list[Click]:
    """Show result lists of a mediocre search engine to buyers and record their events.

    Args:
        questions: the queries, each searched `sessions` times.
        lots: the corpus; a list holds lots that were live and listed at its time.
        rng: random generator.
        now: moment in UTC; sessions are in the week before this moment.
        sessions: number of lists per query.

    Returns:
        Impressions list by list, best position first.
    """
    by_id = {lot.item.item_id: lot for lot in lots}
    ids = list(by_id)
    clicks = []
    for question in questions:
        for _ in range(sessions):
            moment = (now - timedelta(hours=float(rng.uniform(1, 7 * 24)))).replace(microsecond=0)
            buyer = f"buyer-{int(rng.integers(BUYERS)):04}"
            ranked = [by_id[item_id] for item_id in _rank(question, ids, rng) if _on_sale(by_id[item_id], moment)]
            for position, lot in enumerate(ranked[:LIST_LENGTH], 1):
                event = _draw_event(question.grades.get(lot.item.item_id, 0), lot, position, rng)
                clicks.append(Click(question.text, lot.item.item_id, position, event, buyer, moment))
    return clicks


def _rank(question: Question, ids: Sequence[str], rng: Generator) -> list[str]:
    """Rank a mix of relevant, partly relevant and random lots by grade plus noise."""
    full = [item_id for item_id, grade in question.grades.items() if grade >= 2]
    half = [item_id for item_id, grade in question.grades.items() if grade == 1]
    mix = [*_sample(full, 8, rng), *_sample(half, 8, rng), *_sample(ids, 6, rng)]
    scores = {item_id: min(question.grades.get(item_id, 0), 2) + rng.normal(0, 1.2) for item_id in dict.fromkeys(mix)}
    return sorted(scores, key=lambda item_id: -scores[item_id])


def _sample(ids: Sequence[str], size: int, rng: Generator) -> list[str]:
    return [ids[i] for i in rng.choice(len(ids), size=min(size, len(ids)), replace=False)]


def _on_sale(lot: Lot, moment: datetime) -> bool:
    listed, ends = lot.item.listed_at, lot.item.ends_at
    return (listed is None or listed <= moment) and (ends is None or ends > moment)


def _draw_event(grade: int, lot: Lot, position: int, rng: Generator) -> str | None:
    """Draw the buyer's furthest event; None if the lot is not examined or not clicked."""
    if rng.random() > position**-POSITION_BIAS_EXPONENT:
        return None
    rating = 3.0 if lot.item.seller_rating is None else lot.item.seller_rating
    log_odds = (
        -3.4
        + (0.0, 1.2, 3.6, 3.6)[grade]
        + 0.7 * (rating - 4)
        - 0.9 * float(np.log(max(lot.price_ratio, 0.05)))
        + 0.15 * float(np.log1p(lot.item.bid_count))
    )
    event = None
    for step, cost in STEPS:
        log_odds += cost
        if rng.random() > 1 / (1 + np.exp(-log_odds)):
            return event
        event = step
    return event
