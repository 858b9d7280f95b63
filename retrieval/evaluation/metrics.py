"""Compute measures of retrieval quality from judgments and runs with ir-measures."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import ir_measures
from ir_measures import AP, RR, P, R, Success, nDCG

from retrieval.index.fusion import reciprocal_rank_fusion

RELEVANT_GRADE = 2  # lowest relevant grade; grades are 0 to 3
DEPTHS = (1, 5, 10, 20, 50, 100, 200, 1000)
MAX_DEPTH = DEPTHS[-1]
MRR_RANKS = 50  # so that the mean reciprocal rank of a run does not depend on how deep the run is
EXPONENTIAL_GAINS = {1: 1, 2: 3, 3: 7}  # grade -> 2^grade - 1


def measures_at(depths: Iterable[int], *, exponential_gain: bool = False) -> dict[str, Any]:
    """Return all measures at these depths, then the reciprocal rank within the first 50 ranks and the precision of a whole run.

    Args:
        depths: numbers of ranks, >= 1.
        exponential_gain: True adds nDCG with the gain 2^grade - 1 beside nDCG, whose gain is the grade.

    Returns:
        name -> measure: recall, precision, hit_rate, map, ndcg and, if requested, ndcg_exp, each as "name@depth"; then mrr and map.
    """
    kinds = {
        "recall": R(rel=RELEVANT_GRADE),
        "precision": P(rel=RELEVANT_GRADE),
        "hit_rate": Success(rel=RELEVANT_GRADE),
        "map": AP(rel=RELEVANT_GRADE),
        "ndcg": nDCG,
    }
    if exponential_gain:
        kinds["ndcg_exp"] = nDCG(gains=EXPONENTIAL_GAINS)
    at_depths = {f"{name}@{k}": kind @ k for name, kind in kinds.items() for k in sorted(set(depths))}
    return {**at_depths, "mrr": RR(rel=RELEVANT_GRADE) @ MRR_RANKS, "map": AP(rel=RELEVANT_GRADE)}


ALL_MEASURES: Mapping[str, Any] = measures_at(DEPTHS)
MEASURES: Mapping[str, Any] = {name: ALL_MEASURES[name] for name in ("recall@10", "recall@50", "ndcg@10", "mrr")}

Grades = Mapping[str, Mapping[str, int]]  # query_id -> item_id -> grade
Run = Mapping[str, Sequence[str]]  # query_id -> item ids, best first


def evaluate_per_query(grades: Grades, run: Run, measures: Mapping[str, Any] = MEASURES) -> dict[str, dict[str, float]]:
    """Measure every judged query that has at least one relevant item.

    Args:
        grades: grades 0 to 3 of judged items. An item with a grade >= 2 is relevant; nDCG takes the grade as the gain.
        run: ranked item ids. A judged query without ids counts as an empty result.
        measures: measures to compute, of measures_at(). Ranks beyond the end of a run count as not relevant.

    Returns:
        measure name -> query_id -> value in [0, 1], names in the order of `measures`.
    """
    judged = {q: dict(g) for q, g in grades.items() if any(grade >= RELEVANT_GRADE for grade in g.values())}
    scored = {q: {item: -float(rank) for rank, item in enumerate(run.get(q, ()))} for q in judged}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(judged, 0.0) for name in measures}
    names = {measure: name for name, measure in measures.items()}
    with_gains = [measure for measure in names if measure.params.get("gains")]
    # apart: in one call, ir_measures may swap the values of two measures that differ in their gains alone
    for group in (with_gains, [measure for measure in names if measure not in with_gains]):
        for metric in ir_measures.iter_calc(group, judged, scored) if group else ():
            values[names[metric.measure]][metric.query_id] = metric.value
    return values


def evaluate(grades: Grades, run: Run, measures: Mapping[str, Any] = MEASURES) -> dict[str, float]:
    """Return measure name -> mean over the queries of evaluate_per_query(); empty if there is no such query."""
    per_query = evaluate_per_query(grades, run, measures)
    return {name: fmean(values.values()) for name, values in per_query.items() if values}


def fuse_runs(runs: Sequence[Run], depth: int, k: int = 60) -> dict[str, list[str]]:
    """Fuse several runs into one by reciprocal rank, query by query.

    Args:
        runs: runs to fuse. A query that is missing in one run is fused from the others.
        depth: maximum number of items per query in the result.
        k: rank constant, see reciprocal_rank_fusion().

    Returns:
        query_id -> at most `depth` item ids, best first, ties by item_id.
    """
    queries = dict.fromkeys(query for run in runs for query in run)
    return {
        query: [item_id for item_id, _ in reciprocal_rank_fusion([run.get(query, ()) for run in runs], k)[:depth]]
        for query in queries
    }
