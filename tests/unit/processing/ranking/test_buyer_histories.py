"""What buyers had done before they asked, as training reads it from a click log; and that serving fills the features alike."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from lots import WordEncoder, lot, publish

from catalog.folder import CatalogFolder, Click, SplitData, write_catalog, write_items
from processing.evaluation.corpus import catalog_moment
from processing.ranking import train_job as job
from processing.ranking.histories import BuyerHistories, BuyerQuery
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import Item
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.ranker.features import FEATURES
from retrieval.ranker.xgboost_ranker import RankingData
from retrieval.search.service import MAX_INTERACTIONS, SearchModels, SearchRequest, SearchService

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
KINDS = ("red vase", "blue vase", "gold watch", "silver watch", "old lamp", "round ring")


def click(query: str, item_id: str, event: str | None = None, buyer: str = "ann", at: datetime = NOW) -> Click:
    return Click(query, item_id, 1, event, buyer, at)


def test_a_buyers_acts_before_a_moment_are_known_and_no_later_ones() -> None:
    log = [
        click("vase", "late", "view", at=NOW),
        click("vase", "early", "purchase", at=NOW - HOUR),
        click("vase", "left alone", at=NOW - HOUR),
        click("vase", "of another", "view", "bob", NOW - HOUR),
    ]
    histories = BuyerHistories(log)
    assert histories.before("ann", NOW) == (Interaction("ann", "early", "purchase", NOW - HOUR),)
    assert [act.item_id for act in histories.before("ann", NOW + HOUR)] == ["early", "late"]
    assert histories.before("ann", NOW - HOUR) == histories.before("nobody", NOW) == ()


def test_of_a_long_history_the_latest_acts_are_known() -> None:
    histories = BuyerHistories(click("vase", str(n), "view", at=NOW + n * HOUR) for n in range(MAX_INTERACTIONS + 50))
    known = histories.before("ann", NOW + (MAX_INTERACTIONS + 20) * HOUR)
    assert [act.item_id for act in known] == [str(n) for n in range(20, MAX_INTERACTIONS + 20)]


def test_lists_of_buyers_who_had_done_something_are_questions_of_their_own() -> None:
    first = [click("vase", "a", "view"), click("vase", "b")]
    strangers = [replace(shown, buyer_id=f"stranger-{n}") for n in range(3) for shown in first]
    again = [click("watch", "c", "view", at=NOW + HOUR)]
    queries = BuyerHistories([*first, *again]).by_query([*first, *strangers, *again])
    assert queries == {BuyerQuery("watch", (Interaction("ann", "a", "view", NOW),)): again}


class Watching:
    """A re-ranker that notes the features that it is asked to score."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def score(self, features: np.ndarray) -> np.ndarray:
        self.seen.append(features)
        return np.zeros(len(features), dtype=np.float32)


def write_log(folder: Path, items: list[Item]) -> CatalogFolder:
    """Buyers who are shown every lot of a query and view two; Ann asks twice, and once after a lot that is gone."""
    write_items(folder / "items" / "lots.parquet", items)
    ids = [item.item_id for item in items]

    def shown(query: str, buyer: str, at: datetime) -> list[Click]:
        return [click(query, i, "view" if n % 9 == 4 else None, buyer, at) for n, i in enumerate(ids)]

    train = [*shown("vase", "ann", NOW - 3 * HOUR), *shown("gold watch", "ann", NOW - 2 * HOUR), *shown("ring", "bob", NOW - HOUR)]
    gone = [click("lamp", "gone", "purchase", "cy", NOW - 2 * HOUR)]
    val = [*gone, *shown("lamp", "cy", NOW - HOUR), *shown("red vase", "ann", NOW)]
    splits = {name: SplitData(["lots.parquet"], clicks=clicks) for name, clicks in (("train", train), ("val", val))}
    write_catalog(folder, name="shop", seed=0, splits=splits, example_queries=[])
    return CatalogFolder(folder)


def test_lists_of_known_buyers_train_where_buyers_have_a_taste_and_not_where_they_have_none(tmp_path: Path) -> None:
    items = [Item(f"{colour}-{n:02}", f"{colour} vase", listed_at=NOW) for n in range(12) for colour in ("red", "blue", "gold")]
    store = EmbeddedStore(tmp_path / "index")
    publish(store, [lot(i.item_id, i.title, listed_at=NOW) for i in items])
    rng = np.random.default_rng(5)

    def clicks(words: Sequence[str], taste: bool) -> list[Click]:
        made = []
        for turn in range(40):
            loved = ("red", "blue", "gold")[turn % 3]
            made.append(click("history", f"{loved}-00", "purchase", f"buyer-{turn}", NOW - HOUR))
            for query in words:
                for item in items:
                    wanted = item.item_id.startswith(loved) if taste else rng.random() < 0.3
                    made.append(click(query, item.item_id, "view" if wanted else None, f"buyer-{turn}"))
        return made

    def knows_buyers(taste: bool) -> bool:
        folder = tmp_path / f"taste-{taste}"
        write_items(folder / "items" / "lots.parquet", items)
        words = {"train": ("vase", "old vase", "new vase"), "val": ("round vase", "luxury vase")}
        splits = {name: SplitData(["lots.parquet"], clicks=clicks(asked, taste)) for name, asked in words.items()}
        write_catalog(folder, name="shop", seed=0, splits=splits, example_queries=[])
        service = SearchService(store, SearchModels(WordEncoder))
        return job.train_reranker(CatalogFolder(folder), service, tmp_path / f"{taste}.ubj", debias=False).knows_buyers

    assert knows_buyers(taste=True)
    assert not knows_buyers(taste=False)


def test_training_and_serving_fill_every_feature_alike_with_a_buyer_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item(f"lot-{n:02}", KINDS[n % 6], brand="Acme", current_price=10.0 + n, listed_at=NOW) for n in range(30)]
    store = EmbeddedStore(tmp_path / "index")
    publish(store, [lot(i.item_id, i.title, brand=i.brand, current_price=i.current_price, listed_at=NOW) for i in items])
    watching = Watching()
    service = SearchService(store, SearchModels(WordEncoder, lambda tower_id: watching))
    catalog = write_log(tmp_path / "shop", items)
    trained: list[np.ndarray] = []

    def gathered(features: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> RankingData:
        trained.extend(features)
        return RankingData(features, labels)

    monkeypatch.setattr(job, "RankingData", gathered)
    job.train_reranker(catalog, service, tmp_path / "r.ubj", candidates=50)

    histories = BuyerHistories([*catalog.clicks("train"), *catalog.clicks("val")])
    asked = [(query, "anybody", 0) for query in ("vase", "gold watch", "ring", "lamp", "red vase")]
    asked += [("gold watch", "ann", 2), ("lamp", "cy", 1), ("red vase", "ann", 0)]
    for query, buyer, hours in asked:
        recent = histories.before(buyer, NOW - hours * HOUR)
        service.search(SearchRequest(query, filters=Filter(now=catalog_moment(catalog)), recent=recent))
    for name in ("buyer_affinity", "buyer_brand_count", "buyer_brand_days", "price_to_buyer_median"):
        columns = [rows[:, FEATURES.index(name)] for rows in watching.seen]
        assert [bool(np.isnan(column).all()) for column in columns] == [True] * 5 + [False, True, False], name
        assert not np.isnan(columns[5]).any()
    assert len(trained) == len(watching.seen)
    for in_training, in_serving in zip(trained, watching.seen, strict=True):
        np.testing.assert_array_equal(in_training, in_serving)
