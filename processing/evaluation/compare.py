"""Two ways of searching side by side: both lists for one query, and over all queries which won where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catalog.folder import CatalogFolder
from processing.evaluation.corpus import catalog_moment, open_grades, split_items
from retrieval.contracts.items import query_text
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import MEASURES, Run, evaluate_per_query
from retrieval.evaluation.significance import PairedComparison, compare_paired

TESTED = ("ndcg@10", "recall@50")
SORTED_BY = "ndcg@10"
EXTREMES = 5
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Place:
    """One lot in one of two lists.

    Attributes:
        rank: from 1.
        item_id: the lot.
        title: as its seller wrote it; empty for a lot that the corpus does not hold.
        grade: 0 to 3 as judged, 0 where it was not; None when the whole query was not.
        other_rank: its rank in the other list; None when it is not there.
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
        query: its text.
        query_id: of the judged query with that text; None for another query.
        base: the first list, best first.
        new: the second.
    """

    query: str
    query_id: str | None
    base: Sequence[Place]
    new: Sequence[Place]


@dataclass(frozen=True, slots=True)
class QueryChange:
    """What became of one query, by nDCG@10."""

    query_id: str
    query: str
    base: float
    new: float
    difference: float


@dataclass(frozen=True)
class RunComparison:
    """Two runs over the judged queries of a split.

    Attributes:
        base: name of the one that is compared with.
        new: name of the other.
        catalog: name of the catalogue.
        split: whose queries.
        tests: measure -> the paired test.
        gains: the queries that gained most, greatest gain first; none that did not gain.
        losses: the queries that lost most, greatest loss first.
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
        catalog: where they are from.
        split: which split.
        now: the moment of the searches, UTC.
        queries: query_id -> text, of those with a lot of grade 2 or 3.
        grades: query_id -> item_id -> grade, of the lots still open; also of queries without a relevant one.
    """

    def __init__(self, catalog: CatalogFolder, split: str) -> None:
        """Read them.

        Raises:
            InvalidInput: there is no such split, or no query in it has a relevant lot.
        """
        self.catalog, self.split = catalog, split
        self.now = catalog_moment(catalog)
        self.grades = open_grades(catalog, split, self.now)
        self._texts = catalog.qrels(split).queries
        self.queries = {query: self._texts[query] for query in evaluate_per_query(self.grades, {})["mrr"]}
        if not self.queries:
            raise InvalidInput(f"no query of split {split!r} in {catalog.path} has an open lot of grade 2 or 3; take another split")

    def find(self, text: str) -> str | None:
        """The id of the judged query that has this text, or this id; None when there is none."""
        if text in self._texts:
            return text
        wanted = query_text(text).lower()
        return next((query for query, known in self._texts.items() if query_text(known).lower() == wanted), None)

    def text(self, query_id: str) -> str:
        """What the buyer typed."""
        return self._texts[query_id]


def compare_runs(judged: JudgedQueries, base: Run, new: Run, *, names: tuple[str, str], extremes: int = EXTREMES) -> RunComparison:
    """Hold two runs against each other over all judged queries.

    Args:
        judged: the queries; one that a run does not answer counts as an empty answer.
        base: the run that is compared with.
        new: the other.
        names: of both.
        extremes: most queries in `gains` and in `losses`.

    Raises:
        InvalidInput: a run answers none of the queries.
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
        tests={measure: compare_paired(values[0][measure], values[1][measure]) for measure in TESTED},
        gains=[change for change in changes[:extremes] if change.difference > 0],
        losses=[change for change in changes[::-1][:extremes] if change.difference < 0],
    )


def side_by_side(
    judged: JudgedQueries, query: str, base: Sequence[str], new: Sequence[str], *, shown: int = SHOWN
) -> QueryComparison:
    """Put both lists for one query next to each other.

    Args:
        judged: knows titles and grades.
        query: its text, or the id of a judged one.
        base: item ids of the first list, best first.
        new: of the second.
        shown: lots of each list; ranks in the other list are looked up in all of it.
    """
    query_id = judged.find(query)
    grades = judged.grades.get(query_id, {}) if query_id else None
    wanted = {*base[:shown], *new[:shown]}
    titles = {item.item_id: item.title for item in split_items(judged.catalog, judged.split) if item.item_id in wanted}
    ranks = [{item: rank for rank, item in enumerate(items, 1)} for items in (base, new)]

    def places(items: Sequence[str], others: Mapping[str, int]) -> list[Place]:
        return [
            Place(rank, item, titles.get(item, ""), None if grades is None else grades.get(item, 0), others.get(item))
            for rank, item in enumerate(items[:shown], 1)
        ]

    text = judged.text(query_id) if query_id else query
    return QueryComparison(text, query_id, places(base, ranks[1]), places(new, ranks[0]))
