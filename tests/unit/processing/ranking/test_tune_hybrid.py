"""What `gavel tune hybrid` chooses, and from what."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from judged_lots import write_judged_catalog, write_release
from lots import WordEncoder

from catalog.folder import CatalogFolder, Qrels, SplitData, write_catalog
from processing.evaluation.plots import plot_fusion_weights
from processing.ranking.tune_hybrid import (
    BOOSTS,
    SELECTION_METRICS,
    JudgedLists,
    Lists,
    choose,
    fusions,
    ndcg_by_share,
    search_lists,
)
from retrieval.errors import InvalidInput
from retrieval.index.fusion import FUSION_KINDS, Fusion, Scored
from retrieval.index.hybrid_tuning import FieldBoosts, Tuning

WRONG: Scored = [(f"false-{n}", 1 - n / 20) for n in range(9)]


def lists(good: str, queries: int) -> JudgedLists:
    """Queries with one right lot each, which one of the lists has first and the other not at all."""
    grades = {f"q{n}": {"right": 3} for n in range(queries)}
    right = [("right", 1.0), *((f"other-{n}", 0.9 - n / 20) for n in range(9))]
    found = {"keyword": WRONG, "semantic": WRONG, good: right}
    return JudgedLists(
        grades, dict.fromkeys(grades, found["semantic"]), lambda boosts: dict.fromkeys(grades, found["keyword"]), depth=10
    )


@pytest.mark.parametrize("good", ["keyword", "semantic"])
def test_the_better_list_gets_more_weight(good: str) -> None:
    choice = choose(lists(good, 12), boosts=False)
    keyword, semantic = choice.chosen.tuning.fusion.weights
    assert choice.gain > 0
    assert (keyword > semantic) == (good == "keyword")
    assert choice.chosen.measures["ndcg@10"] == pytest.approx(1)


def test_one_query_is_no_reason_to_leave_what_stands() -> None:
    choice = choose(lists("semantic", 1), boosts=False)
    assert choice.best.score > choice.base.score
    assert choice.chosen.tuning == Tuning()


def test_what_is_best_by_chance_alone_is_not_chosen() -> None:
    """The right lot stands anywhere in both lists: some fusion is always best, and it says nothing of the next query."""
    generator = np.random.default_rng(2)

    def anywhere() -> Scored:
        scores = np.sort(generator.random(10))[::-1].tolist()
        return list(zip(generator.permutation(["right", *(f"wrong-{n}" for n in range(9))]).tolist(), scores, strict=True))

    grades = {f"q{n}": {"right": 3} for n in range(60)}
    semantic, keyword = ({query: anywhere() for query in grades} for _ in range(2))
    choice = choose(JudgedLists(grades, semantic, lambda boosts: keyword, depth=10), boosts=False)
    assert choice.best.score > choice.base.score
    assert choice.chosen.tuning == Tuning()


def test_where_nothing_is_better_everything_stays(tmp_path: Path) -> None:
    grades = {"q1": {"right": 3}, "q2": {"right": 2}}
    both: Lists = {query: [("right", 1.0), ("wrong", 0.5)] for query in grades}
    choice = choose(JudgedLists(grades, both, lambda boosts: both, depth=10))
    assert choice.chosen.tuning == Tuning()
    assert choice.gain == 0


def test_a_boost_that_finds_more_is_chosen_and_other_fields_stay_out() -> None:
    grades = {f"q{n}": {"right": 3} for n in range(5)}
    better: Lists = {query: [("right", 2.0), *WRONG] for query in grades}

    def keyword(boosts: FieldBoosts) -> Lists:
        return better if boosts.brand >= 0.25 else dict.fromkeys(grades, WRONG)

    choice = choose(JudgedLists(grades, dict.fromkeys(grades, WRONG), keyword, depth=10))
    assert choice.chosen.tuning.boosts == FieldBoosts(brand=0.25)


def test_weight_and_bm25_parameters_of_attributes_are_chosen_where_lots_have_attributes() -> None:
    grades = {f"q{n}": {"right": 3} for n in range(5)}
    second: Lists = {query: [("other", 2.5), ("right", 2.0), *WRONG] for query in grades}
    better: Lists = {query: [("right", 2.0), *WRONG] for query in grades}

    def keyword(boosts: FieldBoosts) -> Lists:
        if boosts.attributes < 1:
            return dict.fromkeys(grades, WRONG)
        return better if (boosts.attributes_k1, boosts.attributes_b) == (1.2, 0.75) else second

    lists = JudgedLists(grades, dict.fromkeys(grades, WRONG), keyword, depth=20, has_attributes=True)
    assert choose(lists).chosen.tuning.boosts == FieldBoosts(attributes=1, attributes_k1=1.2)
    assert choose(replace(lists, has_attributes=False)).chosen.tuning.boosts == FieldBoosts()


def test_progress_ends_where_it_said_it_would() -> None:
    for boosts in (False, True):
        seen: list[tuple[int, int]] = []
        choose(lists("keyword", 2), boosts=boosts, progress=lambda done, total, seen=seen: seen.append((done, total)))
        tried = 1 + len(list(fusions())) * (2 if boosts else 1) + (3 * len(BOOSTS) if boosts else 0)
        assert seen == [(n, tried) for n in range(1, tried + 1)]


def test_some_of_the_queries_can_choose_alone() -> None:
    every = lists("keyword", 4)
    assert choose(every.part(["q0", "q2"]), boosts=False).queries == 2


def test_lists_are_searched_as_they_are_served(tmp_path: Path) -> None:
    catalog, release = write_judged_catalog(tmp_path / "catalog"), write_release(tmp_path / "release")
    found = search_lists(catalog, "test", release, WordEncoder(), tmp_path / "index")
    assert sorted(found.grades) == ["q1", "q2", "q3"]
    keyword = found.keyword(FieldBoosts())
    assert [item for item, _ in keyword["q1"]][:2] == ["lot-0", "lot-2"]
    assert {item for item, _ in found.semantic["q2"][:2]} == {"lot-3", "lot-4"}
    assert "gone" not in {item for item, _ in (*keyword["q1"], *found.semantic["q1"])}
    assert found.keyword(FieldBoosts(category=1))["q2"][0][1] > keyword["q2"][0][1]
    measured = found.values(Tuning(Fusion("min_max")))
    assert {name: sorted(values) for name, values in measured.items()} == {name: ["q1", "q2", "q3"] for name in SELECTION_METRICS}


def test_a_split_without_judged_lots_is_refused(tmp_path: Path) -> None:
    empty = {"test": SplitData(["lots.parquet"], qrels=Qrels({"q": "red vase"}, {"q": {"lot-0": 1}}))}
    folder = write_judged_catalog(tmp_path / "catalog").path
    write_catalog(folder, name="tiny", seed=0, splits=empty, example_queries=[])
    catalog, release = CatalogFolder(folder), write_release(tmp_path / "release")
    with pytest.raises(InvalidInput, match="grade 2 or 3"):
        search_lists(catalog, "test", release, WordEncoder(), tmp_path / "index")


def test_the_plot_has_a_line_for_every_kind(tmp_path: Path) -> None:
    choice = choose(lists("semantic", 3), boosts=False)
    curves = ndcg_by_share(choice)
    assert {kind: [share for share, _ in points] for kind, points in curves.items()} == {
        kind: pytest.approx([tenth / 10 for tenth in range(1, 10)]) for kind in FUSION_KINDS
    }
    plot_fusion_weights(curves, (0.5, 0.9), "title", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
