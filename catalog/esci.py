"""Build a catalogue from Amazon's Shopping Queries Data Set: products judged Exact, Substitute, Complement or Irrelevant.

Reddy et al., "Shopping Queries Dataset: A Large-Scale ESCI Benchmark for Improving Product Search", 2022 (arXiv 2206.06588).
The products are streamed in batches. Memory holds the judgments of one locale and their product ids.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, Literal

import pyarrow as pa
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
    write_items,
)
from catalog.markup import plain_text
from catalog.pseudo_queries import fold
from catalog.query_splits import share_of
from retrieval.contracts.items import Item, Reject, parse_item
from retrieval.errors import InvalidInput
from retrieval.files import replace_file
from retrieval.progress import Progress

logger = logging.getLogger(__name__)

EXAMPLES_FILE = "shopping_queries_dataset_examples.parquet"
PRODUCTS_FILE = "shopping_queries_dataset_products.parquet"
LAYOUT = f"{EXAMPLES_FILE} and {PRODUCTS_FILE} of github.com/amazon-science/esci-data"
ITEMS_FILE = "products.parquet"
LOCALES = ("us", "es", "jp")
PAIR_WEIGHTS: Mapping[str, float] = {"E": 1.0, "S": 0.9, "C": 0.6, "I": 0.0}  # label -> weight; weight 0 makes no pair
GRADES: Mapping[str, int] = {"E": 3, "S": 2, "C": 1, "I": 0}
VAL_SHARE = 0.1  # share of the train queries
BATCH_ROWS = 8_192
EXAMPLE_QUERIES = 4

_EXAMPLE_COLUMNS = ("query", "query_id", "product_id", "product_locale", "esci_label", "split")
_PRODUCT_COLUMNS = (
    "product_id", "product_title", "product_description", "product_bullet_point", "product_brand", "product_color",
    "product_locale",
)  # fmt: skip

Version = Literal["small", "large"]


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
    seed: int = 7,
    progress: Progress | None = None,
) -> CatalogFolder:
    """Build a catalogue from one locale of the data set.

    Args:
        data: the folder of the two parquet files.
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        locale: "us", "es" or "jp".
        version: "small" uses the judgments that the data marks as the harder, smaller set; "large" uses all.
        seed: seed that selects the train queries for validation.
        progress: called with (product rows read, product rows).

    Returns:
        The catalogue. The corpus of every split is the judged products. Test is the data set's test; a tenth of the train queries
        is val. Missing products and products that break the item contract are counted and logged, and their judgments left out.
        Products that break the contract are in rejects.ndjson, with line and reason.

    Raises:
        InvalidInput: a file is missing, damaged, or lacks a column; locale or version is unknown; there is no judgment.
    """
    if locale not in LOCALES or version not in ("small", "large"):
        raise InvalidInput(f"no locale {locale!r} in version {version!r}; locales are {', '.join(LOCALES)}, versions small, large")
    examples, products = (Path(data) / name for name in (EXAMPLES_FILE, PRODUCTS_FILE))
    if not examples.is_file() or not products.is_file():
        raise InvalidInput(f"{data} does not hold the Shopping Queries Data Set: expected {LAYOUT}")
    queries = read_queries(examples, locale=locale, version=version)
    if not queries:
        raise InvalidInput(f"{examples} holds no judgment of locale {locale} in the {version} version; is it the whole file?")
    missing = {product_id for query in queries for product_id in query.labels}
    with replace_folder(folder) as building:
        stream = _Products(products, locale, missing, progress)
        write_items(building / ITEMS_FOLDER / ITEMS_FILE, stream.items())
        stream.report(building / REJECTS_FILE)
        by_split = _without_products(split_queries(queries, seed), missing)
        splits = {split: _split_data(split, by_split[split]) for split in SPLITS}
        examples_shown = [query.text for query in by_split["test"][:EXAMPLE_QUERIES]]
        write_catalog(building, name=f"esci-{locale}-{version}", seed=seed, splits=splits, example_queries=examples_shown)
    return CatalogFolder(folder)


def read_queries(path: Path, *, locale: str, version: Version) -> list[JudgedQuery]:
    """Read the judgments of one locale and version, in the order of the file.

    Raises:
        InvalidInput: the file cannot be read, lacks a column, or has an unknown label or split.
    """
    queries: dict[str, JudgedQuery] = {}
    version_column = f"{version}_version"
    for line, row in _rows(path, (*_EXAMPLE_COLUMNS, version_column)):
        if row["product_locale"] != locale or not row[version_column]:
            continue
        label, split = row["esci_label"], row["split"]
        if label not in GRADES or split not in ("train", "test") or not (row["query"] or "").strip():
            raise InvalidInput(f"{path}, row {line}: expected a query, a label of {', '.join(GRADES)} and train or test, not {row}")
        query_id = str(row["query_id"])
        query = queries.setdefault(query_id, JudgedQuery(query_id, row["query"], intern(split), {}))
        query.labels[intern(row["product_id"])] = intern(label)
    return list(queries.values())


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


class _Products:
    """A reader of the judged products. It removes each product that it reads from `missing`, the ids still to be read."""

    def __init__(self, path: Path, locale: str, missing: set[str], progress: Progress | None) -> None:
        self.path, self.locale, self.missing, self.progress = path, locale, missing, progress
        self.judged, self.rejects = len(missing), list[Reject]()

    def items(self) -> Iterator[Item]:
        for line, row in _rows(self.path, _PRODUCT_COLUMNS, self.progress):
            if row["product_locale"] != self.locale or row["product_id"] not in self.missing:
                continue  # not judged, or a repetition
            try:
                item = parse_item(_listing(row))
            except InvalidInput as error:
                self.rejects.append(Reject(self.path.name, line, str(error), row["product_id"]))
                continue
            self.missing.discard(item.item_id)
            yield item

    def report(self, rejects: Path) -> None:
        """Log missing products, and write the rejects if there are any."""
        if self.missing:
            lacking = len(self.missing - {reject.item_id for reject in self.rejects})
            logger.warning(
                "%d of %d judged products are not in %s, %d break the item contract (%s); their judgments are left out",
                lacking, self.judged, self.path.name, len(self.rejects), rejects.name,
            )  # fmt: skip
        if self.rejects:
            replace_file(rejects, "".join(f"{reject.to_json()}\n" for reject in self.rejects))


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


def _split_data(split: str, queries: Sequence[JudgedQuery]) -> SplitData:
    grades = {q.query_id: {product_id: GRADES[label] for product_id, label in q.labels.items()} for q in queries}
    pairs = (
        TrainingPair(query.text, product_id, PAIR_WEIGHTS[label])
        for query in queries
        for product_id, label in query.labels.items()
        if PAIR_WEIGHTS[label]
    )
    qrels = Qrels({query.query_id: query.text for query in queries}, grades)
    return SplitData(item_files=[ITEMS_FILE], pairs=pairs if split == "train" else (), qrels=qrels)


def _rows(path: Path, columns: Sequence[str], progress: Progress | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with their numbers from 1, batch by batch."""
    try:
        with pq.ParquetFile(path) as file:
            lacking = [name for name in columns if name not in file.schema_arrow.names]
            if lacking:
                raise InvalidInput(f"{path} lacks the columns {', '.join(lacking)}: expected {', '.join(columns)}")
            line, total = 0, file.metadata.num_rows
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                yield from enumerate(batch.to_pylist(), line + 1)
                line += batch.num_rows
                if progress:
                    progress(line, total)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is not a readable parquet file: {error}") from error
