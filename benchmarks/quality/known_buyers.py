"""The features of known buyers in the re-ranker: nDCG@10 with and without them, on clicks of simulated buyers.

Every buyer looks for lots of a style and category in words. Buyers with a taste prefer two makers and a price level of their own;
without one click on the words of the query alone. Each has a history before the first list. Boosters are trained and accepted as
`gavel train reranker` does, on buyers who do not occur in the test lists. Vectors are sums of one random vector per word.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from catalog.lots import Lot, draw_lots
from processing.evaluation.corpus import publish_corpus
from processing.ranking.train_job import KNOWN_BUYERS, SPLITS, candidate_features, fit_clicks
from retrieval.contracts.documents import IndexedItem, document_of
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import item_text
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.ranker.features import FEATURES
from retrieval.ranker.xgboost_ranker import RankingData
from retrieval.search.service import SearchModels, SearchService
from retrieval.text.analysis import words

LOTS, DIMENSIONS = 1_200, 64
BUYERS, LISTS, HISTORY = 300, 4, 10  # buyers; lists and earlier interactions of each
PARTS = {"train": 0.6, "val": 0.8, "test": 1.0}  # cumulative shares of the buyers
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TOWER_ID = "0" * 12
HABITS = tuple(name for name in FEATURES if "buyer" in name and name != "buyer_affinity")
SYSTEMS: Mapping[str, tuple[str, ...]] = {  # features that the system goes without
    "no feature of the buyer": (*HABITS, "buyer_affinity"),
    "affinity": HABITS,
    "affinity and habits": (),
}
Rows = tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]  # features (N, F) and clicks (N,) of each list


@dataclass(frozen=True)
class KnownBuyersResult(Measurement):
    """Mean nDCG@10 over the seeds.

    Attributes:
        seeds: number of seeds.
        lists: number of test lists of a seed, for buyers with and without a taste alike.
        known: buyers -> system -> nDCG@10 of test lists with the buyer's history.
        anonymous: buyers -> system -> nDCG@10 of the queries of these lists without a history, by the clicks of all buyers.
        accepted: buyers -> system -> number of seeds whose training took the lists of known buyers.
    """

    seeds: int
    lists: int
    known: dict[str, dict[str, float]]
    anonymous: dict[str, dict[str, float]]
    accepted: dict[str, dict[str, int]]


class WordVectors:
    """An encoder that adds up one random vector per word."""

    def __init__(self, tower_id: str = TOWER_ID) -> None:
        self.tower_id = tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (N, DIMENSIONS) float32 of unit length."""
        sums = np.stack([sum((_word_vector(word) for word in words(text)), np.full(DIMENSIONS, 1e-3)) for text in texts])
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), dtype=np.float32)


def _word_vector(word: str) -> NDArray[np.float64]:
    return np.random.default_rng(int.from_bytes(sha256(word.encode()).digest()[:4])).standard_normal(DIMENSIONS)


@dataclass(frozen=True)
class Buyer:
    """A simulated buyer.

    Attributes:
        makers: preferred makers; empty for a buyer without a taste.
        price_ratio: preferred price divided by the median price of a category.
    """

    makers: frozenset[str]
    price_ratio: float

    def interest(self, lot: Lot) -> float:
        """Return the chance of a click on a lot of the category that the buyer looks for."""
        if not self.makers:
            return 0.3
        near = abs(math.log(lot.price_ratio / self.price_ratio)) < 0.5
        return 0.05 + 0.45 * (lot.traits["maker"] in self.makers) + 0.35 * near


def run_benchmark(seeds: int = 3) -> KnownBuyersResult:
    """Train and test every system for buyers with and without a taste.

    Args:
        seeds: number of repetitions with other lots, buyers and clicks.
    """
    machine, lists = describe_machine(), 0
    known: dict[str, dict[str, list[float]]] = {}
    anonymous: dict[str, dict[str, list[float]]] = {}
    accepted: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        for taste, kind in ((True, "with a taste"), (False, "without a taste")):
            data = gather_lists(seed, taste=taste)
            lists = len(data[_known("test")][0])
            for system, absent in SYSTEMS.items():
                masked = {part: _without(rows, absent) for part, rows in data.items()}
                booster, personal = fit_clicks(masked, seed, None)
                for table, value in (
                    (known, booster.ndcg_at_10(masked[_known("test")])),
                    (anonymous, booster.ndcg_at_10(masked["test"])),
                    (accepted, float(personal)),
                ):
                    table.setdefault(kind, {}).setdefault(system, []).append(value)
    counts = {kind: {system: int(sum(values)) for system, values in of.items()} for kind, of in accepted.items()}
    return KnownBuyersResult(seeds, lists, _means(known), _means(anonymous), counts, machine=machine)


