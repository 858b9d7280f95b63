"""Build a catalogue from Amazon's Shopping Queries Data Set: products judged Exact, Substitute, Complement or Irrelevant.

Reddy et al., "Shopping Queries Dataset: A Large-Scale ESCI Benchmark for Improving Product Search", 2022 (arXiv 2206.06588).
Both files are streamed in batches. Memory holds the judgments of one locale and version, and the ids of the products that are read.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.folder import (
    ITEMS_FOLDER,
    REJECTS_FILE,
    SPLITS,
    CatalogFolder,
    Qrels,
    SplitData,
    TrainingPair,
    replace_folder,
    write_catalog,
    write_item_files,
)
from catalog.markup import plain_text
from catalog.pseudo_queries import fold
from catalog.query_splits import share_of
from retrieval.contracts.items import Item, Reject, parse_item
from retrieval.errors import InvalidInput
from retrieval.files import reason_of
from retrieval.progress import Progress

logger = logging.getLogger(__name__)

EXAMPLES_FILE = "shopping_queries_dataset_examples.parquet"
PRODUCTS_FILE = "shopping_queries_dataset_products.parquet"
LAYOUT = (
    f"{EXAMPLES_FILE} and {PRODUCTS_FILE}, from the folder shopping_queries_dataset of https://github.com/amazon-science/esci-data"
)
ITEMS_FILE = "products.parquet"  # the judged products
UNJUDGED_FILE = "unjudged.parquet"
LOCALES, VERSIONS, CORPORA = ("us", "es", "jp"), ("small", "large"), ("judged", "all")
PAIR_WEIGHTS: Mapping[str, float] = {"E": 1.0, "S": 0.9, "C": 0.6, "I": 0.0}  # label -> weight; weight 0 makes no pair
GRADES: Mapping[str, int] = {"E": 3, "S": 2, "C": 1, "I": 0}
VAL_SHARE = 0.1  # share of the train queries
BATCH_ROWS = 8_192
READ_BYTES = 1 << 20  # bytes of a column that are read at once, because a row group of the published files has a million rows
MAX_BROKEN_SHARE, MIN_BROKEN = 0.01, 3  # more broken judgments than this share, and than this number, are another file's
EXAMPLE_QUERIES = 4

_EXAMPLE_COLUMNS = ("query", "query_id", "product_id", "product_locale", "esci_label", "split")
_PRODUCT_COLUMNS = (
    "product_id", "product_title", "product_description", "product_bullet_point", "product_brand", "product_color",
    "product_locale",
)  # fmt: skip

Version = Literal["small", "large"]
Corpus = Literal["judged", "all"]


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query with its judgments.

    Attributes:
        query_id: id in the data set.
        text: query as typed.
        split: split in the data set, "train" or "test".
        labels: product_id -> E, S, C or I.
    """

    query_id: str
    text: str
    split: str
    labels: dict[str, str]


def prepare(
    data: Path,
    folder: Path,
    *,
    locale: str = "us",
    version: Version = "small",
    corpus: Corpus = "judged",
    seed: int = 7,
    progress: Progress | None = None,
) -> CatalogFolder:
    """Build a catalogue from one locale of the data set.

    Args:
        data: the folder of the two parquet files.
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        locale: "us", "es" or "jp".
        version: "small" uses the judgments that the data marks as the harder, smaller set; "large" uses all.
        corpus: products that the test queries search: "judged" for those with a judgment, "all" for all products of the locale, as
            in published comparisons of retrieval. Train and val always have the judged products.
        seed: seed that selects the train queries for validation.
        progress: called with (product rows read, product rows).

    Returns:
        The catalogue. Test is the data set's test; a tenth of the train queries is val. Rows that break a contract are in
        rejects.ndjson, with file, line and reason. Missing products are counted and logged, and their judgments left out.

    Raises:
        InvalidInput: a file is missing, damaged, or lacks a column; locale, version or corpus is unknown; there is no judgment, or
            more than one in a hundred is broken.
    """
    for name, value, known in (("locale", locale, LOCALES), ("version", version, VERSIONS), ("corpus", corpus, CORPORA)):
        if value not in known:
            raise InvalidInput(f"there is no {name} {value!r}; use {', '.join(known[:-1])} or {known[-1]}")
    examples, products = (Path(data) / name for name in (EXAMPLES_FILE, PRODUCTS_FILE))
    if not examples.is_file() or not products.is_file():
        raise InvalidInput(f"{data} does not hold the Shopping Queries Data Set: expected {LAYOUT}")
    with replace_folder(folder) as building, _open_rejects(building / REJECTS_FILE) as rejects:
        queries = read_queries(examples, locale=locale, version=version, reject=rejects.add)
        missing = {product_id for query in queries for product_id in query.labels}
        stream = _Products(products, locale, missing, corpus, rejects, progress)
        names = [ITEMS_FILE, UNJUDGED_FILE] if corpus == "all" else [ITEMS_FILE]
        write_item_files(building / ITEMS_FOLDER, names, stream.items())
        stream.log_missing()
        by_split = _without_products(split_queries(queries, seed), missing)
        splits = {split: _split_data(split, by_split[split], names if split == "test" else names[:1]) for split in SPLITS}
        examples_shown = [query.text for query in by_split["test"][:EXAMPLE_QUERIES]]
        write_catalog(
            building, name=catalog_name(locale, version, corpus), seed=seed, splits=splits, example_queries=examples_shown
        )
    return CatalogFolder(folder)


