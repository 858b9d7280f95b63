"""What the cluster benchmark calls a wrong answer."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.reliability.cluster_items import K, ask, make_lots
from benchmarks.reliability.cluster_load import fault, recall_of
from retrieval.index.port import Candidate

LOTS = make_lots(300, 16)
KNOWN = {lot.item_id: lot for lot in LOTS}


@pytest.fixture(scope="module")
def question(tmp_path_factory):
    """One that asks for a category, and has more than one lot to answer it."""
    asked = ask(tmp_path_factory.mktemp("exact") / "index", LOTS, 12)
    return next(q for q in asked if q.filters.categories and len(q.nearest) > 2)


def answer(question):
    return [
        Candidate(item_id, score, KNOWN[item_id].document, KNOWN[item_id].vector)
        for item_id, score in zip(question.nearest, question.scores, strict=True)
    ]


def test_the_right_answer_has_no_fault(question):
    assert fault(question, answer(question), KNOWN) == ""
    assert recall_of(question, answer(question)) == 1


def test_fewer_lots_another_order_another_score_and_forbidden_lots_are_faults(question):
    right = answer(question)
    assert "lots, not" in fault(question, right[:-1], KNOWN)
    assert fault(question, right[::-1], KNOWN) == "the order is another"
    assert "has the cosine" in fault(question, [replace(right[0], score=right[0].score + 0.01), *right[1:]], KNOWN)
    other = next(lot for lot in LOTS if lot.document["category"] not in question.filters.categories)
    forbidden = Candidate(other.item_id, right[0].score, other.document, other.vector)
    assert fault(question, [forbidden, *right[1:]], KNOWN) == f"{other.item_id} must not come"


def test_questions_come_with_every_kind_of_filter_and_with_none(tmp_path: Path):
    asked = ask(tmp_path / "index", LOTS, 6)
    kinds = [(bool(q.filters.categories), bool(q.filters.brands), q.filters.min_price is not None) for q in asked]
    assert len(set(kinds)) == 4
    assert all(len(q.nearest) <= K for q in asked)
