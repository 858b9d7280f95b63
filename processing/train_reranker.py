"""Trains the re-ranker on what buyers did with the lots that a search showed them."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean

import numpy as np

from catalog.folder import CatalogFolder, Click
from processing.corpus import catalog_moment
from retrieval.errors import InvalidInput
from retrieval.events import EVENT_WEIGHTS
from retrieval.index.base import Filter
from retrieval.items import query_text
from retrieval.ranker.features import feature_matrix
from retrieval.ranker.xgboost import RankingData, fit_booster
from retrieval.search import SearchRequest, SearchService, retrieve

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RerankerReport:
    """What the training saw.

    Attributes:
        path: the saved booster.
        train_queries: queries with a shown candidate that training used.
        val_queries: queries that chose the number of trees.
        rows: candidates of both.
    """

    path: Path
    train_queries: int
    val_queries: int
    rows: int


def train_reranker(
    catalog: CatalogFolder,
    service: SearchService,
    path: Path,
    *,
    candidates: int = 50,
    seed: int = 0,
    progress: Progress | None = None,
) -> RerankerReport:
    """Train LambdaMART on a catalogue's click log and save it.

    The rows are the first stage's own candidates, so that training sees what serving will; candidates that no buyer was
    shown say nothing and are left out. Searches happen at the catalogue's own moment, when the clicks were made, so that a
    training repeats.

    Args:
        catalog: its splits `train` and `val` hold clicks.
        service: searches the index that the catalogue's lots are in.
        path: where the booster goes.
        candidates: first-stage candidates a query, as in serving.
        seed: of the training.
        progress: called with (queries done, queries in all).

    Raises:
        InvalidInput: a split has no query with a clicked and an unclicked candidate.
    """
    now = catalog_moment(catalog)
    logs = {split: _gains(catalog.clicks(split)) for split in ("train", "val")}
    total = sum(len(gains) for gains in logs.values())
    data, queries, rows, done = {}, {}, 0, 0
    for split, gains_by_query in logs.items():
        features, labels = [], []
        for query, gains in gains_by_query.items():
            done += 1
            if progress:
                progress(done, total)
            x, y = _rows(service, query, gains, candidates, now)
            if len(set(y.tolist())) > 1:  # one gain for all says nothing about order
                features.append(x)
                labels.append(y)
        if not features:
            raise InvalidInput(f"the clicks of split {split!r} in {catalog.path} tell no candidates apart; collect more of them")
        data[split], queries[split], rows = RankingData(features, labels), len(features), rows + sum(len(y) for y in labels)
    fit_booster(data["train"], data["val"], seed=seed).save(path)
    return RerankerReport(path, queries["train"], queries["val"], rows)


def _gains(clicks: Sequence[Click]) -> dict[str, dict[str, float]]:
    """query -> item_id -> mean event weight over the times that the lot was shown, 0 for one never touched."""
    weights: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for click in clicks:
        weights[click.query][click.item_id].append(EVENT_WEIGHTS[click.event_type] if click.event_type else 0.0)
    return {query: {item_id: fmean(shown) for item_id, shown in items.items()} for query, items in weights.items()}


def _rows(
    service: SearchService, query: str, gains: dict[str, float], candidates: int, now: datetime
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and gains (N,) of the candidates of one query that buyers were shown."""
    request = SearchRequest(query, where=Filter(now=now))
    live = service.live()
    vector = live.encoder.encode([query_text(query)])[0]  # (D,)
    found = retrieve(live.index, request, vector, candidates)
    features = feature_matrix(query, vector, found, now)  # (N, F)
    shown = np.array([c.item_id in gains for c in found], dtype=bool)
    return features[shown], np.array([gains[c.item_id] for c in found if c.item_id in gains], dtype=np.float32)