def catalog_name(locale: str, version: str, corpus: str = "judged") -> str:
    """Return the name of a catalogue, such as "esci-us-small" or "esci-us-small-all"."""
    return f"esci-{locale}-{version}" + ("-all" if corpus == "all" else "")


def read_queries(
    path: Path, *, locale: str, version: Version, reject: Callable[[Reject], None] = lambda reject: None
) -> list[JudgedQuery]:
    """Read the judgments of one locale and version, in the order of the file.

    Args:
        path: file of the judgments.
        locale: locale of the judgments.
        version: "small" or "large".
        reject: called with each row that lacks query, product, label or split.

    Raises:
        InvalidInput: the file cannot be read or lacks a column; there is no judgment, or more than one in a hundred is broken.
    """
    version_column = f"{version}_version"

    def is_in_version(batch: pa.RecordBatch) -> Any:
        in_version = pc.fill_null(pc.cast(batch[version_column], pa.bool_()), False)
        return pc.and_(pc.fill_null(pc.equal(batch["product_locale"], locale), False), in_version)

    queries: dict[str, JudgedQuery] = {}
    rows = broken = 0
    for line, row in _rows(path, (*_EXAMPLE_COLUMNS, version_column), lambda batch: np.flatnonzero(is_in_version(batch)).tolist()):
        rows += 1
        if fault := _fault(row):
            broken += 1
            reject(Reject(path.name, line, fault, row["product_id"]))
            continue
        query_id = str(row["query_id"])
        query = queries.setdefault(query_id, JudgedQuery(query_id, row["query"], intern(row["split"]), {}))
        query.labels[intern(row["product_id"])] = intern(row["esci_label"])
    if broken > max(MIN_BROKEN, rows * MAX_BROKEN_SHARE) or (broken and not queries):
        raise InvalidInput(f"{broken} of {rows} judgments in {path} are broken, the last one: {fault}; is it the published file?")
    if not queries:
        raise InvalidInput(f"{path} holds no judgment of locale {locale} in the {version} version; is it the whole file?")
    return list(queries.values())


def _fault(row: Mapping[str, Any]) -> str:
    """Return the reason why a judgment cannot be used; empty if it can."""
    if row["query_id"] is None or not (row["query"] or "").strip():
        return "the judgment has no query"
    if not row["product_id"]:
        return "the judgment has no product_id"
    if row["esci_label"] not in GRADES:
        return f"esci_label is {row['esci_label']!r}, not one of {', '.join(GRADES)}"
    if row["split"] not in ("train", "test"):
        return f"split is {row['split']!r}, not train or test"
    return ""


def split_queries(queries: Sequence[JudgedQuery], seed: int = 7) -> dict[str, list[JudgedQuery]]:
    """Assign queries to train, val and test.

    Queries that differ only in case and spaces stay together. A train query that also occurs in test is left out and logged. The
    smallest query_id of a text decides between train and val.

    Returns:
        split -> queries, in order.
    """
    same: dict[str, list[JudgedQuery]] = defaultdict(list)
    for query in queries:
        same[fold(query.text)].append(query)
    split_of: dict[str, str] = {}
    repeated = 0
    for alike in same.values():
        tests = [query for query in alike if query.split == "test"]
        key = min(query.query_id for query in alike)
        train = "val" if share_of(key, seed) < VAL_SHARE else "train"
        split_of |= {query.query_id: "test" if tests else train for query in (tests or alike)}
        repeated += len(alike) - len(tests) if tests else 0
    if repeated:
        logger.warning("%d train queries are asked in test too and are left out", repeated)
    return {split: [query for query in queries if split_of.get(query.query_id) == split] for split in SPLITS}


