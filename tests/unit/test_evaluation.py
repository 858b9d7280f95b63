"""Measures of retrieval quality, against figures worked out by hand."""

import math

import pytest

from retrieval.evaluation import evaluate, evaluate_per_query


def test_recall_counts_grades_of_two_and_three() -> None:
    grades = {"q": {"a": 3, "b": 2, "c": 1}}
    assert evaluate(grades, {"q": ["a", "c", "x"]})["recall@10"] == 0.5


def test_recall_looks_no_deeper_than_its_depth() -> None:
    found_at_50 = [f"x{n}" for n in range(49)] + ["a"]
    quality = evaluate({"q": {"a": 2}}, {"q": found_at_50})
    assert (quality["recall@10"], quality["recall@50"]) == (0.0, 1.0)


def test_mrr_is_the_reciprocal_rank_of_the_first_relevant_lot() -> None:
    assert evaluate({"q": {"a": 2, "b": 1}}, {"q": ["b", "x", "a"]})["mrr"] == pytest.approx(1 / 3)


def test_ndcg_discounts_gains_by_the_logarithm_of_the_rank() -> None:
    got = evaluate({"q": {"a": 3, "b": 1}}, {"q": ["b", "a"]})["ndcg@10"]
    assert got == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_a_judged_query_without_an_answer_counts_as_zero() -> None:
    assert evaluate({"q": {"a": 2}, "r": {"b": 2}}, {"q": ["a"]})["recall@10"] == 0.5


def test_a_query_without_a_relevant_lot_is_not_measured() -> None:
    assert evaluate_per_query({"q": {"a": 1}}, {"q": ["a"]})["recall@10"] == {}
    assert evaluate({"q": {"a": 1}}, {"q": ["a"]}) == {}
