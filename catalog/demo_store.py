"""Build a catalogue from the AWS Retail Demo Store: products with category, style and description, without photos.

The store has no judgments. So short queries are made from the products' titles and judged by the style of their products.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from catalog.folder import (
    ITEMS_FOLDER,
    SPLITS,
    CatalogFolder,
    Qrels,
    SplitData,
    TrainingPair,
    replace_folder,
    write_catalog,
    write_items,
    write_rejects,
)
from catalog.pseudo_queries import Listing, PseudoQuery, fold, make_pseudo_queries, plural
from catalog.query_splits import deal, query_key
from retrieval.contracts.items import Item, Reject, item_text, parse_item
from retrieval.errors import InvalidInput

logger = logging.getLogger(__name__)

EXAMPLE_QUERIES = ("leather backpack", "adirondack chair", "chef knife set", "christmas ornaments")
PRODUCTS_FILE = "products.yaml"
ITEMS_FILE = "products.parquet"
SHARES: Mapping[str, float] = {"train": 0.7, "val": 0.1, "test": 0.2}  # split -> share of the queries
STYLE_SHARE = 0.6  # required share of one style among a query's source products; a vaguer query gets no judgments
EXACT_GRADE, STYLE_GRADE, CATEGORY_GRADE = 3, 2, 1
PAIR_WEIGHT = 1.0
GENDERS = {"F": "women", "M": "men"}


@dataclass(frozen=True, slots=True)
class Product:
    """One product.

    Attributes:
        item: item as listed; its brand is the row's brand if there is one, otherwise the style.
        listing: texts from which queries are made.
        words: words of title and description, and "women" or "men" if known, in the plural.
    """

    item: Item
    listing: Listing
    words: frozenset[str]


def prepare(data: Path, folder: Path, *, seed: int = 7) -> CatalogFolder:
    """Build a catalogue from the store's products; every split searches all products.

    Args:
        data: the folder of products.yaml, or the file itself.
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        seed: seed that draws the queries and assigns them to train, val and test.

    Returns:
        The catalogue. Each query is made of words of one or more products, its source products. Training pairs are the train
        queries with their source products. A query of any split has judgments if most of its source products share a style.
        Products of that style get grade 3 if they have every word of the query, otherwise 2. Other products of the category get
        grade 1. Rows that break the item contract are in rejects.ndjson.

    Raises:
        InvalidInput: the file is missing, or is no list of products.
    """
    products, rejects = read_products(Path(data))
    queries = make_pseudo_queries([product.listing for product in products], seed=seed)
    split_of = deal((query_key(query.query) for query in queries), SHARES, seed)
    by_split: dict[str, list[PseudoQuery]] = {split: [] for split in SPLITS}
    for query in queries:
        by_split[split_of[query_key(query.query)]].append(query)
    with replace_folder(folder) as building:
        write_items(building / ITEMS_FOLDER / ITEMS_FILE, (product.item for product in products))
        write_rejects(building, rejects)
        splits = {
            split: SplitData(
                item_files=[ITEMS_FILE],
                pairs=[TrainingPair(q.query, q.item_id, PAIR_WEIGHT) for q in part] if split == "train" else (),
                qrels=grade_queries(part, products),
            )
            for split, part in by_split.items()
        }
        write_catalog(building, name="demo-store", seed=seed, splits=splits, example_queries=EXAMPLE_QUERIES)
    return CatalogFolder(folder)


def read_products(data: Path) -> tuple[list[Product], list[Reject]]:
    """Read the store's file.

    Returns:
        Products in the order of the file, and the rows that break the item contract, numbered from 1.

    Raises:
        InvalidInput: the file is missing, is no YAML, or has no product.
    """
    path = data / PRODUCTS_FILE if data.is_dir() else data
    if not path.is_file():
        raise InvalidInput(f"{path} is missing: expected the Retail Demo Store's {PRODUCTS_FILE}")
    try:
        rows = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not readable YAML: {error}") from error
    if not isinstance(rows, list):
        raise InvalidInput(f"{path} is a YAML {type(rows).__name__}: expected a list of products with id, name and category")
    products: list[Product] = []
    rejects: list[Reject] = []
    for number, row in enumerate(rows, 1):
        try:
            products.append(_product(row))
        except InvalidInput as error:
            rejects.append(Reject(path.name, number, str(error)))
    if rejects:
        logger.warning(
            "%d of %d products in %s break the item contract, first: %s", len(rejects), len(rows), path, rejects[0].reason
        )
    if not products:
        raise InvalidInput(f"{path} holds no product: expected a list of products with id, name and category")
    return products, rejects


def grade_queries(queries: Iterable[PseudoQuery], products: Sequence[Product]) -> Qrels:
    """Grade all products for every query whose source products are mostly of one style."""
    item_of = {product.item.item_id: product.item for product in products}
    sources: dict[str, set[str]] = defaultdict(set)
    for query in queries:
        sources[query.query].add(query.item_id)
    judged: dict[str, dict[str, int]] = {}
    for text, item_ids in sources.items():
        styles = Counter((item_of[item_id].category, item_of[item_id].brand) for item_id in item_ids)
        (style, count), *_ = sorted(styles.items(), key=lambda entry: (-entry[1], entry[0]))
        if style[1] and count >= STYLE_SHARE * len(item_ids):
            judged[text] = _grades(text, style, products)
    return Qrels({text: text for text in judged}, judged)


def _grades(text: str, style: tuple[str, str], products: Sequence[Product]) -> dict[str, int]:
    words = {plural(word) for word in text.split()}
    grades: dict[str, int] = {}
    for product in products:
        if product.item.category != style[0]:
            continue
        same_style = product.item.brand == style[1]
        exact = EXACT_GRADE if words <= product.words else STYLE_GRADE
        grades[product.item.item_id] = exact if same_style else CATEGORY_GRADE
    return grades


def _product(row: Any) -> Product:
    if not isinstance(row, Mapping):
        raise InvalidInput(f"the entry is no product: {str(row)[:40]!r}")
    fields = ("id", "name", "description", "category", "price")
    item = parse_item({name: row.get(name) for name in fields} | {"brand": row.get("brand") or row.get("style")})
    gender = GENDERS.get(str(row.get("gender_affinity")))
    listing = Listing(item.item_id, item.title, item.description, attributes={"gender": gender} if gender else {})
    words = fold(item_text(item.title, item.description)).replace(",", " ").replace(".", " ").split()
    return Product(item, listing, frozenset(plural(word) for word in (*words, *([gender] if gender else []))))
