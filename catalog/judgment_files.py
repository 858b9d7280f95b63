"""Read judgments as people have them: a table of query, item id and grade, in any of the formats of catalogue files."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.folder import MAX_GRADE
from catalog.pseudo_queries import fold
from retrieval.contracts.item_folders import find_item_files
from retrieval.contracts.items import ALIASES as ITEM_ALIASES
from retrieval.contracts.items import Reject, parse_id
from retrieval.contracts.table_files import open_table
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import RELEVANT_GRADE
from retrieval.text.analysis import clean_text, fold_name

FIELDS: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "search_query", "query_text", "search_term", "keywords", "keyword", "q"),
    "item_id": (*ITEM_ALIASES["item_id"], "docid", "doc_id", "document_id", "lot_id", "sku", "asin", "handle"),
    "grade": ("grade", "rating", "relevance", "judgment", "judgement", "label", "esci_label", "rel", "score"),
}
WORDS: Mapping[str, int] = {  # grades that are written as words
    **{"e": 3, "s": 2, "c": 1, "i": 0},
    **{"exact": 3, "substitute": 2, "complement": 1, "irrelevant": 0},
    **{"perfect": 3, "excellent": 3, "good": 2, "fair": 1, "bad": 0},
    **{"relevant": 2, "partial": 1, "notrelevant": 0, "yes": 2, "no": 0, "true": 2, "false": 0},
}


@dataclass(frozen=True)
class Judgments:
    """The judgments of some files.

    Attributes:
        grades: query text -> item_id -> grade 0 to 3.
        rejects: rows that break the contract, with file, line and reason.
        notices: what the user should know.
    """

    grades: Mapping[str, Mapping[str, int]]
    rejects: list[Reject] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def read_judgments(where: Path, item_ids: Collection[str], encoding: str | None = None) -> Judgments:
    """Read judgments. Spellings of a query that differ in case and spaces are one query, under the first spelling.

    Numbers from 0 to 3 are grades. A scale of 0 and 1 counts 1 as relevant, a longer one is scaled down to 3.

    Args:
        where: a file, or a folder of files.
        item_ids: ids of the known items.
        encoding: encoding of text files; None finds it.

    Raises:
        InvalidInput: there is no file; a file cannot be read or lacks a column; or no row can be used.
    """
    rows: list[tuple[str, str, float]] = []
    rejects: list[Reject] = []
    written: set[bool] = set()  # True for grades that are written as words
    for path in find_item_files(where):
        table = open_table(path, encoding)
        names = list(table.names) if table.names is not None else None
        columns = _columns(path, names) if names is not None else {}
        for line, row in table.rows():
            try:
                if isinstance(row, str):
                    raise InvalidInput(row)
                query, item_id, grade, is_word = _judgment(row, columns or _columns(path, list(row)), item_ids)
                rows.append((query, item_id, grade))
                written.add(is_word)
            except InvalidInput as error:
                rejects.append(Reject(path.name, line, str(error)))
    if not rows:
        raise InvalidInput(f"no row of {where} is a judgment: {rejects[0].reason if rejects else 'it has no row'}")
    highest = max(grade for _, _, grade in rows)
    scale, notices = 1.0, []
    if False in written and highest == 1:
        scale = RELEVANT_GRADE
        notices.append(f"grades are 0 and 1: 1 counts as relevant, grade {RELEVANT_GRADE}")
    elif highest > MAX_GRADE:
        scale = MAX_GRADE / highest
        notices.append(f"grades from 0 to {highest:g} are scaled to 0 to {MAX_GRADE}")
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    spellings: dict[str, str] = {}
    for query, item_id, grade in rows:
        grades[spellings.setdefault(fold(query), query)][item_id] = int(grade * scale + 0.5)
    return Judgments(dict(grades), rejects, notices)


def _columns(path: Path, names: list[str]) -> dict[str, str]:
    """Return field -> name of its column.

    Raises:
        InvalidInput: a field has none.
    """
    folded = {fold_name(name): name for name in reversed(names)}
    columns = {}
    for name, aliases in FIELDS.items():
        column = next((folded[fold_name(alias)] for alias in aliases if fold_name(alias) in folded), None)
        if column is None:
            raise InvalidInput(
                f"{path} has no column for {name}: judgments need query, item id and grade; {name} may be called "
                f"{', '.join(aliases)}; found {', '.join(names) or 'none'}"
            )
        columns[name] = column
    return columns


def _judgment(row: Mapping[str, Any], columns: Mapping[str, str], item_ids: Collection[str]) -> tuple[str, str, float, bool]:
    """Return query, item id, grade, and True for a grade that is written as a word."""
    query = clean_text(str(row.get(columns["query"]) or ""))
    if not fold(query):
        raise InvalidInput("the query is empty")
    item_id = parse_id("item_id", row.get(columns["item_id"]))
    if item_id not in item_ids:
        raise InvalidInput(f"item {item_id!r} is not among the items")
    value = row.get(columns["grade"])
    word = fold_name(str(value))
    if word in WORDS:
        return query, item_id, WORDS[word], True
    try:
        grade = float(str(value).replace(",", "."))
        if not 0 <= grade < float("inf"):
            raise ValueError
    except ValueError:
        raise InvalidInput(f"the grade is {value!r}; give a number from 0 to {MAX_GRADE}") from None
    return query, item_id, grade, False
