"""Impressions as training and test data of a re-ranker: each query of each day with its current candidates.

Lists of one query and day are merged and searched at the moment of the first list. The present would be wrong, because an item
whose auction has ended since must still be a candidate.
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

PARTS: Mapping[str, float] = {"train": 0.7, "val": 0.1, "held_out": 0.2}  # part of the data -> share of the sources

Key = tuple[str, date]  # a query as it was first typed, and the UTC day
Candidates = Callable[[str, datetime], tuple[Sequence[str], NDArray[np.float32]]]


@dataclass(frozen=True)
class ShownQuery:
    """One query of one day with its candidates and impressions.

    Attributes:
        item_ids: ids of the N candidates, in first-stage order.
        features: (N, F) float32, features of the candidates.
        clicks: part of the data -> impressions.
    """

    item_ids: Sequence[str]
    features: NDArray[np.float32]
    clicks: Mapping[str, Sequence[Click]]

    @property
    def not_found(self) -> int:
        """Number of impressions of items that are no candidates any more."""
        candidates = set(self.item_ids)
        return sum(click.item_id not in candidates for part in self.clicks.values() for click in part)

    def labelled(self, part: str, position_bias_exponent: float) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return features (M, F) and gains (M,) of the M candidates that were shown in a part, in first-stage order.

        Args:
            part: "train", "val" or "held_out".
            position_bias_exponent: the propensity is max(0.1, position ** -exponent); 0 corrects nothing.

        Returns:
            Features and gains; None if all gains are the same, because equal gains give no order.
        """
        gains = next(iter(clicked_gains(self.clicks.get(part, ()), position_bias_exponent).values()), {})
        shown = [n for n, item_id in enumerate(self.item_ids) if item_id in gains]
        labels = np.array([gains[self.item_ids[n]] for n in shown], dtype=np.float32)
        return (self.features[shown], labels) if len(set(labels.tolist())) > 1 else None


def source_of(click: Click) -> str:
    """Return the source of an impression: its network client if known, otherwise its session, which is easier to fake."""
    return click.client or click.buyer_id


def list_of(click: Click) -> tuple[str, str, datetime]:
    """Return the key of the shown list that an impression belongs to."""
    return click.query, click.buyer_id, click.timestamp


def limit_sources(clicks: Sequence[Click], share: float, seed: int) -> list[Click]:
    """Drop lists of sessions and clients that have too many, so that no source exceeds a share.

    Args:
        clicks: impressions.
        share: largest share of one session, and of one client, in the remaining lists, above 0 to 1.
        seed: seed that decides which lists remain, so that a source cannot decide it.

    Returns:
        Impressions of the remaining lists, in order; none if there are fewer than 1 / share sessions or clients.
    """
    for source in (lambda click: click.buyer_id, source_of):
        lists = {list_of(click): source(click) for click in clicks}
        counts, limit = Counter(lists.values()), len(lists)
        while limit > (fair := int(share * sum(min(count, limit) for count in counts.values()))):
            limit = fair
        remaining, counts = set[tuple[str, str, datetime]](), Counter[str]()
        for shown in sorted(lists, key=lambda shown: share_of(repr(shown), seed)):
            counts[lists[shown]] += 1
            if counts[lists[shown]] <= limit:
                remaining.add(shown)
        clicks = [click for click in clicks if list_of(click) in remaining]
    return list(clicks)


def by_query_and_day(clicks: Iterable[Click]) -> dict[Key, list[Click]]:
    """Group impressions by folded query and day; every click gets the query's first spelling."""
    spellings: dict[str, str] = {}
    groups: dict[Key, list[Click]] = defaultdict(list)
    for click in clicks:
        query = spellings.setdefault(fold(click.query), click.query)
        groups[query, click.timestamp.date()].append(replace(click, query=query))
    return groups


def part_of(source: str, seed: int) -> str:
    """Return the part of the data that a source belongs to, independent of the rest of the log."""
    place, upto = share_of(source, seed), 0.0
    for part, share in PARTS.items():
        upto += share
        if place < upto:
            return part
    return part


def find_candidates(
    clicks: Mapping[Key, Sequence[Click]], candidates: Candidates, seed: int, progress: Progress | None = None
) -> list[ShownQuery]:
    """Search the current candidates of every query of every day.

    Args:
        clicks: result of by_query_and_day().
        candidates: function from (query, moment) to ids in first-stage order and features (N, F).
        seed: seed that assigns the sources to parts.
        progress: called with (queries done, queries).
    """
    queries = []
    for done, ((query, _), shown) in enumerate(clicks.items(), 1):
        parts: dict[str, list[Click]] = defaultdict(list)
        for click in shown:
            parts[part_of(source_of(click), seed)].append(click)
        queries.append(ShownQuery(*candidates(query, min(click.timestamp for click in shown)), parts))
        if progress:
            progress(done, len(clicks))
    return queries


def ranking_data(queries: Iterable[ShownQuery], part: str, position_bias_exponent: float) -> RankingData:
    """Return the rows of one part, for the queries whose candidates differ in gain."""
    rows = [labelled for query in queries if (labelled := query.labelled(part, position_bias_exponent)) is not None]
    return RankingData([features for features, _ in rows], [labels for _, labels in rows])


def ndcg(scores: NDArray[np.float32], gains: NDArray[np.float32], depth: int = 10) -> float:
    """Return nDCG of N candidates with linear gain (Järvelin and Kekäläinen, 2002); equal scores keep their order.

    Args:
        scores: (N,), higher is better.
        gains: (N,) >= 0, at least one above 0.
        depth: number of ranks that count.
    """
    discounts = 1.0 / np.log2(np.arange(2, min(depth, len(gains)) + 2))  # (min(depth, N),)
    best_first = gains[np.argsort(-scores, kind="stable")][: len(discounts)]
    return float(best_first @ discounts / (np.sort(gains)[::-1][: len(discounts)] @ discounts))
