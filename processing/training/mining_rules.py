"""Rules that select hard negatives among the wrong items.

Many of the highest unjudged items are unlabelled positives. So mining is positive-aware, as in NV-Retriever (Moreira et al. 2024,
arXiv 2407.15831): the score of the query's best answer sets a ceiling, and unjudged items above the ceiling are left out. The
paper's two best rules are available, with the paper's best values as defaults. TopK-PercPos sets the ceiling at 95 % of the
answer's score, TopK-MarginPos at the answer's score less 0.05.
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
MAX_DEPTH = 10_000  # limit of OpenSearch for one search


@dataclass(frozen=True)
class MiningRules:
    """Limits of mining.

    Attributes:
        per_query: largest number of negatives per query, >= 1; 10 to 20 is usual.
        depth: number of search results per query, >= per_query; five times as many if too few negatives remain.
        skip: number of first ranks whose unjudged items are left out, >= 0 (the paper's "top-k shifted by n").
        margin: distance of the ceiling below the score of the query's best answer, >= 0; None sets no ceiling.
        relative: True takes the margin as a share of the answer's score (TopK-PercPos), False as a difference (TopK-MarginPos).
        exact: True searches by brute force instead of by the index's graph.
    """

    per_query: int = 15
    depth: int = 100
    skip: int = 0
    margin: float | None = 0.05
    relative: bool = True
    exact: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.per_query <= self.depth <= MAX_DEPTH:
            raise InvalidInput(
                f"mining needs 1 <= per_query <= depth <= {MAX_DEPTH}, not per_query {self.per_query} and depth {self.depth}"
            )
        if self.skip < 0 or (self.margin is not None and not 0 <= self.margin < math.inf):
            raise InvalidInput(f"skip and margin must be 0 or more, not {self.skip} and {self.margin}")

    def ceiling(self, best: float) -> float:
        """Return the score above which an unjudged item is too similar, given the score of the query's best answer."""
        if self.margin is None:
            return math.inf
        return best - self.margin * (abs(best) if self.relative else 1.0)


@dataclass(frozen=True)
class TrainingQuery:
    """A training query with its answers and judgments.

    Attributes:
        text: text of the query, cleaned by query_text().
        answers: ids of the items in the query's training pairs.
        judged: item_id -> grade for the query; 0 marks a wrong item.
    """

    text: str
    answers: set[str] = field(default_factory=set)
    judged: dict[str, int] = field(default_factory=dict)

    def is_positive(self, item_id: str) -> bool:
        """Return True if an item answers the query, at least in part."""
        return item_id in self.answers or self.judged.get(item_id, 0) > 0


@dataclass(frozen=True)
class Choice:
    """The negatives among the results of one search.

    Attributes:
        negatives: (item_id, score) pairs, best first.
        left_out: reason -> number of other results. "positive": answers. "foreign": items of another split. "too_similar": unjudged
            items above the ceiling or within the skipped ranks.
    """

    negatives: Sequence[tuple[str, float]]
    left_out: Mapping[str, int]


def training_queries(catalog: CatalogFolder) -> list[TrainingQuery]:
    """Return the distinct queries of the training pairs, in order, with answers and judgments.

    Raises:
        InvalidInput: the catalogue has no training pair.
    """
    queries: dict[str, TrainingQuery] = {}
    for pair in catalog.pairs(SPLIT):
        text = query_text(pair.query)
        queries.setdefault(text, TrainingQuery(text)).answers.add(pair.item_id)
    if not queries:
        raise InvalidInput(f"split {SPLIT!r} of {catalog.path} has no training pairs; mine on a catalogue that has some")
    qrels = catalog.qrels(SPLIT)
    for query_id, text in qrels.queries.items():
        query = queries.get(query_text(text))
        if query is not None:
            query.judged.update(qrels.grades[query_id])
    return list(queries.values())


def training_items(catalog: CatalogFolder) -> frozenset[str]:
    """Return the ids of the training items; an index may hold other items, such as those of the test split."""
    rows = (row for path in catalog.item_files(SPLIT) for row in read_items(path))
    return frozenset(row.item_id for row in rows if isinstance(row, Item))


def choose(
    hits: Sequence[tuple[str, float]], query: TrainingQuery, best: float, items: AbstractSet[str], rules: MiningRules
) -> Choice:
    """Select the hard negatives among the results of a search.

    Args:
        hits: (item_id, score) pairs, best first.
        query: query of the search.
        best: score of the query's best answer.
        items: ids of the training items.
        rules: ceiling, skipped ranks and number of negatives. For items judged as wrong, only the number applies.
    """
    ceiling, negatives, left_out = rules.ceiling(best), [], Counter[str]()
    for rank, (item_id, score) in enumerate(hits):
        if query.is_positive(item_id):
            left_out["positive"] += 1
        elif item_id not in items:
            left_out["foreign"] += 1
        elif item_id not in query.judged and (score > ceiling or rank < rules.skip):
            left_out["too_similar"] += 1
        else:
            negatives.append((item_id, score))
            if len(negatives) == rules.per_query:
                break
    return Choice(negatives, left_out)
