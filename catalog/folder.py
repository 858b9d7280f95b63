"""A catalogue on disk: item files with photos, judgments, training pairs and clicks.

<catalog>/items/*.parquet                       item files under the item contract; `image` is relative to the file, or
                                                absolute and below one of the card's photo_folders
<catalog>/training/{pairs,qrels,clicks}.parquet  one table each, with a column `split`
<catalog>/rejects.ndjson                        rejected rows of the source, if any
<catalog>/catalog.json                          written last: its presence means that the catalogue is complete
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.contracts.items import Item, Reject
from retrieval.errors import InvalidInput
from retrieval.files import reason_of, replace_file

CATALOG_FILE = "catalog.json"
ITEMS_FOLDER = "items"
TRAINING_FOLDER = "training"
REJECTS_FILE = "rejects.ndjson"  # rows of the source that break a contract, with line and reason
SPLITS = ("train", "val", "test")
MAX_GRADE = 3
WRITE_BATCH_ROWS = 1 << 16
ITEM_BATCH_ROWS = 1 << 14  # items have long texts

REMEDY = "make one with `gavel catalog generate` or `gavel catalog prepare`"

_TIME = pa.timestamp("ms", tz="UTC")
_ITEM_SCHEMA = pa.schema(
    {
        "item_id": pa.string(),
        "title": pa.string(),
        "description": pa.string(),
        "image": pa.string(),
        "category": pa.string(),
        "brand": pa.string(),
        "current_price": pa.float64(),
        "bid_count": pa.int64(),
        "seller_rating": pa.float64(),
        "listed_at": _TIME,
        "ends_at": _TIME,
        "updated_at": _TIME,
        "seller": pa.string(),
        "attributes": pa.string(),  # JSON
        "more_images": pa.string(),  # JSON
    }
)
_PAIR_SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "query": pa.string(),
        "item_id": pa.string(),
        "weight": pa.float64(),
        "lot_text": pa.string(),
    }
)
_QRELS_SCHEMA = pa.schema(
    {"split": pa.string(), "query_id": pa.string(), "query": pa.string(), "item_id": pa.string(), "grade": pa.int8()}
)
_CLICK_SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "query": pa.string(),
        "item_id": pa.string(),
        "position": pa.int32(),
        "event_type": pa.string(),
        "buyer_id": pa.string(),
        "timestamp": _TIME,
    }
)


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A query with an item that answers it.

    Attributes:
        query: query as a buyer types it.
        item_id: id of an item in the corpus of the pair's split.
        weight: weight of the pair, > 0.
        lot_text: text that replaces the item's own text, for pairs made from the item's own words (such as a title that must
            retrieve the description); None keeps the item's text.
    """

    query: str
    item_id: str
    weight: float = 1.0
    lot_text: str | None = None


@dataclass(frozen=True)
class Qrels:
    """Graded judgments, as in TREC.

    Attributes:
        queries: query_id -> text.
        grades: query_id -> item_id -> grade, 0 to 3; an item without a grade counts as 0, a grade >= 2 as relevant.
    """

    queries: Mapping[str, str] = field(default_factory=dict)
    grades: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Click:
    """An impression: one item in one result list of a buyer.

    Attributes:
        query: query as typed by the buyer.
        item_id: id of the item.
        position: rank of the item in the list, from 1.
        event_type: the buyer's furthest event, one of retrieval.contracts.events.EVENT_TYPES; None without an event.
        buyer_id: id of the buyer.
        timestamp: time of the list, in UTC; the items of one list share query, buyer and timestamp.
        client: keyed hash of the sender's network address; empty if unknown, and in a catalogue.
    """

    query: str
    item_id: str
    position: int
    event_type: str | None
    buyer_id: str
    timestamp: datetime
    client: str = ""


@dataclass(frozen=True)
class SplitData:
    """The data of one split of a catalogue to be written.

    Attributes:
        item_files: names, under items/, of the files of the split's corpus.
        pairs: training pairs; iterated once.
        qrels: judgments; every query has at least one grade.
        clicks: impressions, list by list.
        pseudo_queries: True if the queries of `qrels` were made from the items' own words, which favours a search by words.
    """

    item_files: Sequence[str]
    pairs: Iterable[TrainingPair] = ()
    qrels: Qrels = field(default_factory=Qrels)
    clicks: Sequence[Click] = ()
    pseudo_queries: bool = False


