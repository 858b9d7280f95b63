"""Build a catalogue from anybody's items: training pairs from their own words, and judgments and clicks where there are any."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from catalog.click_log import ITEMS_FILE, SHARES, click_pairs, click_qrels, read_clicks, read_items
from catalog.folder import (
    ITEMS_FOLDER,
    SPLITS,
    CatalogFolder,
    Click,
    Qrels,
    SplitData,
    TrainingPair,
    replace_folder,
    write_catalog,
    write_items,
    write_rejects,
)
from catalog.item_pairs import item_pairs, pseudo_judgments
from catalog.judgment_files import read_judgments
from catalog.pseudo_queries import Listing, fold
from catalog.query_splits import query_key, share_of, without_held_out
from retrieval.contracts.item_files import DEFAULT_OPTIONS, ReadingLog, ReadOptions
from retrieval.contracts.item_folders import find_item_files
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import RELEVANT_GRADE

logger = logging.getLogger(__name__)

NAME = "items"
EXAMPLE_QUERIES = 4
JUDGED_WEIGHT = 1.0
WEAK_JUDGED_WEIGHT = 0.3  # grade 1

Grades = Mapping[str, Mapping[str, int]]  # query text -> item_id -> grade


def prepare(
    items: Path,
    folder: Path,
    *,
    judgments: Path | None = None,
    clicks: Path | None = None,
    test_only: bool = False,
    seed: int = 7,
    options: ReadOptions = DEFAULT_OPTIONS,
    log: ReadingLog | None = None,
) -> CatalogFolder:
    """Build a catalogue from item files; every split searches all items.

    Args:
        items: item file, or a folder of item files, in which judgments and clicks may lie, too.
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        judgments: table of query, item id and grade, see judgment_files.
        clicks: click log, see click_log.
        test_only: True makes every judged query a test query, so that no judgment trains or chooses anything.
        seed: seed that assigns queries to splits and draws pseudo-queries; a new query does not move other queries.
        options: what the user says about the item files.
        log: gets what the user should know about the files.

    Returns:
        The catalogue. All spellings of a query are in one split. Training pairs are the judgments and clicks of train, and
        pairs from the items' own words (item_pairs). Val has pseudo-queries if it has no judgment or click. Rows that break
        their contract are in rejects.ndjson.

    Raises:
        InvalidInput: a file is missing or cannot be read, or there is no usable item, judgment or click.
    """
    log = log if log is not None else ReadingLog()
    others = {path.resolve() for path in (judgments, clicks) if path is not None}
    files = [file for file in find_item_files(Path(items)) if file.resolve() not in others]
    rows, rejects = read_items(files, options, log)
    if not rows:
        raise InvalidInput(f"{items} gave no lot: {rejects[0].reason if rejects else 'there is no row below the header'}")
    item_ids = {item.item_id for item in rows}
    graded: Grades = {}
    if judgments is not None:
        judged = read_judgments(judgments, item_ids, options.encoding)
        graded, rejects = judged.grades, rejects + judged.rejects
        for notice in judged.notices:
            log.notices.setdefault(notice, []).append(judgments.name)
    impressions: list[Click] = []
    if clicks is not None:
        click_log = read_clicks(clicks, item_ids)
        impressions, rejects = click_log.clicks, rejects + click_log.rejects
        if not impressions:
            reason = click_log.rejects[0].reason if click_log.rejects else "no row"
            raise InvalidInput(f"none of the {click_log.rows} rows of {clicks} could be used, first: {reason}")
    pairs = item_pairs(rows, [_listing(item) for item in rows], seed=seed, from_titles=True)
    splits = _splits(rows, pairs, graded, impressions, test_only, seed)
    with replace_folder(folder) as building:
        write_items(building / ITEMS_FOLDER / ITEMS_FILE, rows)
        write_rejects(building, rejects)
        write_catalog(
            building,
            name=NAME,
            seed=seed,
            splits=splits,
            example_queries=_examples(pairs["pseudo_query"], splits),
            photo_folders=sorted({file.absolute().parent for file in files}),
            sources=[items],
        )
    return CatalogFolder(folder)


def _splits(
    items: Sequence[Item],
    own: Mapping[str, Sequence[TrainingPair]],
    graded: Grades,
    clicks: Sequence[Click],
    test_only: bool,
    seed: int,
) -> dict[str, SplitData]:
    def split_of(query: str) -> str:
        if test_only and query_key(query) in judged_keys:
            return "test"
        return _split_of_share(share_of(query_key(query), seed))

    judged_keys = {query_key(query) for query in graded}
    judgments: dict[str, dict[str, Mapping[str, int]]] = {split: {} for split in SPLITS}
    for query, grades in graded.items():
        judgments[split_of(query)][query] = grades
    impressions: dict[str, list[Click]] = defaultdict(list)
    for click in clicks:
        impressions[split_of(click.query)].append(click)
    qrels = {split: _merge(judgments[split], click_qrels(impressions[split])) for split in SPLITS}
    held_out = [text for split in ("val", "test") for text in qrels[split].queries.values()]
    has_pseudo = not qrels["val"].queries
    if has_pseudo:
        pseudo = pseudo_judgments(own["pseudo_query"], items, graded, seed)
        qrels["val"] = _qrels(pseudo)
        held_out += pseudo
    training = [pair for query, grades in judgments["train"].items() for pair in _judged_pairs(query, grades)]
    training += click_pairs(impressions["train"])
    training += [pair for pairs in own.values() for pair in without_held_out(pairs, held_out)]
    return {
        split: SplitData(
            [ITEMS_FILE], training if split == "train" else (), qrels[split], impressions[split], has_pseudo and split == "val"
        )
        for split in SPLITS
    }


def _split_of_share(share: float) -> str:
    upto = 0.0
    for split, part in SHARES.items():
        upto += part
        if share < upto:
            return split
    return split


def _judged_pairs(query: str, grades: Mapping[str, int]) -> list[TrainingPair]:
    return [
        TrainingPair(query, item_id, JUDGED_WEIGHT if grade >= RELEVANT_GRADE else WEAK_JUDGED_WEIGHT)
        for item_id, grade in grades.items()
        if grade >= 1
    ]


def _qrels(judgments: Grades) -> Qrels:
    """Return the judgments of queries with a relevant item; a query's id is its folded text."""
    graded = {query: grades for query, grades in judgments.items() if max(grades.values()) >= RELEVANT_GRADE}
    return Qrels({fold(query): query for query in graded}, {fold(query): grades for query, grades in graded.items()})


def _merge(judgments: Grades, clicked: Qrels) -> Qrels:
    """Return judgments and the judgments of clicks; a query that is judged takes nothing from clicks."""
    judged = _qrels(judgments)
    return Qrels({**clicked.queries, **judged.queries}, {**clicked.grades, **judged.grades})


def _listing(item: Item) -> Listing:
    return Listing(item.item_id, item.title, item.description, item.brand, category=item.category)


def _examples(pairs: Iterable[TrainingPair], splits: Mapping[str, SplitData]) -> list[str]:
    """Return a few good queries: those of buyers, else the pseudo-queries that most items answer."""
    requested = [text for split in SPLITS for text in splits[split].qrels.queries.values()]
    if any(data.clicks for data in splits.values()):
        requested = list(dict.fromkeys(click.query for data in splits.values() for click in data.clicks))
    counts: dict[str, int] = defaultdict(int)
    for pair in pairs:
        counts[pair.query] += 1
    frequent = sorted((query for query in counts if len(query.split()) > 1), key=lambda query: (-counts[query], query))
    return list(dict.fromkeys([*requested, *frequent]))[:EXAMPLE_QUERIES]
