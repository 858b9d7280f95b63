import csv
import json
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.chorus import (
    ATTRIBUTES_WEIGHT,
    JUDGED_WEIGHT,
    WEAK_JUDGED_WEIGHT,
    attribute_query,
    in_domain_pairs,
    prepare,
    read_products,
    split_queries,
)
from catalog.query_splits import query_key
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput


def product(number: int, **fields) -> dict:
    kind, brand = ("cable", "bag", "battery")[number % 3], ("Acme", "Bolt", "Cord")[number % 4 % 3]
    return {
        "id": str(number),
        "name": f"X{number}",
        "title": f"{brand} X{number} {kind} Black",
        "short_description": f"A fine {kind}, one of many cables, bags and batteries",
        "supplier": brand,
        "price": 1995,
        "date_released": "2009-12-10T00:00:00Z",
        "attr_t_product_colour": "Black",
        "attr_t_material": "Nylon",
        "attr_n_weight": 3.0,
    } | fields


def write_shop(root: Path, products: list[dict] | None = None, queries: int = 20) -> Path:
    """A shop in the layout of the real one; query n has the products n and n + 1 with the grades 3 and 1."""
    root.mkdir()
    products = products or [product(number) for number in range(60)]
    for part, rows in enumerate((products[::2], products[1::2]), 1):
        with zipfile.ZipFile(root / f"products_{part}.json.zip", "w") as packed:
            packed.writestr(f"{part}.json", json.dumps(rows))
    with (root / "Broad_Query_Set_rated.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["query", "docid", "rating"])
        for number in range(queries):
            table.writerow([f"query {'abcdefghijklmnopqrst'[number]}", number, 3])
            table.writerow([f"query {'abcdefghijklmnopqrst'[number]}", number + 1, 1])
    return root


@pytest.fixture
def shop(tmp_path) -> Path:
    return write_shop(tmp_path / "shop")


@pytest.fixture(scope="module")
def real_shop() -> Path:
    default = Path(__file__).parents[4] / "shared" / "data"
    data = Path(os.environ.get("GAVEL_DATA", default)) / "chorus-electronics"
    if not data.is_dir() and os.environ.get("CI") != "true":
        pytest.skip("the electronics shop is not here (GAVEL_DATA names the folder of data sets)")
    return data


def texts_of(catalog, split):
    return {query_key(text) for text in catalog.qrels(split).queries.values()} | {
        query_key(pair.query) for pair in catalog.pairs(split)
    }


@pytest.mark.parametrize("fold", [0, 4, None])
def test_no_query_stands_in_two_splits(shop, tmp_path, fold):
    catalog = prepare(shop, tmp_path / "catalog", fold=fold)
    train, val, test = (texts_of(catalog, split) for split in ("train", "val", "test"))
    assert train
    assert test
    assert not train & val
    assert not train & test
    assert not val & test


@given(st.lists(st.text("ab s", min_size=1, max_size=6), min_size=10, max_size=60), st.integers(2, 6), st.integers(0, 99))
def test_spellings_of_a_query_stay_together_and_every_query_tests_once(texts, folds, seed):
    tested = []
    for fold in range(folds):
        split_of = split_queries(texts, folds=folds, fold=fold, seed=seed)
        by_key: dict[str, set[str]] = {}
        for text, split in split_of.items():
            by_key.setdefault(query_key(text), set()).add(split)
        assert all(len(splits) == 1 for splits in by_key.values())
        tested += [text for text, split in split_of.items() if split == "test"]
    assert sorted(tested) == sorted(set(texts))


def test_grades_of_train_queries_weigh_as_they_should_and_those_of_others_train_nothing(shop, tmp_path):
    catalog = prepare(shop, tmp_path / "catalog", fold=1)
    judged = {(pair.query, pair.item_id): pair.weight for pair in catalog.pairs("train") if pair.query.startswith("query ")}
    train = catalog.qrels("train")
    expected = {
        (query, item_id): JUDGED_WEIGHT if grade == 3 else WEAK_JUDGED_WEIGHT
        for query, grades in train.grades.items()
        for item_id, grade in grades.items()
    }
    assert judged == expected
    assert catalog.pairs("val") == catalog.pairs("test") == []


def test_without_a_fold_no_judgment_trains_and_all_judged_queries_test(shop, tmp_path):
    catalog = prepare(shop, tmp_path / "catalog", fold=None)
    assert len(catalog.qrels("test").queries) == 20
    assert not [pair for pair in catalog.pairs("train") if pair.query.startswith("query ")]
    assert not [text for text in catalog.qrels("val").queries.values() if text.startswith("query ")]


def test_a_query_without_a_relevant_lot_measures_nothing(tmp_path):
    shop = write_shop(tmp_path / "shop")
    with (shop / "Broad_Query_Set_rated.csv").open("a") as file:
        file.write("hopeless,1,0\nhopeless,2,1\n")
    for fold in range(5):
        catalog = prepare(shop, tmp_path / "catalog", fold=fold)
        assert not [split for split in catalog.splits if "hopeless" in catalog.qrels(split).queries]


def test_a_product_is_listed_with_price_in_units_and_without_markup(tmp_path):
    rows = [product(number) for number in range(60)]
    rows[0] |= {"short_description": "Processor T5600 <br />(2M Cache, &lt;65 W)", "price": 13494}
    catalog = prepare(write_shop(tmp_path / "shop", rows), tmp_path / "catalog")
    (item,) = (item for item in read_items(catalog.item_files("test")[0]) if item.item_id == "0")
    assert (item.description, item.current_price) == ("Processor T5600 (2M Cache, <65 W)", 134.94)
    assert (item.brand, item.image, item.category) == ("Acme", None, "")


def test_own_words_make_pairs_both_ways_where_the_description_says_more_than_the_title(tmp_path):
    rows = [product(number) for number in range(60)]
    rows[0] |= {"short_description": "X0 cable"}
    pairs = in_domain_pairs(read_products(write_shop(tmp_path / "shop", rows)))
    forth, back = pairs["title_to_description"], pairs["description_to_title"]
    assert len(forth) == len(back) == 59
    assert {(pair.query, pair.lot_text) for pair in forth} == {(pair.lot_text, pair.query) for pair in back}


def test_attributes_that_nobody_shops_by_make_no_query(tmp_path):
    rows = [product(n, attr_t_package_dimensions="3 x 4", attr_t_storage_temperature="-5 - 5") for n in range(60)]
    products = read_products(write_shop(tmp_path / "shop", rows))
    assert set(products[0].attributes) == {"product_colour", "material"}
    assert set(attribute_query(products[0], 7).split()) == {"Black", "Nylon"}
    assert {pair.weight for pair in in_domain_pairs(products)["attributes"]} == {ATTRIBUTES_WEIGHT}


def test_same_seed_same_pairs_another_seed_others(shop):
    products = read_products(shop)
    assert in_domain_pairs(products, seed=1) == in_domain_pairs(products, seed=1)
    assert in_domain_pairs(products, seed=1) != in_domain_pairs(products, seed=2)


def test_a_wrong_folder_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(InvalidInput, match=r"not the chorus electronics shop: expected products_1\.json\.zip"):
        prepare(tmp_path, tmp_path / "catalog")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["laptop,999,3", "laptop,1,7", "laptop,1,x", "laptop,1", ",1,3"])
def test_a_damaged_judgment_is_named_with_its_line(shop, tmp_path, line):
    with (shop / "Broad_Query_Set_rated.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InvalidInput, match=r"Broad_Query_Set_rated\.csv, line 42"):
        prepare(shop, tmp_path / "catalog")


def test_a_damaged_archive_is_named(shop, tmp_path):
    (shop / "products_2.json.zip").write_bytes(b"no archive")
    with pytest.raises(InvalidInput, match=r"products_2\.json\.zip is damaged"):
        prepare(shop, tmp_path / "catalog")


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (5, 5), (5, -1)])
def test_a_fold_that_does_not_exist_is_refused(shop, tmp_path, folds, fold):
    with pytest.raises(InvalidInput, match="does not exist"):
        prepare(shop, tmp_path / "catalog", folds=folds, fold=fold)


def test_the_real_shop_is_listed_whole_and_judged_by_74_queries(real_shop, tmp_path):
    catalog = prepare(real_shop, tmp_path / "catalog", fold=None)
    items = list(read_items(catalog.item_files("test")[0]))
    assert len(items) == 19406
    assert all(isinstance(item, Item) for item in items)
    assert len(catalog.qrels("test").queries) == 74
    assert len(catalog.pairs("train")) > 60_000
