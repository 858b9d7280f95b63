import json
import os
from pathlib import Path

import pytest
import yaml

from catalog.demo_store import grade_queries, prepare, read_products
from catalog.pseudo_queries import PseudoQuery
from catalog.query_splits import query_key
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput

MATERIALS = ("leather", "canvas", "silver", "denim", "oak")
STYLES = {"backpack": "accessories", "belt": "accessories", "sofa": "furniture", "table": "furniture"}


def entry(number: int, **fields) -> dict:
    style, material = list(STYLES)[number % 4], MATERIALS[number % 5]
    texts = {"name": f"Fine {material} {style}", "description": f"A {style} among backpacks, belts, sofas and tables."}
    return {"id": f"p{number}", "category": STYLES[style], "style": style, "price": 19.99, **texts} | fields


def write(folder: Path, rows) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "products.yaml").write_text(yaml.safe_dump(rows))
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    return write(tmp_path / "data", [entry(number) for number in range(80)])


def asked(catalog, split):
    texts = [*catalog.qrels(split).queries.values(), *(pair.query for pair in catalog.pairs(split))]
    return {query_key(text) for text in texts}


def test_no_query_stands_in_two_splits(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    train, val, test = (asked(catalog, split) for split in ("train", "val", "test"))
    assert train
    assert test
    assert not train & val
    assert not train & test
    assert not val & test
    assert catalog.pairs("val") == catalog.pairs("test") == []


def test_a_query_is_graded_by_style_words_and_category(data):
    products, _ = read_products(data)
    leather = [p.item.item_id for p in products if p.item.title == "Fine leather backpack"]
    qrels = grade_queries([PseudoQuery("leather backpacks", item_id, "type") for item_id in leather], products)
    for product in products:
        grade = qrels.grades["leather backpacks"].get(product.item.item_id, 0)
        if product.item.item_id in leather:
            assert grade == 3
        elif product.item.brand == "backpack":
            assert grade == 2
        else:
            assert grade == (1 if product.item.category == "accessories" else 0)


def test_a_query_of_no_one_style_is_not_judged(data):
    products, _ = read_products(data)
    queries = [PseudoQuery("leather", product.item.item_id, "type") for product in products]
    assert grade_queries(queries, products).queries == {}


def test_a_broken_row_is_set_aside_with_its_number_and_reason(tmp_path, caplog):
    data = write(tmp_path / "data", [*(entry(n) for n in range(40)), entry(40, name=""), "no product", entry(41, price=-1)])
    catalog = prepare(data, tmp_path / "catalog")
    assert len(list(read_items(catalog.item_files("test")[0]))) == 40
    rejects = [json.loads(line) for line in (catalog.path / "rejects.ndjson").read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [41, 42, 43]
    assert "3 of 43 products in" in caplog.text


@pytest.mark.parametrize(("content", "message"), [("{a: 1}", "expected a list"), ("[", "not readable YAML"), ("[]", "no product")])
def test_a_wrong_file_is_refused_with_what_was_expected(tmp_path, content, message):
    (tmp_path / "products.yaml").write_text(content)
    with pytest.raises(InvalidInput, match=message):
        prepare(tmp_path, tmp_path / "catalog")
    with pytest.raises(InvalidInput, match=r"is missing: expected the Retail Demo Store's products\.yaml"):
        prepare(tmp_path / "none", tmp_path / "catalog")


def test_the_real_store_is_listed_whole_and_judged(tmp_path):
    default = Path(__file__).parents[4] / "shared" / "data"
    data = Path(os.environ.get("GAVEL_DATA", default)) / "retail-demo-store"
    if not data.is_dir() and os.environ.get("CI") != "true":
        pytest.skip("the Retail Demo Store is not here (GAVEL_DATA names the folder of data sets)")
    catalog = prepare(data, tmp_path / "catalog")
    items = list(read_items(catalog.item_files("test")[0]))
    assert len(items) == 2465
    assert all(isinstance(item, Item) for item in items)
    assert not (catalog.path / "rejects.ndjson").exists()
    assert len(catalog.qrels("test").queries) > 60
    assert len(catalog.pairs("train")) > 2000
    assert not asked(catalog, "train") & asked(catalog, "test")
