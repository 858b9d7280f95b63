"""Build a catalogue from the electronics shop of querqy/chorus: Icecat products, short head queries, graded judgments.

With a fold, the judgments are cross-validated by query. Without a fold, no judgment is trained on and every judged query is a test
query. More pairs come from the products' own words: title and description, attributes, pseudo-queries.
"""

import csv
import json
import logging
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.folder import ITEMS_FOLDER, CatalogFolder, Qrels, SplitData, TrainingPair, replace_folder, write_catalog, write_items
from catalog.item_pairs import item_pairs, pseudo_judgments
from catalog.markup import plain_text
from catalog.pseudo_queries import Listing
from catalog.query_splits import query_key, share_of, shuffle_keys, without_held_out
from retrieval.contracts.items import Item, parse_id, parse_time
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import RELEVANT_GRADE
from retrieval.files import reason_of

logger = logging.getLogger(__name__)

EXAMPLE_QUERIES = ("hdmi cable", "laptop bag", "wireless mouse", "rechargeable batteries")
LAYOUT = "products_1.json.zip, products_2.json.zip, … and Broad_Query_Set_rated.csv"
JUDGMENTS_FILE = "Broad_Query_Set_rated.csv"
ITEMS_FILE = "products.parquet"
FOLDS = 5
VAL_SHARE = 0.15  # share of the queries outside test

# Weights of the kinds of pairs; item_pairs has those of pairs from titles and descriptions.
JUDGED_WEIGHT = 1.0
WEAK_JUDGED_WEIGHT = 0.3  # grade 1
ATTRIBUTES_WEIGHT = 0.3

