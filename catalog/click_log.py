"""Build a catalogue from a shop's click log: queries, result lists and buyers' events.

A row is one item in one result list. Columns: query, item_id, position, event_type, buyer_id, timestamp, and their aliases.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.folder import (
    ITEMS_FOLDER,
    REJECTS_FILE,
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
from catalog.pseudo_queries import fold
from catalog.query_splits import share_of
from retrieval.contracts.events import ALIASES as EVENT_ALIASES
from retrieval.contracts.events import EVENT_TYPES, SHOWN, event_weight, parse_interaction
from retrieval.contracts.item_files import DEFAULT_OPTIONS, ReadingLog, ReadOptions, numbered_items
from retrieval.contracts.item_folders import find_item_files
from retrieval.contracts.items import Item, Reject, first_value, parse_text
from retrieval.contracts.table_files import numbered_rows
from retrieval.errors import InvalidInput
from retrieval.feedback.rows import MAX_QUERY_CHARS
from retrieval.progress import Progress
from retrieval.text.analysis import check_text

logger = logging.getLogger(__name__)

ALIASES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "search_query"),
    "position": ("position", "rank"),
    **EVENT_ALIASES,
}
GRADES: Mapping[str | None, int] = {None: 0, "view": 2, "add_to_cart": 2, "bid": 2, "purchase": 3}
SHARES: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}  # split -> share of the queries
ITEMS_FILE = "items.parquet"
EXAMPLE_QUERIES = 4
MAX_POSITION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ClickLog:
    """The impressions of a log.

    Attributes:
        clicks: impressions, list by list, best position first.
        rejects: rows that break the contract, with file, line and reason.
        rows: number of rows of the log; each is a reject or belongs to one impression.
    """

    clicks: list[Click]
    rejects: list[Reject]
    rows: int


def prepare(
    data: Path,
    folder: Path,
    *,
    items: Path,
    seed: int = 7,
    progress: Progress | None = None,
    options: ReadOptions = DEFAULT_OPTIONS,
) -> CatalogFolder:
    """Build a catalogue from a click log and an item file; every split searches all items.

    Args:
        data: the log: a .csv, .parquet, .ndjson or .jsonl file, or a folder of such files.
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        items: item file of the log, or a folder of item files.
        seed: seed that assigns queries to splits; a new query does not move other queries.
        progress: called with (files read, files).
        options: what the user says about the item files.

    Returns:
        The catalogue. Clicks are in the split of their folded query. Train clicks give pairs (click_pairs()), and each split's
        clicks give its judgments (click_qrels()). Rows of log or items that break their contract, and log rows of unknown items,
        are in rejects.ndjson.

    Raises:
        InvalidInput: a file is missing or cannot be read, or the log has no usable row.
    """
    if not Path(items).exists():
        raise InvalidInput(f"{items} does not exist; name the item file that the click log speaks of")
    reading = ReadingLog()
    rows, rejects = read_items(find_item_files(Path(items)), options, reading)
    for line in reading.lines():
        logger.warning("%s", line)
    log = read_clicks(Path(data), {item.item_id for item in rows}, progress)
    rejects += log.rejects
    if not log.clicks:
        raise InvalidInput(
            f"none of the {log.rows} rows of {data} could be used, first: {rejects[0].reason if rejects else 'no row'}"
        )
    by_split: dict[str, list[Click]] = {split: [] for split in SPLITS}
    for click in log.clicks:
        by_split[split_of_query(click.query, seed)].append(click)
    with replace_folder(folder) as building:
        write_items(building / ITEMS_FOLDER / ITEMS_FILE, rows)
        if rejects:
            logger.warning("%d rows are set aside in %s, first: %s", len(rejects), REJECTS_FILE, rejects[0].reason)
        write_rejects(building, rejects)
        splits = {split: _split_data(split, clicks) for split, clicks in by_split.items()}
        examples = list(dict.fromkeys(click.query for click in log.clicks))[:EXAMPLE_QUERIES]
        sources = sorted({path.absolute().parent for path in find_item_files(Path(items))})
        write_catalog(
            building,
            name="clicks",
            seed=seed,
            splits=splits,
            example_queries=examples,
            photo_folders=sources,
            sources=[items],
        )
    return CatalogFolder(folder)


def read_items(
    files: Sequence[Path], options: ReadOptions = DEFAULT_OPTIONS, log: ReadingLog | None = None
) -> tuple[list[Item], list[Reject]]:
    """Read item files. Photos get absolute paths, so that the catalogue may be in another folder."""
    items: dict[str, Item] = {}
    rejects: list[Reject] = []
    for path in files:
        for line, row in numbered_items(path, options, log):
            if isinstance(row, Reject):
                rejects.append(row)
            elif row.item_id in items:
                rejects.append(Reject(path.name, line, "the item_id occurred before", row.item_id))
            else:
                more_images = tuple(_absolute(image, path) for image in row.more_images)
                items[row.item_id] = replace(row, image=row.image and _absolute(row.image, path), more_images=more_images)
    return list(items.values()), rejects


def read_clicks(where: Path, item_ids: set[str], progress: Progress | None = None) -> ClickLog:
    """Read a log.

    Rows of one query, buyer, time and item are one impression, with the furthest event and the best position.

    Args:
        where: a file, or a folder of files.
        item_ids: ids of the known items.
        progress: called with (files read, files).

        Raises:
            InvalidInput: there is no file, or a file cannot be read or lacks a column.
    """
    clicks: list[Click] = []
    rejects: list[Reject] = []
    rows, files = 0, find_item_files(where)
    for number, path in enumerate(files, 1):
        for line, row in numbered_rows(path, ALIASES):
            rows += 1
            try:
                served = None if isinstance(row, str) else first_value(row, ("served",))  # as in rows of POST /events
                if served is not None and str(served).strip().lower() not in ("true", "1"):
                    raise InvalidInput(
                        "no search is known to have answered with the lot at this position "
                        f"(`served` is {str(served)[:40]!r}, neither true nor 1)"
                    )
                clicks.append(parse_click(row, item_ids))
            except InvalidInput as error:
                rejects.append(Reject(path.name, line, str(error)))
        if progress:
            progress(number, len(files))
    return ClickLog(impressions(clicks), rejects, rows)


def impressions(clicks: Iterable[Click]) -> list[Click]:
    """Merge rows of one query, buyer, time and item, with the furthest event and the best position; return them list by list."""
    merged: dict[tuple[str, str, datetime, str], Click] = {}
    for click in clicks:
        key = (fold(click.query), click.buyer_id, click.timestamp, click.item_id)
        merged[key] = _merge(merged.get(key, click), click)
    return sorted(merged.values(), key=lambda c: (c.timestamp, c.buyer_id, fold(c.query), c.position, c.item_id))


def parse_click(row: Mapping[str, Any] | str, item_ids: set[str] | None = None) -> Click:
    """Read one row of a log.

    Args:
        row: column name -> value; or a text, the reason why the line is no row. A row without event type, or with an event type of
            SHOWN, is an impression without event.
        item_ids: ids of the known items; None accepts any id.

    Raises:
        InvalidInput: the row breaks the contract; the message contains field and value.
    """
    if isinstance(row, str):
        raise InvalidInput(row)
    event_type = str(first_value(row, ALIASES["event_type"]) or "")
    touched = event_type.strip().lower() not in ("", *SHOWN)
    interaction = parse_interaction(row if touched else {**row, "event_type": "view"})
    query = parse_text("query", first_value(row, ALIASES["query"]), MAX_QUERY_CHARS)
    if not fold(query):
        raise InvalidInput(f"query is missing (accepted column names: {', '.join(ALIASES['query'])})")
    if item_ids is not None and interaction.item_id not in item_ids:
        raise InvalidInput(f"item {interaction.item_id!r} is not among the items")
    position = _position(first_value(row, ALIASES["position"]))
    event = interaction.event_type if touched else None
    return Click(query, interaction.item_id, position, event, interaction.buyer_id, interaction.timestamp)


def click_pairs(clicks: Iterable[Click]) -> list[TrainingPair]:
    """Make training pairs from impressions.

    The weight of a pair is the mean event weight over all its impressions, as a share of the heaviest event: 1 means that everybody
    who saw the item bought it. Position bias is not corrected.

    Args:
        clicks: impressions; spellings of a query are merged under the first spelling.

    Returns:
        Pairs with weights in (0, 1], in the order of their first impressions; items without events give no pair.
    """
    weights: dict[tuple[str, str], list[float]] = defaultdict(list)
    spellings: dict[str, str] = {}
    for click in clicks:
        query = spellings.setdefault(fold(click.query), click.query)
        weights[query, click.item_id].append(event_weight(click.event_type) if click.event_type else 0.0)
    heaviest = max(map(event_weight, EVENT_TYPES))
    return [TrainingPair(query, item_id, sum(w) / len(w) / heaviest) for (query, item_id), w in weights.items() if sum(w)]


def click_qrels(clicks: Iterable[Click]) -> Qrels:
    """Make judgments from impressions. The furthest event of any buyer sets the grade: purchase 3, another event 2, no event 0."""
    queries: dict[str, str] = {}
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for click in clicks:
        query_id = fold(click.query)
        queries.setdefault(query_id, click.query)
        grades[query_id][click.item_id] = max(GRADES[click.event_type], grades[query_id].get(click.item_id, 0))
    return Qrels(queries, grades)


def split_of_query(query: str, seed: int = 7) -> str:
    """Return the split of a query, which depends only on the seed and on the text with case and spaces folded."""
    place, upto = share_of(fold(query), seed), 0.0
    for split, share in SHARES.items():
        upto += share
        if place < upto:
            return split
    return split


def _split_data(split: str, clicks: Sequence[Click]) -> SplitData:
    return SplitData(
        item_files=[ITEMS_FILE],
        pairs=click_pairs(clicks) if split == "train" else (),
        qrels=click_qrels(clicks),
        clicks=clicks,
    )


def _merge(one: Click, other: Click) -> Click:
    """Merge two rows of one impression."""
    steps: list[str | None] = [None, *EVENT_TYPES]
    return replace(
        one, event_type=max(one.event_type, other.event_type, key=steps.index), position=min(one.position, other.position)
    )


def _position(value: Any) -> int:
    try:
        number = float(value)
        if not number.is_integer() or not 1 <= number <= MAX_POSITION:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"position is not a whole number from 1: {value!r}") from None
    return int(number)


def _absolute(image: str, path: Path) -> str:
    if "://" in image:
        return image
    check_text(absolute := str(path.absolute().parent / image), "the path of a photo")
    return absolute
