"""Measures of retrieval quality, against figures worked out by hand."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import ALL_MEASURES, evaluate, evaluate_per_query, fuse_runs, measures_at
from retrieval.evaluation.significance import compare_paired


def test_recall_counts_grades_of_two_and_three() -> None:
    grades = {"q": {"a": 3, "b": 2, "c": 1}}
    assert evaluate(grades, {"q": ["a", "c", "x"]})["recall@10"] == 0.5


def test_recall_looks_no_deeper_than_its_depth() -> None:
    found_at_50 = [f"x{n}" for n in range(49)] + ["a"]
    quality = evaluate({"q": {"a": 2}}, {"q": found_at_50})
    assert (quality["recall@10"], quality["recall@50"]) == (0.0, 1.0)


def test_mrr_is_the_reciprocal_rank_of_the_first_relevant_lot() -> None:
    assert evaluate({"q": {"a": 2, "b": 1}}, {"q": ["b", "x", "a"]})["mrr"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("rank", "mrr"), [(50, 1 / 50), (51, 0.0)])
def test_mrr_counts_fifty_ranks_however_deep_the_run(rank: int, mrr: float) -> None:
    run = [f"x{n}" for n in range(1, rank)] + ["a"] + [f"y{n}" for n in range(100)]
    assert evaluate({"q": {"a": 2}}, {"q": run})["mrr"] == pytest.approx(mrr)


def test_ndcg_discounts_gains_by_the_logarithm_of_the_rank() -> None:
    got = evaluate({"q": {"a": 3, "b": 1}}, {"q": ["b", "a"]})["ndcg@10"]
    assert got == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_a_judged_query_without_an_answer_counts_as_zero() -> None:
    assert evaluate({"q": {"a": 2}, "r": {"b": 2}}, {"q": ["a"]})["recall@10"] == 0.5


def test_a_query_without_a_relevant_lot_is_not_measured() -> None:
    assert evaluate_per_query({"q": {"a": 1}}, {"q": ["a"]})["recall@10"] == {}
    assert evaluate({"q": {"a": 1}}, {"q": ["a"]}) == {}


def test_every_measure_agrees_with_figures_worked_out_by_hand() -> None:
    grades = {"q": {"a": 3, "b": 2, "c": 1, "d": 2}}
    got = evaluate(grades, {"q": ["x", "a", "c", "y", "b", "z"]}, ALL_MEASURES)  # relevant: a at 2, b at 5, d missing
    discount = [1 / math.log2(rank + 1) for rank in range(1, 7)]
    ideal = 3 * discount[0] + 2 * discount[1] + 2 * discount[2] + 1 * discount[3]
    ndcg = (3 * discount[1] + 1 * discount[2] + 2 * discount[4]) / ideal
    deep = (5, 10, 20, 50, 100, 200, 1000)
    assert got == pytest.approx(
        {
            **{f"{name}@1": 0 for name in ("recall", "precision", "hit_rate", "map", "ndcg")},
            **{f"recall@{k}": 2 / 3 for k in deep},
            **{f"precision@{k}": 2 / k for k in deep},
            **{f"hit_rate@{k}": 1 for k in deep},
            **{f"map@{k}": (1 / 2 + 2 / 5) / 3 for k in deep},
            **{f"ndcg@{k}": ndcg for k in deep},
            "mrr": 1 / 2,
            "map": (1 / 2 + 2 / 5) / 3,
        }
    )


def test_recall_reaches_down_to_rank_1000() -> None:
    got = evaluate({"q": {"a": 2}}, {"q": [*(f"x{n}" for n in range(999)), "a"]}, ALL_MEASURES)
    assert (got["recall@200"], got["recall@1000"]) == (0.0, 1.0)


def test_measures_are_taken_at_the_depths_that_are_named() -> None:
    kinds = ("recall", "precision", "hit_rate", "map", "ndcg")
    assert set(measures_at((3, 700))) == {f"{kind}@{k}" for kind in kinds for k in (3, 700)} | {"mrr", "map"}


def test_the_exponential_gain_of_a_grade_is_two_to_its_power_less_one() -> None:
    measures = measures_at((1, 10), exponential_gain=True)
    got = evaluate({"q": {"a": 3, "b": 1, "c": 2}}, {"q": ["c", "b", "a"]}, measures)
    discount = [1 / math.log2(rank + 1) for rank in (1, 2, 3)]
    ideal = 7 * discount[0] + 3 * discount[1] + 1 * discount[2]
    assert got["ndcg_exp@1"] == pytest.approx(3 / 7)
    assert got["ndcg_exp@10"] == pytest.approx((3 * discount[0] + 1 * discount[1] + 7 * discount[2]) / ideal)
    assert got["ndcg@1"] == pytest.approx(2 / 3)


def test_no_measure_depends_on_the_order_of_a_set() -> None:
    code = (
        "from retrieval.evaluation.metrics import *; "
        "print(evaluate({'q': {'a': 3, 'b': 1}}, {'q': ['b', 'a']}, measures_at((1,), exponential_gain=True)))"
    )

    def measure(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout

    assert measure("1") == measure("9"), "of 24 seeds, 9 gave nDCG the gains of the other measure"


def test_fusion_prefers_what_both_runs_found() -> None:
    fused = fuse_runs([{"q": ["a", "b"], "r": ["c"]}, {"q": ["d", "b"]}], depth=2)
    assert fused == {"q": ["b", "a"], "r": ["c"]}


def queries(*values: float) -> dict[str, float]:
    return {f"q{number}": value for number, value in enumerate(values)}


def test_a_run_does_not_differ_from_itself() -> None:
    same = compare_paired(queries(0.2, 0.4, 1.0), queries(0.2, 0.4, 1.0))
    assert (same.p_value, same.difference, same.low, same.high) == (1.0, 0.0, 0.0, 0.0)
    assert (same.wins, same.losses, same.ties) == (0, 0, 3)


def test_a_clear_winner_has_a_small_p_and_an_interval_above_zero() -> None:
    rng = np.random.default_rng(0)
    base = queries(*rng.uniform(0, 0.5, 80))
    better = {query: value + rng.uniform(0, 0.3) for query, value in base.items()}
    found = compare_paired(base, better)
    assert found.p_value < 0.001
    assert 0 < found.low < found.difference < found.high
    assert (found.wins, found.losses) == (80, 0)
    assert compare_paired(better, base).difference == pytest.approx(-found.difference)


def test_few_queries_are_tested_exactly() -> None:
    found = compare_paired(queries(0, 0, 0, 0), queries(0.1, 0.2, 0.3, 0.4))
    assert found.p_value == pytest.approx(2 / 2**4)  # all signs alike, either way


def test_chance_alone_is_not_called_a_difference() -> None:
    rng = np.random.default_rng(1)
    p_values = [compare_paired(queries(*rng.random(30)), queries(*rng.random(30)), resamples=500).p_value for _ in range(40)]
    assert sum(p < 0.05 for p in p_values) <= 6


def test_a_comparison_repeats_from_its_seed() -> None:
    base, new = queries(*np.linspace(0, 1, 50)), queries(*np.linspace(0, 1, 50) ** 1.1)
    assert compare_paired(base, new, seed=3) == compare_paired(base, new, seed=3)


def test_one_query_alone_proves_nothing() -> None:
    assert compare_paired(queries(0.1), queries(0.9)).p_value == 1.0


def test_runs_over_different_queries_are_not_compared() -> None:
    with pytest.raises(InvalidInput, match="same queries"):
        compare_paired({"q": 1.0}, {"r": 1.0})
