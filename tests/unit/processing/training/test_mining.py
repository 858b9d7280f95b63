"""Mining: an answer never becomes a negative, and neither does a lot that might well be one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lots import TOWER_ID, WordEncoder, lot, publish

from catalog.folder import CatalogFolder, Qrels, SplitData, TrainingPair, write_catalog, write_items
from processing.training.mining import mine_negatives, mine_or_reuse
from processing.training.mining_rules import MiningRules, TrainingQuery, choose
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput, TowerMismatch
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.port import VectorIndex

TITLES = {
    "red-vase": "red vase",
    "red-vase-2": "red vase",
    "blue-vase": "blue vase",
    "red-lamp": "red lamp",
    "old-red-vase": "old red vase",
    "ring": "gold ring",
}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
IDS = st.sampled_from("abcdefghij")
SCORES = st.floats(-1, 1, width=32)


def catalogue(folder: Path, pairs: Sequence[TrainingPair], grades: dict[str, dict[str, int]] | None = None) -> CatalogFolder:
    """A catalogue of TITLES; the auctions of all its lots have ended."""
    write_items(folder / "items" / "lots.parquet", (Item(i, title, ends_at=LONG_AGO) for i, title in TITLES.items()))
    qrels = Qrels({query: query for query in grades or {}}, grades or {})
    splits = {"train": SplitData(["lots.parquet"], pairs, qrels)}
    write_catalog(folder, name="tiny", seed=0, splits=splits, example_queries=[])
    return CatalogFolder(folder)


def index_of(folder: Path, titles: dict[str, str] = TITLES) -> VectorIndex:
    return publish(EmbeddedStore(folder), [lot(item_id, title, ends_at=LONG_AGO) for item_id, title in titles.items()])


def mined(tmp_path: Path, pairs: Sequence[TrainingPair], grades: dict[str, dict[str, int]] | None = None, **rules) -> dict:
    made = catalogue(tmp_path / "catalog", pairs, grades)
    return mine_negatives(made, index_of(tmp_path / "index"), WordEncoder(), MiningRules(**rules)).by_query


def test_the_nearest_wrong_lots_come_best_first_though_their_auctions_have_ended(tmp_path):
    found = mined(tmp_path, [TrainingPair("Red  vase", "red-vase"), TrainingPair("Red vase", "red-vase-2")], per_query=3)
    assert found == {"Red vase": ["old-red-vase", "blue-vase", "red-lamp"]}


def test_an_unjudged_lot_as_similar_as_the_answer_is_left_out(tmp_path):
    pairs = [TrainingPair("red vase", "red-vase")]
    assert "red-vase-2" not in mined(tmp_path / "share", pairs)["red vase"]
    assert "red-vase-2" not in mined(tmp_path / "difference", pairs, relative=False)["red vase"]
    assert mined(tmp_path / "none", pairs, margin=None)["red vase"][0] == "red-vase-2"


def test_a_lot_that_was_judged_wrong_is_taken_however_similar_and_one_judged_right_never(tmp_path):
    pairs = [TrainingPair("red vase", "red-vase")]
    found = mined(tmp_path, pairs, {"red vase": {"red-vase-2": 0, "old-red-vase": 1, "ring": 3}})
    assert found["red vase"] == ["red-vase-2", "blue-vase", "red-lamp"]


def test_the_first_ranks_can_be_skipped(tmp_path):
    assert mined(tmp_path, [TrainingPair("red vase", "red-vase")], margin=None, skip=3)["red vase"][0] == "blue-vase"


def test_lots_of_another_split_are_passed_over(tmp_path):
    made = catalogue(tmp_path / "catalog", [TrainingPair("red vase", "red-vase")])
    index = index_of(tmp_path / "index", {**TITLES, "test-lot": "red lamp"})
    found = mine_negatives(made, index, WordEncoder())
    assert "test-lot" not in found.by_query["red vase"]
    assert found.stats["left_out_foreign"] == 1


def test_a_query_whose_answer_ranks_low_is_searched_deeper(tmp_path):
    titles = {**{f"lot-{n:02}": "red vase" for n in range(12)}, "answer": "red watch", "wrong": "gold ring"}
    made = tmp_path / "catalog"
    write_items(made / "items" / "lots.parquet", (Item(i, t) for i, t in titles.items()))
    splits = {"train": SplitData(["lots.parquet"], [TrainingPair("red vase", "answer")])}
    write_catalog(made, name="deep", seed=0, splits=splits, example_queries=[])
    index = index_of(tmp_path / "index", titles)
    found = mine_negatives(CatalogFolder(made), index, WordEncoder(), MiningRules(per_query=1, depth=4))
    assert found.by_query == {"red vase": ["wrong"]}


def test_the_stats_tell_what_was_left_out(tmp_path):
    pairs = [TrainingPair("red vase", "red-vase"), TrainingPair("gold ring", "ring"), TrainingPair("blue", "not indexed")]
    made = catalogue(tmp_path / "catalog", pairs)
    found = mine_negatives(made, index_of(tmp_path / "index"), WordEncoder(), MiningRules(per_query=4, depth=6))
    assert found.stats["queries"] == 3
    assert found.stats["queries_without_answer"] == 1
    assert found.stats["left_out_positive"] == 2
    assert found.stats["left_out_too_similar"] == 1, "the second red vase"
    assert found.stats["negatives"] == sum(len(ids) for ids in found.by_query.values()) == 8
    assert found.settings["tower_id"] == TOWER_ID


def test_the_same_tower_rules_and_catalogue_are_mined_once(tmp_path):
    pairs = [TrainingPair("red vase", "red-vase")]
    made, index, path = catalogue(tmp_path / "catalog", pairs), index_of(tmp_path / "index"), tmp_path / "n.parquet"
    first, reused = mine_or_reuse(path, made, index, WordEncoder())
    assert not reused
    rebuilt = index_of(tmp_path / "another-index")
    assert mine_or_reuse(path, made, rebuilt, WordEncoder()) == (first, True)
    assert not mine_or_reuse(path, made, index, WordEncoder(), MiningRules(per_query=2))[1], "other rules"
    other = catalogue(tmp_path / "catalog", [*pairs, TrainingPair("ring", "ring")])
    assert not mine_or_reuse(path, other, index, WordEncoder(), MiningRules(per_query=2))[1], "other pairs"
    path.write_bytes(b"damaged")
    assert mine_or_reuse(path, other, index, WordEncoder())[0].by_query.keys() == {"red vase", "ring"}


def test_an_encoder_of_another_tower_is_refused(tmp_path):
    made = catalogue(tmp_path / "catalog", [TrainingPair("red vase", "red-vase")])
    with pytest.raises(TowerMismatch, match="another1"):
        mine_negatives(made, index_of(tmp_path / "index"), WordEncoder("another1"))


def test_a_catalogue_without_pairs_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="no training pairs"):
        mine_negatives(catalogue(tmp_path / "catalog", []), index_of(tmp_path / "index"), WordEncoder())


@pytest.mark.parametrize("wrong", [{"per_query": 0}, {"depth": 3}, {"skip": -1}, {"margin": -0.1}, {"margin": float("nan")}])
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidInput):
        MiningRules(**wrong)


@given(
    hits=st.lists(st.tuples(IDS, SCORES), unique_by=lambda hit: hit[0]).map(lambda hits: sorted(hits, key=lambda h: -h[1])),
    answers=st.sets(IDS),
    judged=st.dictionaries(IDS, st.integers(0, 3)),
    lots=st.sets(IDS),
    best=SCORES,
    margin=st.floats(0, 1),
    relative=st.booleans(),
    skip=st.integers(0, 4),
)
def test_no_answer_no_foreign_lot_and_no_unjudged_lot_above_the_ceiling_ever_comes(
    hits, answers, judged, lots, best, margin, relative, skip
):
    rules = MiningRules(per_query=3, skip=skip, margin=margin, relative=relative)
    choice = choose(hits, TrainingQuery("q", answers, judged), best, lots, rules)
    taken = dict(choice.negatives)
    assert list(choice.negatives) == [hit for hit in hits if hit[0] in taken], "in the order of the hits"
    assert len(taken) <= 3
    assert not taken.keys() & answers
    assert all(judged.get(item_id) in (0, None) for item_id in taken)
    assert taken.keys() <= lots
    for item_id, score in taken.items():
        assert item_id in judged or score <= best, "the ceiling is never above the answer"
    if len(taken) < 3:
        assert len(taken) + sum(choice.left_out.values()) == len(hits)
