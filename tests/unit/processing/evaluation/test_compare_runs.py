"""Two runs held against each other."""

from pathlib import Path

import pytest
from judged_lots import write_judged_catalog

from processing.evaluation.compare import JudgedQueries, compare_runs, side_by_side
from retrieval.errors import InvalidInput

BASE = {"q1": ["lot-1", "lot-0"], "q2": ["lot-3", "lot-4"], "q3": ["lot-6"]}
NEW = {"q1": ["lot-0", "lot-2"], "q2": ["lot-7"], "q3": ["lot-6"]}


@pytest.fixture
def judged(tmp_path: Path) -> JudgedQueries:
    return JudgedQueries(write_judged_catalog(tmp_path), "test")


def test_a_comparison_says_who_won_where(judged: JudgedQueries) -> None:
    made = compare_runs(judged, BASE, NEW, names=("old", "new"))
    assert (made.tests["ndcg@10"].wins, made.tests["ndcg@10"].losses, made.tests["ndcg@10"].ties) == (1, 1, 1)
    assert [change.query for change in made.gains] == ["red vase"]
    assert [(change.query, change.base, change.new) for change in made.losses] == [("ring", 1.0, 0.0)]


def test_equal_runs_have_neither_gains_nor_losses(judged: JudgedQueries) -> None:
    made = compare_runs(judged, BASE, BASE, names=("old", "new"))
    assert (made.gains, made.losses, made.tests["recall@50"].p_value) == ([], [], 1.0)


def test_a_run_of_other_queries_is_refused(judged: JudgedQueries) -> None:
    with pytest.raises(InvalidInput, match="new answers no query of split 'test'"):
        compare_runs(judged, BASE, {"x": ["lot-0"]}, names=("old", "new"))


def test_both_lists_stand_side_by_side_with_title_grade_and_move(judged: JudgedQueries) -> None:
    shown = side_by_side(judged, "Red  VASE", BASE["q1"], NEW["q1"])
    assert shown.query_id == "q1"
    assert [(p.rank, p.title, p.grade, p.other_rank) for p in shown.new] == [(1, "red vase", 3, 2), (2, "old red vase", 2, None)]
    assert [(p.rank, p.title, p.grade, p.other_rank) for p in shown.base] == [(1, "blue vase", 1, None), (2, "red vase", 3, 1)]


def test_a_query_is_also_found_by_its_id(judged: JudgedQueries) -> None:
    assert side_by_side(judged, "q2", [], []).query == "ring"


def test_an_unjudged_query_has_no_grades(judged: JudgedQueries) -> None:
    shown = side_by_side(judged, "blue lamp", ["lot-7"], ["lot-8"])
    assert (shown.query_id, shown.base[0].grade, shown.new[0].title) == (None, None, "new lamp")
