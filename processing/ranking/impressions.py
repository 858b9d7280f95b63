"""What buyers were shown, as a re-ranker is trained and measured on it: each query of each day with its candidates of now.

Lists of one query and day are taken together, at the moment of the first: auctions end within days, and a lot that has ended since
must still be found as it was then.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from catalog.folder import Click
from catalog.pseudo_queries import fold
from catalog.query_splits import share_of
from processing.ranking.labels import clicked_gains
from retrieval.progress import Progress
from retrieval.ranker.xgboost_ranker import RankingData

PARTS: Mapping[str, float] = {"train": 0.7, "val": 0.1, "held_out": 0.2}  # of the sources

Key = tuple[str, date]  # a query as it was first typed, and the UTC day
Candidates = Callable[[str, datetime], tuple[Sequence[str], NDArray[np.float32]]]


@dataclass(frozen=True)
class ShownQuery:
    """One query of one day.

    Attributes:
        item_ids: of the candidates, as the first stage orders them.
        features: (N, F) float32 of them.
        clicks: part of the sessions -> impressions.
    """

    item_ids: Sequence[str]
    features: NDArray[np.float32]
    clicks: Mapping[str, Sequence[Click]]

    @property
    def not_found(self) -> int:
        """Impressions of lots that are no candidates any more."""
        known = set(self.item_ids)
        return sum(click.item_id not in known for part in self.clicks.values() for click in part)

    def labelled(self, part: str, position_bias_exponent: float) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Features (M, F) and gains (M,) of the candidates that sessions of a part were shown, in first-stage order.

        Args:
            part: of the sessions.
            fall: of the propensity, see ranking_labels.

        Returns:
            None where they all have one gain, which says nothing about their order.
        """
        gains = next(iter(clicked_gains(self.clicks.get(part, ()), position_bias_exponent).values()), {})
        shown = [n for n, item_id in enumerate(self.item_ids) if item_id in gains]
        labels = np.array([gains[self.item_ids[n]] for n in shown], dtype=np.float32)
        return (self.features[shown], labels) if len(set(labels.tolist())) > 1 else None


def source_of(click: Click) -> str:
    """Return the source of an impression: its network client if known, else its session, which costs nothing to make up."""
    return click.client or click.buyer_id


def list_of(click: Click) -> tuple[str, str, datetime]:
    """Return the key of the shown list that an impression belongs to."""
    return click.query, click.buyer_id, click.timestamp


def limit_sources(clicks: Sequence[Click], share: float, seed: int) -> list[Click]:
    """Leave out lists of sessions and clients of whom there are too many, so that nobody teaches more than a share.

    Args:
        clicks: impressions.
        share: of the lists that are left, above 0 to 1; the most that come from one session, and from one client.
        seed: chooses which lists of a source stay, so that the source does not.

    Returns:
        Impressions of the lists that are left, in their order; none where there are fewer than 1 / share sessions or clients.
    """
    for who in (lambda click: click.buyer_id, source_of):
        lists = {list_of(click): who(click) for click in clicks}
        counts, limit = Counter(lists.values()), len(lists)
        while limit > (fair := int(share * sum(min(count, limit) for count in counts.values()))):
            limit = fair
        kept, taken = set(), Counter[str]()
        for shown in sorted(lists, key=lambda shown: share_of(repr(shown), seed)):
            taken[lists[shown]] += 1
            if taken[lists[shown]] <= limit:
                kept.add(shown)
        clicks = [click for click in clicks if list_of(click) in kept]
    return list(clicks)


def by_query_and_day(clicks: Iterable[Click]) -> dict[Key, list[Click]]:
    """Impressions by query, however it was spelt, and day; every click has the first spelling."""
    spelt: dict[str, str] = {}
    found: dict[Key, list[Click]] = defaultdict(list)
    for click in clicks:
        query = spelt.setdefault(fold(click.query), click.query)
        found[query, click.timestamp.date()].append(replace(click, query=query))
    return found


def part_of(source: str, seed: int) -> str:
    """The part of a source, the same whatever else is in the log."""
    place, upto = share_of(source, seed), 0.0
    for part, share in PARTS.items():
        upto += share
        if place < upto:
            return part
    return part


def find_candidates(
    clicks: Mapping[Key, Sequence[Click]], candidates: Candidates, seed: int, progress: Progress | None = None
) -> list[ShownQuery]:
    """Search anew for every query of every day.

    Args:
        clicks: what by_query_and_day() returned.
        candidates: (query, moment) -> ids in first-stage order, and (N, F) features.
        seed: deals the sessions.
        progress: called with (queries done, queries).
    """
    found = []
    for done, ((query, _), shown) in enumerate(clicks.items(), 1):
        parts: dict[str, list[Click]] = defaultdict(list)
        for click in shown:
            parts[part_of(source_of(click), seed)].append(click)
        found.append(ShownQuery(*candidates(query, min(click.timestamp for click in shown)), parts))
        if progress:
            progress(done, len(clicks))
    return found


def ranking_data(queries: Iterable[ShownQuery], part: str, position_bias_exponent: float) -> RankingData:
    """What one part of the sessions says of the queries whose candidates it tells apart."""
    rows = [labelled for query in queries if (labelled := query.labelled(part, position_bias_exponent)) is not None]
    return RankingData([features for features, _ in rows], [labels for _, labels in rows])


def ndcg(scores: NDArray[np.float32], gains: NDArray[np.float32], depth: int = 10) -> float:
    """nDCG of N candidates, the gain as it is (Järvelin and Kekäläinen, 2002); equal scores keep their order.

    Args:
        scores: (N,), higher is better.
        gains: (N,) >= 0, one of them above 0.
        depth: ranks that count.
    """
    discounts = 1.0 / np.log2(np.arange(2, min(depth, len(gains)) + 2))  # (min(depth, N),)
    best_first = gains[np.argsort(-scores, kind="stable")][: len(discounts)]
    return float(best_first @ discounts / (np.sort(gains)[::-1][: len(discounts)] @ discounts))
