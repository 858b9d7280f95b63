"""Fusion of two ranked lists by reciprocal rank or by the weighted mean of their normalised scores."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from retrieval.errors import InvalidQuery

FusionKind = Literal["rrf", "min_max", "l2"]
FUSION_KINDS: tuple[FusionKind, ...] = get_args(FusionKind)
RRF_RANK_CONSTANT = 60
MAX_RANK_CONSTANT = 10_000
MIN_NORMALISED = 0.001  # min_max score of a list's last item, as in OpenSearch: above 0, the score of items outside the list

Scored = Sequence[tuple[str, float]]  # (item_id, score), best first


@dataclass(frozen=True, slots=True)
class Fusion:
    """The method that fuses the keyword list and the semantic list of a hybrid search.

    Attributes:
        kind: method. rrf uses only ranks (Cormack et al., SIGIR 2009). min_max and l2 normalise the scores in that way and take
            their weighted mean, like OpenSearch's normalization-processor.
        weights: weights (keyword, semantic), each 0 to 1e6, at least one above 0; only their ratio matters.
        rank_constant: rank constant of rrf, 1 to 10,000; with a larger one, the first ranks differ less.

    Raises:
        InvalidQuery: a value is not in its range.
    """

    kind: FusionKind = "rrf"
    weights: tuple[float, float] = (0.5, 0.5)
    rank_constant: int = RRF_RANK_CONSTANT

    def __post_init__(self) -> None:
        if self.kind not in FUSION_KINDS:
            raise InvalidQuery(f"fusion is {self.kind!r}; allowed are {', '.join(FUSION_KINDS)}")
        valid = len(self.weights) == 2 and all(math.isfinite(weight) and 0 <= weight <= 1e6 for weight in self.weights)
        if not valid or not any(self.weights):
            raise InvalidQuery(f"the weights of a fusion are {self.weights}; give two numbers >= 0, one of them above 0")
        if not 1 <= self.rank_constant <= MAX_RANK_CONSTANT:
            raise InvalidQuery(f"the rank constant is {self.rank_constant}; allowed are 1 to {MAX_RANK_CONSTANT}")

    @property
    def normalised_weights(self) -> tuple[float, float]:
        """Return the weights (keyword, semantic), scaled to a sum of 1."""
        keyword, semantic = self.weights
        return keyword / (keyword + semantic), semantic / (keyword + semantic)

    @classmethod
    def parse(cls, text: str) -> "Fusion":
        """Read `<kind>` or `<kind>:<keyword weight>,<semantic weight>`, such as "min_max:0.7,0.3".

        Raises:
            InvalidQuery: the text has neither form, or a value is not in its range.
        """
        kind, colon, numbers = text.strip().partition(":")
        try:
            weights = tuple(float(number) for number in numbers.split(",")) if colon else (0.5, 0.5)
        except ValueError:
            raise InvalidQuery(f"fusion is {text!r}; write a kind, or a kind with two weights, such as min_max:0.7,0.3") from None
        return cls(kind, weights)  # type: ignore[arg-type]  # the constructor checks both

    def __str__(self) -> str:
        keyword, semantic = self.weights
        constant = f", rank constant {self.rank_constant}" if self.kind == "rrf" else ""
        return f"{self.kind}, keyword {keyword:g} to semantic {semantic:g}{constant}"


def fuse(keyword: Scored, semantic: Scored, fusion: Fusion) -> list[tuple[str, float]]:
    """Fuse the two lists of a hybrid search.

    Args:
        keyword: (item_id, BM25 score > 0) of the keyword list, best first.
        semantic: (item_id, cosine) of the semantic list, best first.
        fusion: method of the fusion.

    Returns:
        (item_id, score >= 0) of every item of either list, by descending score, ties by item_id. A list without the item adds 0.
        Scores of rrf are at most 2 / (rank constant + 1), weighted means at most 1.
    """
    keyword_weight, semantic_weight = fusion.normalised_weights
    if fusion.kind == "rrf":
        rankings = [[item_id for item_id, _ in ranking] for ranking in (keyword, semantic)]
        return reciprocal_rank_fusion(rankings, fusion.rank_constant, (2 * keyword_weight, 2 * semantic_weight))
    normalised = _NORMALISED[fusion.kind]
    means: dict[str, float] = defaultdict(float)
    # cosines are scaled to [0, 1] as the engine does; normalisation removes the factor between versions of BM25
    for weight, ranking in ((keyword_weight, keyword), (semantic_weight, [(i, (1 + cosine) / 2) for i, cosine in semantic])):
        for (item_id, _), score in zip(ranking, normalised([score for _, score in ranking]), strict=True):
            means[item_id] += weight * score
    return _best_first(means.items())


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], k: int = RRF_RANK_CONSTANT, weights: Sequence[float] | None = None
) -> list[tuple[str, float]]:
    """Fuse ranked lists of item ids by reciprocal rank (Cormack et al., SIGIR 2009).

    Args:
        rankings: one list of item ids per retriever, best first; an id may be missing from a list.
        k: rank constant, > 0; with a larger one, the first ranks differ less.
        weights: one weight >= 0 per ranking; None gives each the weight 1.

    Returns:
        (item_id, score) by descending score, ties by item_id; scores lie in [0, sum of the weights / (k + 1)].
    """
    scores: dict[str, float] = defaultdict(float)
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, item_id in enumerate(ranking, 1):
            scores[item_id] += weight / (k + rank)
    return _best_first(scores.items())


def _min_max(scores: Sequence[float]) -> list[float]:
    """Scale scores from 0.001 for the worst of a list to 1 for the best; equal scores are all 1."""
    if not scores or min(scores) == max(scores):
        return [1.0] * len(scores)
    lowest, width = min(scores), max(scores) - min(scores)
    return [max((score - lowest) / width, MIN_NORMALISED) for score in scores]


def _l2(scores: Sequence[float]) -> list[float]:
    """Scale the scores of a list to unit length."""
    length = math.sqrt(sum(score * score for score in scores))
    return [score / length if length else 0.0 for score in scores]


_NORMALISED: dict[FusionKind, Callable[[Sequence[float]], list[float]]] = {"min_max": _min_max, "l2": _l2}


def _best_first(scored: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))
