"""Retrieval quality: judgments, runs and the measures of the field, computed by ir-measures."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import ir_measures
from ir_measures import RR, R, nDCG

RELEVANT_GRADE = 2  # grades run from 0 to 3; from here on a lot is what the buyer asked for

MEASURES = {
    "recall@10": R(rel=RELEVANT_GRADE) @ 10,
    "recall@50": R(rel=RELEVANT_GRADE) @ 50,
    "ndcg@10": nDCG @ 10,
    "mrr": RR(rel=RELEVANT_GRADE),
}

Grades = Mapping[str, Mapping[str, int]]  # query_id -> item_id -> grade
Run = Mapping[str, Sequence[str]]  # query_id -> item ids, best first


def evaluate_per_query(grades: Grades, run: Run) -> dict[str, dict[str, float]]:
    """Measure every judged query that has at least one relevant lot.

    Args:
        grades: judgments 0 to 3; relevant means grade >= 2.
        run: ranked item ids; a judged query without an entry counts as an empty answer.

    Returns:
        measure name -> query_id -> value in [0, 1], for the names in MEASURES.
    """
    judged = {q: dict(g) for q, g in grades.items() if any(grade >= RELEVANT_GRADE for grade in g.values())}
    scored = {q: {item: -float(rank) for rank, item in enumerate(run.get(q, ()))} for q in judged}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(judged, 0.0) for name in MEASURES}
    names = {measure: name for name, measure in MEASURES.items()}
    for metric in ir_measures.iter_calc(list(names), judged, scored):
        values[names[metric.measure]][metric.query_id] = metric.value
    return values


def evaluate(grades: Grades, run: Run) -> dict[str, float]:
    """Mean of every measure over the judged queries, as evaluate_per_query() has them; empty without such a query."""
    return {name: fmean(values.values()) for name, values in evaluate_per_query(grades, run).items() if values}
