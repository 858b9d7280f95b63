"""How much of the exact answer an index finds, and the least effort that finds as much as is wanted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.index.ann.families import AnnIndex

BLOCK_ROWS = 50_000  # vectors that all queries are compared with at a time
SAME_COSINE = 1e-5  # vectors nearer to the cut than rounding can tell apart are as good as those of the exact answer
RESCORES = (1, 2, 4, 8, 16, 32)
MOST_EFFORT = 4_096

Cut = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tune() chose.

    Attributes:
        spec: with its search parameters set.
        recall: on the queries that chose, in [0, 1].
        reached: whether that is as much as was wanted.
    """

    spec: IndexSpec
    recall: float
    reached: bool


def exact_cut(vectors: Vector, queries: Vector, k: int) -> Cut:
    """The cosine of the k-th nearest vector of each query, by comparing with all of them.

    Args:
        vectors: (N, D) of unit length; may be mapped from a file.
        queries: (Q, D) of unit length.
        k: at most N.

    Returns:
        (Q,) float64.
    """
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for block in _blocks(vectors):
        together = np.concatenate([best, queries @ block.T], axis=1)  # (Q, k + rows)
        best = np.partition(together, -k, axis=1)[:, -k:]
    cut: Cut = best.min(axis=1).astype(np.float64)
    return cut


def recall_of(cosines: NDArray[np.float64], cut: float, k: int) -> float:
    """Share of the k nearest that an answer holds; vectors as near as the k-th count, whichever they are."""
    return min(int(np.count_nonzero(cosines >= cut - SAME_COSINE)), k) / k


def mean_recall(index: AnnIndex, queries: Vector, cut: Cut, k: int, spec: IndexSpec | None = None) -> float:
    """recall@k over queries, whose exact_cut() is given."""
    found = [recall_of(index.search(query, k, spec=spec).cosines, limit, k) for query, limit in zip(queries, cut, strict=True)]
    return float(np.mean(found))


def tune(index: AnnIndex, queries: Vector, cut: Cut, k: int, wanted: float) -> Tuned:
    """The search parameters of least effort whose recall on a sample of queries is as wanted.

    Recall grows with either parameter, so each is found by doubling and halving: first the fewest candidates to score again with
    all effort, then the least effort with so many.

    Args:
        index: any family.
        queries: (Q, D) that nothing else is measured on.
        cut: (Q,) their exact_cut() at k.
        k: how many lots a search asks for.
        wanted: recall@k, in (0, 1].

    Returns:
        The parameters; those of most recall where none reaches what is wanted.
    """

    def measured(spec: IndexSpec) -> float:
        return mean_recall(index, queries, cut, k, spec)

    base, effort = index.spec, index.spec.effort
    most = base.at(_most_effort(base))
    spec, recall = most, 0.0
    for rescore in (base.rescore,) if base.stores_vectors else RESCORES:
        spec = replace(most, rescore=rescore)
        recall = measured(spec)
        if recall >= wanted:
            break
    if recall < wanted or effort is None:
        return Tuned(spec, recall, recall >= wanted)
    least = k * spec.candidates if effort == "ef_search" else 1  # a beam is never narrower than what it must bring
    return _least_effort(spec, effort, least, measured, wanted, recall)


def _least_effort(
    spec: IndexSpec, effort: str, least: int, measured: Callable[[IndexSpec], float], wanted: float, recall: float
) -> Tuned:
    """Double from the least until it is enough, then halve the way between, to within an eighth."""
    enough, best, small, trial = getattr(spec, effort), recall, 0, least
    while enough - small > max(1, enough // 8) and trial < enough:
        tried = measured(spec.at(trial))
        if tried >= wanted:
            enough, best = trial, tried
            if trial == least:
                break
        else:
            small = trial
        trial = min(2 * small, (small + enough) // 2)
    return Tuned(spec.at(enough), best, True)


def _most_effort(spec: IndexSpec) -> int:
    return spec.nlist if spec.effort == "nprobe" else MOST_EFFORT


def _blocks(vectors: Vector) -> Iterator[Vector]:
    for start in range(0, len(vectors), BLOCK_ROWS):
        yield np.ascontiguousarray(vectors[start : start + BLOCK_ROWS])