MIN_ATTRIBUTES, MAX_ATTRIBUTES = 2, 4  # limits of the number of attributes in one query
MAX_VALUE_CHARS = 30
# Attributes of the parcel, the paperwork or the climate, which nobody searches by.
_UNSEARCHED = re.compile(
    r"package|pallet|master_|dimensions|temperature|humidity|altitude|certificat|country|harmonized|status|gtin|oem_code|date"
    r"|stepping|codename|voltage_range|frequency|weight|warranty|safety|emission|heat_dissipation|processor_code|positioning"
)
# Attributes that shoppers put before the noun: "hdmi cable", "black backpack", "laser printer".
_SPOKEN = (
    "product_colour", "cable_colour", "connector_1", "connectivity_technology", "print_technology", "material", "device_interface",
    "brand_compatibility", "battery_technology", "printing_colours", "purpose", "recommended_usage", "case_type", "cable_type",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Product:
    """One product with the sources of its pairs.

    Attributes:
        item: item as listed.
        model: the maker's name of the product.
        attributes: name -> value, for attributes that shoppers search by.
    """

    item: Item
    model: str
    attributes: Mapping[str, str]


Judgments = Mapping[str, Mapping[str, int]]  # query text -> item_id -> grade


def prepare(data: Path, folder: Path, *, folds: int = FOLDS, fold: int | None = 0, seed: int = 7) -> CatalogFolder:
    """Build a catalogue from the shop; every split searches all products.

    Args:
        data: the folder of the product archives and the judgments.
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        folds: number of parts of the queries, >= 2; spellings of one query ("laptop", "laptops") stay together.
        fold: number of the part for test, 0 to folds - 1. With None, all judged queries are test queries and no judgment is trained
            on. Validation then uses pseudo-queries that are judged by matching titles.
        seed: seed that assigns the queries, selects val and draws pseudo-queries.

    Returns:
        The catalogue. A judged query without a relevant item (grade >= 2) measures nothing and is in no qrels. If it is a train
        query, its judgments of grade 1 are trained on.

    Raises:
        InvalidInput: the shop is missing, a file is damaged, a judgment names no product, or the fold does not exist.
    """
    if folds < 2 or not (fold is None or 0 <= fold < folds):
        raise InvalidInput(f"fold {fold} of {folds} does not exist; use at least 2 folds and count them from 0")
    products = read_products(Path(data))
    judgments = read_judgments(Path(data), {product.item.item_id for product in products})
    pairs = in_domain_pairs(products, seed=seed)
    if fold is None:
        splits = _unjudged_splits(judgments, pairs, products, seed)
    else:
        splits = _judged_splits(judgments, pairs, split_queries(judgments, folds=folds, fold=fold, seed=seed))
    with replace_folder(folder) as building:
        write_items(building / ITEMS_FOLDER / ITEMS_FILE, (product.item for product in products))
        write_catalog(building, name="chorus", seed=seed, splits=splits, example_queries=EXAMPLE_QUERIES)
    return CatalogFolder(folder)


def read_products(data: Path) -> list[Product]:
    """Read the product archives, in the order of their names.

    Raises:
        InvalidInput: the archives or the judgments are missing, or an archive is damaged.
    """
    archives = sorted(data.glob("products_*.json.zip"))
    if not archives or not (data / JUDGMENTS_FILE).is_file():
        raise InvalidInput(f"{data} is not the chorus electronics shop: expected {LAYOUT}")
    products = []
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as packed:
                rows = [row for name in packed.namelist() for row in json.loads(packed.read(name))]
            products += [_product(row) for row in rows]
        except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{archive} is damaged ({reason_of(error)}): expected a zipped JSON list of products") from error
    return products


def read_judgments(data: Path, item_ids: set[str]) -> dict[str, dict[str, int]]:
    """Read the judgments: query text -> item_id -> grade 0 to 3.

    Raises:
        InvalidInput: a row is no judgment, or names an unknown product; the message contains the line.
    """
    path = data / JUDGMENTS_FILE
    judgments: dict[str, dict[str, int]] = defaultdict(dict)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                query, item_id, grade = row["query"], parse_id("docid", row["docid"]), int(row["rating"])
                if not query.strip() or item_id not in item_ids or not 0 <= grade <= 3:
                    raise ValueError
            except (KeyError, ValueError, TypeError, InvalidInput):
                raise InvalidInput(f"{path}, line {line}: {row} is not `query,docid,rating` of a product, 0 to 3") from None
            judgments[query][item_id] = grade
    return dict(judgments)


def split_queries(queries: Iterable[str], *, folds: int = FOLDS, fold: int = 0, seed: int = 7) -> dict[str, str]:
    """Assign queries to train, val and test.

    Args:
        queries: texts of the queries.
        folds: number of parts. Their sizes differ by one query at most, where spellings of one query count as one.
        fold: number of the part for test.
        seed: seed that assigns the parts, and selects val among the other queries.

        Returns:
            query -> split; over all folds every query is in test once.
    """
    texts = list(queries)
    part = {key: number % folds for number, key in enumerate(shuffle_keys(map(query_key, texts), seed))}
    rest = shuffle_keys((key for key in part if part[key] != fold), seed + 1)
    val = set(rest[: max(1, round(VAL_SHARE * len(rest)))])
    keys = {text: query_key(text) for text in texts}
    return {text: "test" if part[key] == fold else "val" if key in val else "train" for text, key in keys.items()}


def in_domain_pairs(products: Sequence[Product], *, seed: int = 7) -> dict[str, list[TrainingPair]]:
    """Make training pairs from the products' own words, without judgments.

    Returns:
        "title_to_description" and "description_to_title" (only for a description with words that the title lacks), "attributes"
        and "pseudo_query" -> pairs in the order of the products.
    """
    pairs = item_pairs([product.item for product in products], [_listing(product) for product in products], seed=seed)
    attributes = [
        TrainingPair(query, product.item.item_id, ATTRIBUTES_WEIGHT)
        for product in products
        if (query := attribute_query(product, seed))
    ]
    queries = pairs.pop("pseudo_query")
    return {**pairs, "attributes": attributes, "pseudo_query": queries}


def attribute_query(product: Product, seed: int) -> str:
    """Return a query of two to four attribute values, such as "RJ-45 cat6 grey"; empty if the product has fewer than two."""
    values = product.attributes
    keys = shuffle_keys((f"{product.item.item_id}/{name}" for name in values), seed)
    count = MIN_ATTRIBUTES + int(share_of(product.item.item_id, seed) * (MAX_ATTRIBUTES - MIN_ATTRIBUTES + 1))
    names = [key.split("/", 1)[1] for key in keys[:count]]
    return " ".join(dict.fromkeys(values[name] for name in names)) if len(names) >= MIN_ATTRIBUTES else ""


def _product(row: Mapping[str, Any]) -> Product:
    item = Item(
        item_id=row["id"],
        title=plain_text(row["title"]),
        description=plain_text(row.get("short_description", "")),
        category=_category(row.get("attr_t_product_type", "")),
        brand=row["supplier"],
        current_price=row["price"] / 100,  # the shop counts in cents
        listed_at=parse_time("date_released", row["date_released"]),
    )
    texts = {name.removeprefix("attr_t_"): plain_text(value) for name, value in row.items() if name.startswith("attr_t_")}
    attributes = {
        name: value
        for name, value in texts.items()
        if len(value) <= MAX_VALUE_CHARS and re.search("[A-Za-z]{2}", value) and not _UNSEARCHED.search(name)
    }
    return Product(item, plain_text(row["name"]), attributes)


def _category(product_type: str) -> str:
    """Return the product type; empty for a type without letters, because some types of this shop are only numbers."""
    return product_type if re.search("[A-Za-z]{2}", product_type) else ""


def _listing(product: Product) -> Listing:
    item = product.item
    spoken = {name: product.attributes[name] for name in _SPOKEN if name in product.attributes}
    return Listing(item.item_id, item.title, item.description, item.brand, product.model, spoken)


def _judged_splits(
    judgments: Judgments, in_domain: Mapping[str, Sequence[TrainingPair]], split_of: Mapping[str, str]
) -> dict[str, SplitData]:
    """Return the splits of a fold: training uses the judgments of train queries and the products' own words."""
    held_out = [query for query, split in split_of.items() if split != "train"]
    judged = [pair for query, split in split_of.items() if split == "train" for pair in _judged_pairs(query, judgments[query])]
    own = {kind: without_held_out(pairs, held_out) for kind, pairs in in_domain.items()}
    _log_counts({"judged": judged, **own})
    return {
        split: SplitData(
            item_files=[ITEMS_FILE],
            pairs=[*judged, *(pair for pairs in own.values() for pair in pairs)] if split == "train" else (),
            qrels=_qrels({query: judgments[query] for query, s in split_of.items() if s == split}),
        )
        for split in ("train", "val", "test")
    }


def _unjudged_splits(
    judgments: Judgments, in_domain: Mapping[str, Sequence[TrainingPair]], products: Sequence[Product], seed: int
) -> dict[str, SplitData]:
    """Return splits without judgments in training and validation."""
    val = pseudo_judgments(in_domain["pseudo_query"], (product.item for product in products), judgments, seed)
    own = {kind: without_held_out(pairs, [*judgments, *val]) for kind, pairs in in_domain.items()}
    _log_counts(own)
    train = [pair for pairs in own.values() for pair in pairs]
    return {
        "train": SplitData(item_files=[ITEMS_FILE], pairs=train),
        "val": SplitData(item_files=[ITEMS_FILE], qrels=_qrels(val), pseudo_queries=True),
        "test": SplitData(item_files=[ITEMS_FILE], qrels=_qrels(judgments)),
    }


def _judged_pairs(query: str, grades: Mapping[str, int]) -> list[TrainingPair]:
    return [
        TrainingPair(query, item_id, JUDGED_WEIGHT if grade >= RELEVANT_GRADE else WEAK_JUDGED_WEIGHT)
        for item_id, grade in grades.items()
        if grade >= 1
    ]


def _qrels(judgments: Judgments) -> Qrels:
    """Return the judgments of queries with a relevant item; a query's id is its text."""
    graded = {query: grades for query, grades in judgments.items() if max(grades.values()) >= RELEVANT_GRADE}
    return Qrels({query: query for query in graded}, graded)


def _log_counts(kinds: Mapping[str, Sequence[TrainingPair]]) -> None:
    logger.info("training pairs: %s", ", ".join(f"{kind} {len(pairs)}" for kind, pairs in kinds.items()))