class CatalogFolder:
    """A complete catalogue in its folder; tables are read on access.

    Attributes:
        path: the folder.
        name: name of the source, such as "synthetic".
        seed: seed of the generation.
        splits: names of the splits, such as ("train", "val", "test").
        example_queries: a few good queries for the catalogue.
        sources: the user's own item files or folders that it was made of; empty for published data.
        pseudo_splits: splits whose queries were made from the items' own words; val if the card is of a version that did not say.
    """

    def __init__(self, path: Path) -> None:
        """Read `catalog.json`.

        Raises:
            InvalidInput: the folder holds no complete catalogue.
        """
        self.path = Path(path)
        card = self.path / CATALOG_FILE
        try:
            values = json.loads(card.read_text(encoding="utf-8"))
            self.name: str = values["name"]
            self.seed: int = values["seed"]
            self.example_queries: list[str] = values["example_queries"]
            self._item_files: dict[str, list[str]] = values["splits"]
            self.sources: list[str] = values.get("sources", [])
            self.pseudo_splits: list[str] = values.get("pseudo_splits", ["val"])
        except FileNotFoundError:
            raise InvalidInput(f"{self.path} holds no catalogue ({CATALOG_FILE} is missing); {REMEDY}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"{card} is not a catalogue card ({error!r}); {REMEDY}") from error
        self.splits = tuple(self._item_files)

    @classmethod
    def load(cls, path: Path) -> "CatalogFolder":
        """Read a catalogue's card; the same as the constructor."""
        return cls(path)

    def item_files(self, split: str | None = None) -> list[Path]:
        """List the item files of a split's corpus.

        Args:
            split: a name in splits; None for all splits.

        Returns:
            Parquet files by name, each once.

        Raises:
            InvalidInput: there is no such split.
        """
        splits = self.splits if split is None else (self._check_split(split),)
        return [self.path / ITEMS_FOLDER / name for name in sorted({name for s in splits for name in self._item_files[s]})]

    def pairs(self, split: str) -> list[TrainingPair]:
        """Return the training pairs of a split, in the order of the file."""
        return [TrainingPair(**row) for row in self._rows("pairs", split)]

    def has_queries(self, split: str) -> bool:
        """Return True if there is such a split and a query in it has judgments, so that something can be measured on it."""
        return split in self._item_files and bool(self.qrels(split).queries)

    def qrels(self, split: str) -> Qrels:
        """Return the judgments of a split's queries."""
        queries: dict[str, str] = {}
        grades: dict[str, dict[str, int]] = {}
        for row in self._rows("qrels", split):
            queries[row["query_id"]] = row["query"]
            grades.setdefault(row["query_id"], {})[row["item_id"]] = row["grade"]
        return Qrels(queries, grades)

    def clicks(self, split: str) -> list[Click]:
        """Return the impressions of a split, list by list, best position first; empty if the catalogue has none."""
        return [Click(**row) for row in self._rows("clicks", split)]

    def _rows(self, table: str, split: str) -> list[dict[str, Any]]:
        path = self.path / TRAINING_FOLDER / f"{table}.parquet"
        try:
            content = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InvalidInput(f"{path} cannot be read ({reason_of(error)}); {REMEDY}") from error
        part = content.filter(pc.equal(content["split"], self._check_split(split)))
        rows: list[dict[str, Any]] = part.drop_columns(["split"]).to_pylist()
        return rows

    def _check_split(self, split: str) -> str:
        if split not in self._item_files:
            raise InvalidInput(f"catalogue {self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        return split


def photo_folders(items: Path) -> list[Path]:
    """Return the folders outside a catalogue whose photos the catalogue's items may name.

    Args:
        items: folder of an item file: the items/ of a catalogue, or any other folder, for which the result is empty.
    """
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return [Path(folder) for folder in json.loads((items.parent / CATALOG_FILE).read_text()).get("photo_folders", ())]
    return []


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Build a catalogue in a temporary folder and move it to its place when it is complete.

    An interrupted build does not change the old catalogue. The next build deletes the remains of a killed build.

    Args:
        folder: folder of the catalogue: missing, empty, or with an older catalogue, which is replaced.

    Yields:
        An empty folder to write into.

    Raises:
        InvalidInput: the folder holds something else than a catalogue.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder / CATALOG_FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} holds other things than a catalogue; name a new or empty folder")
    building, outgoing = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("building", "outgoing"))
    _remove(building, outgoing)
    try:
        building.mkdir(parents=True)
        yield building
        if folder.exists():
            folder.rename(outgoing)  # because a rename cannot replace a non-empty folder
        building.rename(folder)  # without fsync of every photo, which takes minutes, because a catalogue can be rebuilt
    finally:
        _remove(building, outgoing)