class _Rejects:
    """A file of rejects that is written row by row, so that memory does not hold them."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def add(self, reject: Reject) -> None:
        """Write a reject."""
        self._file.write(f"{reject.to_json()}\n")


@contextmanager
def _open_rejects(path: Path) -> Iterator[_Rejects]:
    """Open the file of rejects, and delete it afterwards if it is empty."""
    with path.open("w", encoding="utf-8") as file:
        yield _Rejects(file)
    if not path.stat().st_size:
        path.unlink()


class _Products:
    """A reader of products. It removes each judged product that it reads from `missing`, the ids still to be read."""

    def __init__(
        self, path: Path, locale: str, missing: set[str], corpus: Corpus, rejects: _Rejects, progress: Progress | None
    ) -> None:
        self.path, self.locale, self.missing, self.corpus, self.progress = path, locale, missing, corpus, progress
        self.judged, self.rejects, self.rejected_ids = frozenset(missing), rejects, set[str]()
        self._unjudged: set[str] = set()  # unjudged products that were read

    def items(self) -> Iterator[tuple[str, Item]]:
        """Yield (file, item); the first row of a product counts."""
        for line, row in _rows(self.path, _PRODUCT_COLUMNS, self._needed, self.progress):
            product_id = row["product_id"]
            if (product_id in self.judged and product_id not in self.missing) or product_id in self._unjudged:
                continue  # a repetition
            try:
                item = parse_item(_listing(row))
            except InvalidInput as error:
                self.rejects.add(Reject(self.path.name, line, str(error), product_id))
                self.rejected_ids.add(product_id)
                continue
            if product_id in self.missing:
                self.missing.discard(item.item_id)
                yield ITEMS_FILE, item
            else:
                self._unjudged.add(item.item_id)
                yield UNJUDGED_FILE, item

    def _needed(self, batch: pa.RecordBatch) -> Sequence[int]:
        rows: list[int] = np.flatnonzero(pc.fill_null(pc.equal(batch["product_locale"], self.locale), False)).tolist()
        if self.corpus == "all":
            return rows
        ids = batch["product_id"].to_pylist()
        return [row for row in rows if ids[row] in self.missing]

    def log_missing(self) -> None:
        """Log judged products that are not in the file, or break the item contract."""
        if self.missing:
            lacking = len(self.missing - self.rejected_ids)
            logger.warning(
                "%d of %d judged products are not in %s, %d break the item contract (%s); their judgments are left out",
                lacking, len(self.judged), self.path.name, len(self.missing) - lacking, REJECTS_FILE,
            )  # fmt: skip


def _listing(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row for the item contract; bullet points precede the description, because they are the most concise."""
    parts = (row["product_color"], row["product_bullet_point"], row["product_description"])
    texts = (plain_text(part) for part in parts if part)
    return {
        "item_id": row["product_id"],
        "title": plain_text(row["product_title"] or ""),
        "description": ". ".join(text for text in texts if text),
        "brand": plain_text(row["product_brand"] or ""),
    }


def _without_products(by_split: Mapping[str, Sequence[JudgedQuery]], missing: set[str]) -> dict[str, list[JudgedQuery]]:
    """Remove judgments of missing products, and queries without any other judgment; log both."""
    remaining: dict[str, list[JudgedQuery]] = {}
    removed: Counter[str] = Counter()
    for split, queries in by_split.items():
        for query in queries:
            removed["judgments"] += len(query.labels.keys() & missing)
            for product_id in query.labels.keys() & missing:
                del query.labels[product_id]
        remaining[split] = [query for query in queries if query.labels]
        removed["queries"] += len(queries) - len(remaining[split])
    if removed["judgments"]:
        logger.warning("%d judgments of products that lack are left out, with %d queries", removed["judgments"], removed["queries"])
    return remaining


def _split_data(split: str, queries: Sequence[JudgedQuery], item_files: Sequence[str]) -> SplitData:
    grades = {q.query_id: {product_id: GRADES[label] for product_id, label in q.labels.items()} for q in queries}
    pairs = (
        TrainingPair(query.text, product_id, PAIR_WEIGHTS[label])
        for query in queries
        for product_id, label in query.labels.items()
        if PAIR_WEIGHTS[label]
    )
    qrels = Qrels({query.query_id: query.text for query in queries}, grades)
    return SplitData(item_files=item_files, pairs=pairs if split == "train" else (), qrels=qrels)


def _rows(
    path: Path, columns: Sequence[str], choose: Callable[[pa.RecordBatch], Sequence[int]], progress: Progress | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the chosen rows with their numbers from 1, batch by batch.

    Args:
        path: parquet file.
        columns: columns to read.
        choose: function that returns the numbers of the wanted rows in a batch; only these become Python values.
        progress: called with (rows read, rows).
    """
    try:
        with pq.ParquetFile(path, buffer_size=READ_BYTES) as file:
            lacking = [name for name in columns if name not in file.schema_arrow.names]
            if lacking:
                raise InvalidInput(f"{path} lacks the columns {', '.join(lacking)}: expected {', '.join(columns)}")
            read, total = 0, file.metadata.num_rows
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                chosen = choose(batch)
                for number, row in zip(chosen, batch.take(pa.array(chosen, pa.int64())).to_pylist(), strict=True):
                    yield read + int(number) + 1, row
                read += batch.num_rows
                if progress:
                    progress(read, total)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is not a readable parquet file: {reason_of(error)}") from error
