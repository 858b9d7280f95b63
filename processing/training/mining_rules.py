"""Which wrong lots become hard negatives.

Many of the highest unjudged lots answer the query, and nobody said so. So mining is positive-aware, as in NV-Retriever
(Moreira et al. 2024, arXiv 2407.15831): the score of the query's best answer sets a ceiling, and unjudged lots above it are
left out. The paper's best two rules are here, with its best values as defaults: TopK-PercPos, 95 % of the answer's score, and
TopK-MarginPos, the score less 0.05.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from catalog.folder import CatalogFolder
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item, query_text
from retrieval.errors import InvalidInput

SPLIT = "train"
DEEPEST = 10_000  # hits that OpenSearch gives a search


@dataclass(frozen=True)
class MiningRules:
    """Which lots become hard negatives.

    Attributes:
        per_query: at most so many a query, >= 1; 10 to 20 is usual.
        depth: how many lots of the index are looked at for each query, >= per_query; five times as many where too few are left.
        skip: unjudged lots among the first so many ranks are left out, >= 0 (the paper's "top-k shifted by n").
        margin: unjudged lots must score this much less than the query's best answer, >= 0; None takes them whatever they score.
        relative: the margin is a share of the answer's score (TopK-PercPos); False: it is a difference (TopK-MarginPos).
        exact: compare with every lot instead of asking the index's graph.
    """

    per_query: int = 15
    depth: int = 100
    skip: int = 0
    margin: float | None = 0.05
    relative: bool = True
    exact: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.per_query <= self.depth <= DEEPEST:
            raise InvalidInput(
                f"mining needs 1 <= per_query <= depth <= {DEEPEST}, not per_query {self.per_query} and depth {self.depth}"
            )
        if self.skip < 0 or (self.margin is not None and not 0 <= self.margin < math.inf):
            raise InvalidInput(f"skip and margin must be 0 or more, not {self.skip} and {self.margin}")

    def ceiling(self, best: float) -> float:
        """The score above which an unjudged lot is too similar, given that of the query's best answer; never above that."""
        if self.margin is None:
            return math.inf
        return best - self.margin * (abs(best) if self.relative else 1.0)


@dataclass(frozen=True)
class TrainingQuery:
    """A training query with all that is known of its answers.

    Attributes:
        text: cleaned by query_text().
        answers: lots that training pairs it with.
        judged: item_id -> grade of its judgments; 0 is a lot known to be wrong.
    """

    text: str
    answers: set[str] = field(default_factory=set)
    judged: dict[str, int] = field(default_factory=dict)

    def is_positive(self, item_id: str) -> bool:
        """Whether a lot is known to answer the query, be it in part."""
        return item_id in self.answers or self.judged.get(item_id, 0) > 0


@dataclass(frozen=True)
class Choice:
    """What became of the lots that one search found.

    Attributes:
        negatives: (item_id, score), best first.
        left_out: how many were passed over, by reason: "positive" answers, "foreign" lots of another split, and unjudged ones
            that are "too_similar" or within the skipped ranks.
    """

    negatives: Sequence[tuple[str, float]]
    left_out: Mapping[str, int]


def training_queries(catalog: CatalogFolder) -> list[TrainingQuery]:
    """The distinct queries of the training pairs, in their order, with their answers and judgments.

    Raises:
        InvalidInput: there is no pair.
    """
    queries: dict[str, TrainingQuery] = {}
    for pair in catalog.pairs(SPLIT):
        text = query_text(pair.query)
        queries.setdefault(text, TrainingQuery(text)).answers.add(pair.item_id)
    if not queries:
        raise InvalidInput(f"split {SPLIT!r} of {catalog.path} has no training pairs; mine on a catalogue that has some")
    qrels = catalog.qrels(SPLIT)
    for query_id, query in qrels.queries.items():
        asked = queries.get(query_text(query))
        if asked is not None:
            asked.judged.update(qrels.grades[query_id])
    return list(queries.values())


def training_items(catalog: CatalogFolder) -> frozenset[str]:
    """The ids of the lots that may be trained on; an index may hold others, of the test split above all."""
    rows = (row for path in catalog.item_files(SPLIT) for row in read_items(path))
    return frozenset(row.item_id for row in rows if isinstance(row, Item))


def choose(
    hits: Sequence[tuple[str, float]], asked: TrainingQuery, best: float, lots: AbstractSet[str], rules: MiningRules
) -> Choice:
    """Pick the hard negatives among what a search found.

    Args:
        hits: (item_id, score), best first.
        asked: the query.
        best: score of its best answer.
        lots: ids that may be taken at all.
        rules: ceiling, skipped ranks and count. Lots that were judged wrong are held to none but the count.
    """
    ceiling, negatives, left_out = rules.ceiling(best), [], Counter[str]()
    for rank, (item_id, score) in enumerate(hits):
        if asked.is_positive(item_id):
            left_out["positive"] += 1
        elif item_id not in lots:
            left_out["foreign"] += 1
        elif item_id not in asked.judged and (score > ceiling or rank < rules.skip):
            left_out["too_similar"] += 1
        else:
            negatives.append((item_id, score))
            if len(negatives) == rules.per_query:
                break
    return Choice(negatives, left_out)