def write_catalog(
    building: Path,
    *,
    name: str,
    seed: int,
    splits: Mapping[str, SplitData],
    example_queries: Sequence[str],
    photo_folders: Sequence[Path] = (),
    sources: Sequence[Path] = (),
) -> None:
    """Write the tables of a catalogue whose item files exist, and its card last.

    Args:
        building: folder to write into; the splits' item files must be under its items/.
        name: name of the catalogue's source.
        seed: seed of the generation.
        splits: split name -> data of the split.
        example_queries: a few good queries.
        photo_folders: folders of the source that hold the photos.
        sources: the user's own item files or folders that the catalogue was made of.

    Raises:
        InvalidInput: an item file is missing, a query has no judgment, or a grade is not 0 to 3.
    """
    for split, data in splits.items():
        for file in data.item_files:
            if not (building / ITEMS_FOLDER / file).is_file():
                raise InvalidInput(f"split {split!r} names the item file {file}, which was not written")
    training = building / TRAINING_FOLDER
    training.mkdir(exist_ok=True)
    _write(training / "pairs.parquet", _PAIR_SCHEMA, ({"split": s, **_flat(p)} for s, d in splits.items() for p in d.pairs))
    _write(training / "qrels.parquet", _QRELS_SCHEMA, (row for s, d in splits.items() for row in _qrels_rows(s, d.qrels)))
    _write(training / "clicks.parquet", _CLICK_SCHEMA, ({"split": s, **_flat(c)} for s, d in splits.items() for c in d.clicks))
    card = {
        "name": name,
        "seed": seed,
        "splits": {split: list(data.item_files) for split, data in splits.items()},
        "example_queries": list(example_queries),
        "photo_folders": [str(folder.absolute()) for folder in photo_folders],
        "sources": [str(path) for path in sources],
        "pseudo_splits": [split for split, data in splits.items() if data.pseudo_queries],
    }
    replace_file(building / CATALOG_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write items as a parquet file under the item contract; missing folders are created."""
    write_item_files(path.parent, [path.name], ((path.name, item) for item in items))


def write_rejects(building: Path, rejects: Sequence[Reject]) -> None:
    """Write the rows that were set aside into a catalogue's rejects.ndjson; without any there is no file."""
    if rejects:
        (building / REJECTS_FILE).write_text("".join(f"{reject.to_json()}\n" for reject in rejects), encoding="utf-8")


def write_item_files(folder: Path, names: Sequence[str], items: Iterable[tuple[str, Item]]) -> None:
    """Write items to several parquet files at once, so that a long source is read once.

    Args:
        folder: folder of the files, created if it is missing.
        names: names of all files; a file without items is written, too.
        items: (name of the file, item), in any order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_open(folder / name, _ITEM_SCHEMA)) for name in names}
        for name, item in items:
            attributes = json.dumps(dict(item.attributes), ensure_ascii=False) if item.attributes else None
            more_images = json.dumps(item.more_images, ensure_ascii=False) if item.more_images else None
            rows[name].append(_flat(item) | {"attributes": attributes, "more_images": more_images})
            if len(rows[name]) == ITEM_BATCH_ROWS:
                files[name].write_table(pa.Table.from_pylist(rows[name], schema=_ITEM_SCHEMA))
                rows[name].clear()
        for name, rest in rows.items():
            if rest:
                files[name].write_table(pa.Table.from_pylist(rest, schema=_ITEM_SCHEMA))


def _qrels_rows(split: str, qrels: Qrels) -> Iterator[dict[str, Any]]:
    for query_id, query in qrels.queries.items():
        grades = qrels.grades.get(query_id)
        if not grades:
            raise InvalidInput(f"query {query_id!r} of split {split!r} has no judgment; leave it out or grade a lot")
        for item_id, grade in grades.items():
            if not 0 <= grade <= MAX_GRADE:
                raise InvalidInput(f"query {query_id!r} of split {split!r}: grade {grade} of {item_id!r} is not 0 to {MAX_GRADE}")
            yield {"split": split, "query_id": query_id, "query": query, "item_id": item_id, "grade": grade}


def _write(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows in batches, so that memory holds one batch only."""
    with _open(path, schema) as file:
        for batch in _batches(rows, WRITE_BATCH_ROWS):
            file.write_table(pa.Table.from_pylist(batch, schema=schema))


def _open(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd")


def _batches(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, size)):
        yield batch


def _flat(row: Item | TrainingPair | Click) -> dict[str, Any]:
    """Return a flat record as a dictionary, at a third of asdict()'s cost."""
    return {column.name: getattr(row, column.name) for column in fields(row)}


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
