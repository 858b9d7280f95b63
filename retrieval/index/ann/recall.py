"""Recall of an index against exact results, and the least search effort that reaches a target recall."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.index.ann.vector_index import AnnIndex

BLOCK_ROWS = 50_000  # vectors that are compared with all queries at a time
SAME_COSINE = 1e-5  # a vector within this rounding error of the k-th cosine counts as one of the k nearest
RESCORES = (1, 2, 4, 8, 16, 32)
MAX_EF_SEARCH = 4_096

Cut = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of tune().

    Attributes:
        spec: spec with the search parameters that were found.
        recall: mean recall on the tuning queries, in [0, 1].
        reached: True if the recall is at least the target.
    """

    spec: IndexSpec
    recall: float
    reached: bool


def exact_cut(vectors: Vector, queries: Vector, k: int) -> Cut:
    """Return the cosine of each query with its k-th nearest vector, by comparing with all vectors.

    Args:
        vectors: (N, D) vectors of unit length; may be mapped from a file.
        queries: (Q, D) queries of unit length.
        k: rank of the vector, 1 to N.

    Returns:
        (Q,) float64.
    """
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for block in _blocks(vectors):
        candidates = np.concatenate([best, queries @ block.T], axis=1)  # (Q, k + rows)
        best = np.partition(candidates, -k, axis=1)[:, -k:]
    cut: Cut = best.min(axis=1).astype(np.float64)
    return cut


def recall_of(cosines: NDArray[np.float64], cut: float, k: int) -> float:
    """Return the share of the k nearest vectors that a result contains, in [0, 1].

    Args:
        cosines: cosines of the result.
        cut: cosine of the k-th nearest vector; every vector with at least this cosine counts.
        k: number of nearest vectors.
    """
    return min(int(np.count_nonzero(cosines >= cut - SAME_COSINE)), k) / k


def mean_recall(index: AnnIndex, queries: Vector, cut: Cut, k: int, spec: IndexSpec | None = None) -> float:
    """Return the mean recall@k over queries.

    Args:
        index: index to search.
        queries: (Q, D) queries of unit length.
        cut: (Q,) exact_cut() of these queries at k.
        k: depth of the recall.
        spec: search parameters; None takes those of the index.
    """
    recalls = [recall_of(index.search(query, k, spec=spec).cosines, limit, k) for query, limit in zip(queries, cut, strict=True)]
    return float(np.mean(recalls))


def tune(index: AnnIndex, queries: Vector, cut: Cut, k: int, target: float) -> Tuned:
    """Find the search parameters of least effort whose recall on sample queries reaches a target.

    First the smallest sufficient `rescore` is found at full effort, then the smallest sufficient effort with that `rescore`. Both
    searches rely on the recall growing with the parameter.

    Args:
        index: index to search.
        queries: (Q, D) queries of unit length, which no other measurement uses.
        cut: (Q,) exact_cut() of these queries at k.
        k: depth of the recall, > 0.
        target: required recall@k, in (0, 1].

    Returns:
        The parameters; if none reaches the target, those of the largest effort.
    """

    def measure(spec: IndexSpec) -> float:
        return mean_recall(index, queries, cut, k, spec)

    base, effort = index.spec, index.spec.search_effort
    highest = base.at(base.nlist if effort == "nprobe" else MAX_EF_SEARCH)
    spec, recall = highest, 0.0
    for rescore in (base.rescore,) if base.stores_vectors else RESCORES:
        spec = replace(highest, rescore=rescore)
        recall = measure(spec)
        if recall >= target:
            break
    if recall < target or effort is None:
        return Tuned(spec, recall, recall >= target)
    lowest = k * spec.candidates if effort == "ef_search" else 1  # ef_search is at least the number of results
    return _lowest_effort(spec, effort, lowest, measure, target, recall)


def _lowest_effort(
    spec: IndexSpec, effort: str, lowest: int, measure: Callable[[IndexSpec], float], target: float, recall: float
) -> Tuned:
    """Return the lowest sufficient effort, to within an eighth: double the lowest one until it suffices, then bisect."""
    enough, best, too_low, trial = getattr(spec, effort), recall, 0, lowest
    while enough - too_low > max(1, enough // 8) and trial < enough:
        trial_recall = measure(spec.at(trial))
        if trial_recall >= target:
            enough, best = trial, trial_recall
            if trial == lowest:
                break
        else:
            too_low = trial
        trial = min(2 * too_low, (too_low + enough) // 2)
    return Tuned(spec.at(enough), best, True)


def _blocks(vectors: Vector) -> Iterator[Vector]:
    for start in range(0, len(vectors), BLOCK_ROWS):
        yield np.ascontiguousarray(vectors[start : start + BLOCK_ROWS])
