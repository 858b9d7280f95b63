"""A catalogue on disk: item files with their photos, and the judgments, training pairs and clicks that belong to them.

<catalog>/items/*.parquet                       item files under the item contract; `image` is relative to the file, or
                                                absolute and below one of the card's photo_folders
<catalog>/training/{pairs,qrels,clicks}.parquet  one table each, with a column `split`
<catalog>/rejects.ndjson                        rows of the source that were set aside, if any
<catalog>/catalog.json                          written last: its presence says that the catalogue is whole
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput
from retrieval.files import replace_file

CATALOG_FILE = "catalog.json"
ITEMS_FOLDER = "items"
TRAINING_FOLDER = "training"
REJECTS_FILE = "rejects.ndjson"  # rows of the source that broke a contract, with line and reason
SPLITS = ("train", "val", "test")
MAX_GRADE = 3
WRITE_BATCH_ROWS = 1 << 16

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
    """A query with a lot that answers it.

    Attributes:
        query: as a buyer types it.
        item_id: a lot of the corpus of the pair's split.
        weight: > 0; how much the pair counts.
        lot_text: what the lot is shown as in place of its own text, for pairs made from the lot's own words (a title that
            shall find the description, say); None shows the lot as it is.
    """

    query: str
    item_id: str
    weight: float = 1.0
    lot_text: str | None = None


@dataclass(frozen=True)
class Qrels:
    """Graded judgments, in the manner of TREC.

    Attributes:
        queries: query_id -> text.
        grades: query_id -> item_id -> grade, 0 to 3; a lot without a grade counts as 0, relevant is a grade >= 2.
    """

    queries: Mapping[str, str] = field(default_factory=dict)
    grades: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Click:
    """One lot in one result list that a buyer saw.

    Attributes:
        query: what the buyer had typed.
        item_id: the lot that was shown.
        position: its rank in that list, from 1.
        event_type: one of retrieval.contracts.events.EVENT_TYPES, the furthest step that the buyer took; None: shown, not touched.
        buyer_id: who.
        timestamp: UTC; the lots of one list share query, buyer and timestamp.
        client: keyed hash of the network address that told it; empty where that is not known, and in a catalogue.
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
    """What belongs to one split of a catalogue that is being written.

    Attributes:
        item_files: names under items/ of the corpus that the split's queries search.
        pairs: training pairs; read once.
        qrels: judgments; every query has at least one grade.
        clicks: impressions, list by list.
    """

    item_files: Sequence[str]
    pairs: Iterable[TrainingPair] = ()
    qrels: Qrels = field(default_factory=Qrels)
    clicks: Sequence[Click] = ()


class CatalogFolder:
    """A whole catalogue, read from its folder; tables are read when they are asked for.

    Attributes:
        path: the folder.
        name: what it was made from, such as "synthetic".
        seed: the seed that it was made with.
        splits: names of its splits, such as ("train", "val", "test").
        example_queries: a few queries worth trying on it.
    """

    def __init__(self, path: Path) -> None:
        """Read `catalog.json`.

        Raises:
            InvalidInput: there is no whole catalogue in that folder.
        """
        self.path = Path(path)
        card = self.path / CATALOG_FILE
        try:
            values = json.loads(card.read_text(encoding="utf-8"))
            self.name: str = values["name"]
            self.seed: int = values["seed"]
            self.example_queries: list[str] = values["example_queries"]
            self._item_files: dict[str, list[str]] = values["splits"]
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
        """List the item files of the corpus that a split's queries search.

        Args:
            split: a name in splits; None for the files of all.

        Returns:
            Parquet files by name, each once.

        Raises:
            InvalidInput: there is no such split.
        """
        wanted = self.splits if split is None else (self._known(split),)
        return [self.path / ITEMS_FOLDER / name for name in sorted({name for s in wanted for name in self._item_files[s]})]

    def pairs(self, split: str) -> list[TrainingPair]:
        """The training pairs of a split, in the order in which they were written."""
        return [TrainingPair(**row) for row in self._rows("pairs", split)]

    def qrels(self, split: str) -> Qrels:
        """The judgments of a split's queries."""
        queries: dict[str, str] = {}
        grades: dict[str, dict[str, int]] = {}
        for row in self._rows("qrels", split):
            queries[row["query_id"]] = row["query"]
            grades.setdefault(row["query_id"], {})[row["item_id"]] = row["grade"]
        return Qrels(queries, grades)

    def clicks(self, split: str) -> list[Click]:
        """The impressions of a split, list by list, best position first; empty when the catalogue has none."""
        return [Click(**row) for row in self._rows("clicks", split)]

    def _rows(self, table: str, split: str) -> list[dict[str, Any]]:
        path = self.path / TRAINING_FOLDER / f"{table}.parquet"
        try:
            rows = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InvalidInput(f"{path} cannot be read ({error}); {REMEDY}") from error
        found: list[dict[str, Any]] = rows.filter(pc.equal(rows["split"], self._known(split))).drop_columns(["split"]).to_pylist()
        return found

    def _known(self, split: str) -> str:
        if split not in self._item_files:
            raise InvalidInput(f"catalogue {self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        return split


def photo_folders(items: Path) -> list[Path]:
    """Return the folders that a catalogue was prepared from; its lots may name photos of these, too.

    Args:
        items: folder of the item file; the items/ of a catalogue, or any other.
    """
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return [Path(folder) for folder in json.loads((items.parent / CATALOG_FILE).read_text()).get("photo_folders", ())]
    return []


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Build a catalogue beside its place and move it there when it is whole.

    An interrupted build leaves the old catalogue as it was; the next build sweeps up what a killed one left.

    Args:
        folder: where the catalogue shall stand: nothing, an empty folder, or an older catalogue, which is replaced.

    Yields:
        An empty folder to write into.

    Raises:
        InvalidInput: something else than a catalogue stands there.
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
            folder.rename(outgoing)  # a rename cannot replace a full folder
        building.rename(folder)  # without a sync of each photo, which takes minutes: a catalogue can be made again
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
) -> None:
    """Write the tables of a catalogue whose item files already stand, and its card last.

    Args:
        building: the folder; the item files that splits name must stand under items/.
        name: what the catalogue was made from.
        seed: what it was made with.
        splits: split name -> its data.
        example_queries: a few queries worth trying.
        photo_folders: of the source, where its photos stay.

    Raises:
        InvalidInput: an item file is missing, or a judgment is out of its range.
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
    }
    replace_file(building / CATALOG_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write lots as a parquet file under the item contract; folders that lack are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _ITEM_SCHEMA, (_flat(item) for item in items))


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
    """Write rows as they come: of a long table no more than one batch is held in memory."""
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for batch in _batches(rows, WRITE_BATCH_ROWS):
            file.write_table(pa.Table.from_pylist(batch, schema=schema))


def _batches(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, size)):
        yield batch


def _flat(row: Item | TrainingPair | Click) -> dict[str, Any]:
    """What asdict() makes of a record without records inside, at a third of the cost."""
    return {column.name: getattr(row, column.name) for column in fields(row)}


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