def _means(values: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {kind: {system: fmean(each) for system, each in of.items()} for kind, of in values.items()}


def gather_lists(seed: int, *, taste: bool) -> dict[str, Rows]:
    """Return part -> features and clicks of the lists of its buyers; the parts of KNOWN_BUYERS have the buyers' histories."""
    rng = np.random.default_rng(seed)
    lots = draw_lots(LOTS, rng, NOW)
    with tempfile.TemporaryDirectory(prefix="gavel-bench-") as folder:
        store = EmbeddedStore(Path(folder))
        vectors = WordVectors().encode([item_text(lot.item.title, lot.item.description) for lot in lots])
        publish_corpus(store, TOWER_ID, DIMENSIONS, (_entry(lot, vector) for lot, vector in zip(lots, vectors, strict=True)))
        service = SearchService(store, SearchModels(WordVectors))
        rows: dict[str, Rows] = {}
        clicks_of: dict[tuple[str, str], list[dict[str, float]]] = {}  # part and query -> clicks of each of its lists
        queries = sorted({f"{lot.traits['style']} {lot.traits['category']}" for lot in lots})
        for number in range(BUYERS):
            part = next(name for name, share in PARTS.items() if number < share * BUYERS)
            buyer = _draw_buyer(lots, rng, taste=taste)
            recent = _draw_history(f"buyer-{number}", buyer, lots, rng)
            for _ in range(LISTS):
                query = queries[int(rng.integers(len(queries)))]
                clicks = _draw_clicks(buyer, query, lots, rng)
                clicks_of.setdefault((part, query), []).append(clicks)
                _add_list(rows, _known(part), service, query, clicks, recent)
        for (part, query), of_query in clicks_of.items():
            item_ids = {item_id for clicks in of_query for item_id in clicks}
            mean = {item_id: fmean(clicks.get(item_id, 0.0) for clicks in of_query) for item_id in item_ids}
            _add_list(rows, part, service, query, mean, ())
        service.live().index.close()
    return rows


def _draw_clicks(buyer: Buyer, query: str, lots: Sequence[Lot], rng: Generator) -> dict[str, float]:
    """Return item_id -> 1 for the lots that the buyer clicks on: lots of the category, twice as often in the style."""
    style, _, category = query.partition(" ")
    chances = {
        lot.item.item_id: buyer.interest(lot) * (1.0 if lot.traits["style"] == style else 0.5)
        for lot in lots
        if lot.traits["category"] == category
    }
    return {item_id: 1.0 for item_id, chance in chances.items() if rng.random() < chance}


def _add_list(
    rows: dict[str, Rows],
    part: str,
    service: SearchService,
    query: str,
    gains: Mapping[str, float],
    recent: Sequence[Interaction],
) -> None:
    """Search as the buyer does, and add features and gains of the candidates unless all gains are equal."""
    item_ids, features = candidate_features(service, query, NOW, recent=recent)
    of_candidates = np.array([gains.get(item_id, 0.0) for item_id in item_ids], dtype=np.float32)
    if len(set(of_candidates.tolist())) > 1:
        of_part = rows.setdefault(part, ([], []))
        of_part[0].append(features)
        of_part[1].append(of_candidates)


def _known(part: str) -> str:
    return KNOWN_BUYERS[part] if part in SPLITS else f"{part}, known buyers"


def _draw_buyer(lots: Sequence[Lot], rng: Generator, *, taste: bool) -> Buyer:
    makers = frozenset(lots[int(n)].traits["maker"] for n in rng.integers(len(lots), size=2)) if taste else frozenset[str]()
    return Buyer(makers, float(np.exp(rng.normal(0.0, 0.7))))


def _draw_history(buyer_id: str, buyer: Buyer, lots: Sequence[Lot], rng: Generator) -> tuple[Interaction, ...]:
    chances = np.array([buyer.interest(lot) for lot in lots])
    chosen = rng.choice(len(lots), size=HISTORY, replace=False, p=chances / chances.sum())
    hours = sorted(rng.uniform(1, 24 * 30, size=HISTORY), reverse=True)
    return tuple(
        Interaction(buyer_id, lots[int(n)].item.item_id, "view", NOW - timedelta(hours=float(age)))
        for n, age in zip(chosen, hours, strict=True)
    )


def _without(rows: Rows, absent: Sequence[str]) -> RankingData:
    """Return the rows with missing values in the columns of some features."""
    columns = [FEATURES.index(name) for name in absent]
    features, labels = rows
    masked = [matrix.copy() for matrix in features]
    for matrix in masked:
        matrix[:, columns] = np.nan
    return RankingData(masked, labels)


def _entry(lot: Lot, vector: NDArray[np.float32]) -> IndexedItem:
    document = document_of(lot.item, has_image=True, tower_id=TOWER_ID, release_id="bench")
    return IndexedItem(lot.item.item_id, lot.item.version, document, vector)
