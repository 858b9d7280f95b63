"""Compare two systems: both lists for one query, and wins and losses over all queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catalog.folder import CatalogFolder
from processing.evaluation.corpus import catalog_moment, open_grades, split_items
from retrieval.contracts.items import query_text
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import MEASURES, Run, evaluate_per_query
from retrieval.evaluation.significance import PairedComparison, compare_paired

TESTED_MEASURES = ("ndcg@10", "recall@50")
SORTED_BY = "ndcg@10"
EXTREMES = 5
SHOWN = 10


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One item in one of two lists.

    Attributes:
        rank: rank in this list, from 1.
        item_id: id of the item.
        title: title of the item; empty if the corpus lacks the item.
        grade: grade of the item, 0 to 3, 0 without a judgment; None if the query is not judged.
        other_rank: rank in the other list; None if the other list lacks the item.
    """

    rank: int
    item_id: str
    title: str
    grade: int | None
    other_rank: int | None


@dataclass(frozen=True, slots=True)
class QueryComparison:
    """Both lists for one query.

    Attributes:
        query: text of the query.
        query_id: id of the judged query with that text; None if the query is not judged.
        base: the first list, best first.
        new: the second list, best first.
    """

    query: str
    query_id: str | None
    base: Sequence[RankedItem]
    new: Sequence[RankedItem]


@dataclass(frozen=True, slots=True)
class QueryChange:
    """The change of one query's nDCG@10."""

    query_id: str
    query: str
    base: float
    new: float
    difference: float


@dataclass(frozen=True)
class RunComparison:
    """Two runs over the judged queries of a split.

    Attributes:
        base: name of the baseline.
        new: name of the other run.
        catalog: name of the catalogue.
        split: split of the queries.
        tests: measure -> paired test.
        gains: the queries with the greatest gains, greatest first.
        losses: the queries with the greatest losses, greatest first.
    """

    base: str
    new: str
    catalog: str
    split: str
    tests: Mapping[str, PairedComparison]
    gains: Sequence[QueryChange]
    losses: Sequence[QueryChange]


class JudgedQueries:
    """The judged queries of a split, at the catalogue's own moment.

    Attributes:
        catalog: source of the queries.
        split: split of the queries.
        now: moment of the searches, in UTC.
        queries: query_id -> text, for queries with an open item of grade 2 or 3.
        grades: query_id -> item_id -> grade, for open items; queries without a relevant item are included.
    """

    def __init__(self, catalog: CatalogFolder, split: str) -> None:
        """Read the queries and their judgments.

        Raises:
            InvalidInput: there is no such split, or none of its queries has a relevant item.
        """
        self.catalog, self.split = catalog, split
        self.now = catalog_moment(catalog)
        self.grades = open_grades(catalog, split, self.now)
        self._texts = catalog.qrels(split).queries
        self.queries = {query: self._texts[query] for query in evaluate_per_query(self.grades, {})["mrr"]}
        if not self.queries:
            raise InvalidInput(f"no query of split {split!r} in {catalog.path} has an open lot of grade 2 or 3; take another split")

    def find(self, text: str) -> str | None:
        """Return the id of the judged query with this text or this id; None if there is no such query."""
        if text in self._texts:
            return text
        target = query_text(text).lower()
        return next((query for query, judged in self._texts.items() if query_text(judged).lower() == target), None)

    def text(self, query_id: str) -> str:
        """Return the query as the buyer typed it."""
        return self._texts[query_id]


def compare_runs(judged: JudgedQueries, base: Run, new: Run, *, names: tuple[str, str], extremes: int = EXTREMES) -> RunComparison:
    """Compare two runs over all judged queries.

    Args:
        judged: the queries; a query that a run lacks counts as an empty list.
        base: the baseline run.
        new: the other run.
        names: names of base and new.
        extremes: largest number of `gains` and of `losses`.

    Raises:
        InvalidInput: a run has none of the queries.
    """
    for name, run in zip(names, (base, new), strict=True):
        if not run.keys() & judged.queries.keys():
            raise InvalidInput(
                f"{name} answers no query of split {judged.split!r} of {judged.catalog.path}; name the split it was run on"
            )
    values = [evaluate_per_query(judged.grades, run, MEASURES) for run in (base, new)]
    before, after = (by_measure[SORTED_BY] for by_measure in values)
    changes = [QueryChange(q, text, before[q], after[q], after[q] - before[q]) for q, text in judged.queries.items()]
    changes.sort(key=lambda change: (-change.difference, change.query_id))
    return RunComparison(
        base=names[0],
        new=names[1],
        catalog=judged.catalog.name,
        split=judged.split,
        tests={measure: compare_paired(values[0][measure], values[1][measure]) for measure in TESTED_MEASURES},
        gains=[change for change in changes[:extremes] if change.difference > 0],
        losses=[change for change in changes[::-1][:extremes] if change.difference < 0],
    )


def side_by_side(
    judged: JudgedQueries, query: str, base: Sequence[str], new: Sequence[str], *, shown: int = SHOWN
) -> QueryComparison:
    """Align both lists for one query.

    Args:
        judged: source of titles and grades.
        query: text of the query, or id of a judged query.
        base: item ids of the first list, best first.
        new: item ids of the second list, best first.
        shown: number of items shown of each list; `other_rank` counts in the whole other list.
    """
    query_id = judged.find(query)
    grades = judged.grades.get(query_id, {}) if query_id else None
    item_ids = {*base[:shown], *new[:shown]}
    titles = {item.item_id: item.title for item in split_items(judged.catalog, judged.split) if item.item_id in item_ids}
    ranks = [{item: rank for rank, item in enumerate(items, 1)} for items in (base, new)]

    def ranked(items: Sequence[str], others: Mapping[str, int]) -> list[RankedItem]:
        return [
            RankedItem(rank, item, titles.get(item, ""), None if grades is None else grades.get(item, 0), others.get(item))
            for rank, item in enumerate(items[:shown], 1)
        ]

    text = judged.text(query_id) if query_id else query
    return QueryComparison(text, query_id, ranked(base, ranks[1]), ranked(new, ranks[0]))
