"""The training of the re-ranker, on judgments and on clicks, over a real embedded index."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from judged_lots import write_release
from lots import TOWER_ID, WORDS, WordEncoder, lot, publish

from catalog.folder import CatalogFolder, Click, Qrels, SplitData, write_catalog, write_items
from processing.command_line import EXIT_USAGE
from processing.ranking import train_job as job
from processing.ranking.train_job import Labels, train_reranker
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.ranker.xgboost_ranker import BoosterRanker
from retrieval.search.service import SearchModels, SearchRequest, SearchService

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
QUERIES = {"train": WORDS[:8], "val": WORDS[8:]}
PRICES = (900.0, 800.0, 30.0, 700.0, 600.0, 20.0, 500.0, 950.0, 40.0, 850.0, 750.0, 10.0, 650.0, 550.0, 50.0)


def items() -> list[Item]:
    """Fifteen lots a word, alike but for their price: five are cheap."""
    return [
        Item(f"{word}-{n}", f"a {word}", current_price=price, listed_at=NOW) for word in WORDS for n, price in enumerate(PRICES)
    ]


def is_cheap(item_id: str) -> bool:
    return PRICES[int(item_id.split("-")[1])] < 100


def write_shop(
    folder: Path, *, judged: bool = True, clicked: bool = False, wanted: Callable[[str], bool] = is_cheap
) -> CatalogFolder:
    """A catalogue whose buyers want what is cheap, or what `wanted` says of an item_id."""
    splits = {}
    write_items(folder / "items" / "lots.parquet", items())
    for split, words in QUERIES.items():
        ids = {word: [f"{word}-{n}" for n in range(len(PRICES))] for word in words}
        grades = {word: {i: 3 for i in ids[word] if wanted(i)} for word in words} if judged else {}
        clicks = [
            Click(word, i, place, "view" if wanted(i) else None, f"buyer-{turn}", NOW)
            for word in (words if clicked else ())
            for turn in range(2)
            for place, i in enumerate(ids[word] if turn else reversed(ids[word]), 1)
        ]
        splits[split] = SplitData(["lots.parquet"], qrels=Qrels({word: word for word in grades}, grades), clicks=clicks)
    write_catalog(folder, name="shop", seed=0, splits=splits, example_queries=[])
    return CatalogFolder(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    made = EmbeddedStore(tmp_path_factory.mktemp("index"))
    publish(made, [lot(i.item_id, i.title, current_price=i.current_price, listed_at=NOW) for i in items()])
    return made


def service(store: EmbeddedStore, ranker: BoosterRanker | None = None) -> SearchService:
    return SearchService(store, SearchModels(WordEncoder, lambda tower_id: ranker))


def first_two(store: EmbeddedStore, booster: Path, query: str) -> set[str]:
    answer = service(store, BoosterRanker.load(booster)).search(SearchRequest(query, 2, filters=Filter(now=NOW)))
    assert answer.reranked
    return {result.item_id for result in answer.results}


@pytest.mark.parametrize(("labels", "shop"), [("judgments", {}), ("clicks", {"judged": False, "clicked": True})])
def test_what_buyers_want_comes_first_whether_they_judged_or_clicked(
    labels: Labels, shop: dict[str, bool], store: EmbeddedStore, tmp_path: Path
) -> None:
    catalog = write_shop(tmp_path / "shop", **shop)
    report = train_reranker(catalog, service(store), tmp_path / "r.ubj")
    assert (report.labels, report.train_queries, report.val_queries) == (labels, 8, 4)
    assert all(is_cheap(i) for i in first_two(store, tmp_path / "r.ubj", "gold"))


@pytest.mark.parametrize(("labels", "shop"), [("judgments", {}), ("clicks", {"judged": False, "clicked": True})])
def test_a_booster_that_ranks_no_better_than_the_first_stage_is_not_saved_unless_forced(
    labels: Labels, shop: dict[str, bool], store: EmbeddedStore, tmp_path: Path
) -> None:
    first = {
        result.item_id
        for word in WORDS
        for result in service(store).search(SearchRequest(word, 3, filters=Filter(now=NOW))).results
    }
    catalog, path = write_shop(tmp_path / "shop", wanted=first.__contains__, **shop), tmp_path / "r.ubj"
    report = train_reranker(catalog, service(store), path)
    assert (report.saved, report.base_ndcg_at_10, path.exists()) == (False, 1.0, False)
    assert report.reason.endswith("no gain; no re-ranker is stored, --force would save it")
    before = train_reranker(write_shop(tmp_path / "cheap", **shop), service(store), path)
    assert before.saved
    assert before.new_ndcg_at_10 > before.base_ndcg_at_10
    kept = path.read_bytes()
    assert "the earlier re-ranker stays as it is" in train_reranker(catalog, service(store), path).reason
    assert path.read_bytes() == kept
    forced = train_reranker(catalog, service(store), path, force=True)
    assert forced.saved
    assert forced.reason.endswith("no gain; saved all the same")
    assert path.read_bytes() != kept


def test_clicks_go_before_judgments_unless_the_labels_are_named(store: EmbeddedStore, tmp_path: Path) -> None:
    catalog = write_shop(tmp_path / "shop", clicked=True)
    clicked = train_reranker(catalog, service(store), tmp_path / "c.ubj")
    judged = train_reranker(catalog, service(store), tmp_path / "j.ubj", labels="judgments")
    assert (clicked.labels, clicked.choice) == ("clicks", None)
    assert clicked.position_bias == 0.0, "these buyers look everywhere"
    assert (judged.labels, judged.position_bias) == ("judgments", None)
    assert judged.choice is not None


def test_clicks_can_be_taken_as_they_fell(store: EmbeddedStore, tmp_path: Path) -> None:
    catalog = write_shop(tmp_path / "shop", clicked=True)
    assert train_reranker(catalog, service(store), tmp_path / "r.ubj", debias=False).position_bias is None


def test_candidates_that_nobody_judged_count_as_wrong_and_those_that_nobody_was_shown_are_left_out(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    judged = train_reranker(write_shop(tmp_path / "judged"), service(store), tmp_path / "j.ubj", candidates=20)
    clicked = train_reranker(
        write_shop(tmp_path / "clicked", judged=False, clicked=True), service(store), tmp_path / "c.ubj", candidates=20
    )
    assert judged.rows == 12 * 20
    assert clicked.rows == 12 * len(PRICES)


def test_a_training_repeats_to_the_byte(store: EmbeddedStore, tmp_path: Path) -> None:
    catalog = write_shop(tmp_path / "shop")
    files = [train_reranker(catalog, service(store), tmp_path / f"{n}.ubj", seed=3).path.read_bytes() for n in range(2)]
    assert files[0] == files[1]


def test_without_labels_or_under_a_name_that_is_none_the_reason_is_told(store: EmbeddedStore, tmp_path: Path) -> None:
    catalog = write_shop(tmp_path / "shop", judged=False)
    with pytest.raises(InvalidInput, match=r"'train' of .* has no clicks or judgments"):
        train_reranker(catalog, service(store), tmp_path / "r.ubj")
    with pytest.raises(InvalidInput, match="no labels 'guesses'; use clicks or judgments"):
        train_reranker(catalog, service(store), tmp_path / "r.ubj", labels="guesses")  # type: ignore[arg-type]
    assert not (tmp_path / "r.ubj").exists()


def test_the_job_indexes_a_release_trains_and_reports_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job.QueryEncoder, "load", lambda folder, dimensions=None: WordEncoder(folder.name))
    write_shop(tmp_path / "shop")
    write_release(tmp_path / "release", [replace(item, updated_at=NOW) for item in items()])
    flags = ["--catalog", str(tmp_path / "shop"), "--tower", str(tmp_path / TOWER_ID), "--release", str(tmp_path / "release")]
    assert job.main([*flags, "--output", str(tmp_path / "out" / "reranker.ubj")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["labels"], report["train_queries"], report["path"]) == ("judgments", 8, str(tmp_path / "out" / "reranker.ubj"))
    assert {"max_depth", "rounds", "ndcg_at_10"} <= set(report)
    BoosterRanker.load(tmp_path / "out" / "reranker.ubj")
    assert job.main([*flags, "--labels", "clicks"]) == EXIT_USAGE
    assert "no clicks or judgments" in capsys.readouterr().err
