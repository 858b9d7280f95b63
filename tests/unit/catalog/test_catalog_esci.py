import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.esci_data import EXAMPLES_SCHEMA, PRODUCTS_SCHEMA
from catalog.esci import EXAMPLES_FILE, GRADES, PAIR_WEIGHTS, PRODUCTS_FILE, JudgedQuery, prepare, split_queries
from catalog.pseudo_queries import fold
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput


def example(query_id: int, product: str, label: str = "E", **fields) -> dict:
    row = {"query": f"query {query_id}", "query_id": query_id, "product_id": product, "product_locale": "us", "esci_label": label}
    return row | {"example_id": 0, "small_version": 1, "large_version": 1, "split": "train"} | fields


def product(product_id: str, **fields) -> dict:
    return {"product_id": product_id, "product_title": f"Product {product_id}", "product_locale": "us"} | fields


def write(folder, examples: list[dict], products: list[dict]):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(examples, schema=EXAMPLES_SCHEMA), folder / EXAMPLES_FILE)
    pq.write_table(pa.Table.from_pylist(products, schema=PRODUCTS_SCHEMA), folder / PRODUCTS_FILE, row_group_size=5)
    return folder


@pytest.fixture
def data(tmp_path):
    """40 train and 10 test queries with four products each, one of each label."""
    examples = [
        example(query, f"B{query * 4 + n:04}", label, split="train" if query < 40 else "test")
        for query in range(50)
        for n, label in enumerate("ESCI")
    ]
    return write(tmp_path / "data", examples, [product(f"B{n:04}") for n in range(250)])


def items_of(catalog):
    return {item.item_id: item for item in read_items(catalog.item_files()[0])}


def test_labels_become_weights_of_pairs_and_grades(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    labels = {f"B{n:04}": "ESCI"[n % 4] for n in range(200)}
    pairs, qrels = catalog.pairs("train"), catalog.qrels("train")
    assert {pair.item_id: pair.weight for pair in pairs} == {
        item_id: PAIR_WEIGHTS[labels[item_id]] for g in qrels.grades.values() for item_id in g if labels[item_id] != "I"
    }
    for split in catalog.splits:
        for grades in catalog.qrels(split).grades.values():
            assert grades == {item_id: GRADES[labels[item_id]] for item_id in grades}
            assert len(grades) == 4


def test_test_is_the_data_s_own_and_a_tenth_of_the_train_queries_validates(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    assert set(catalog.qrels("test").queries) == {str(n) for n in range(40, 50)}
    assert set(catalog.qrels("train").queries) | set(catalog.qrels("val").queries) == {str(n) for n in range(40)}
    assert 1 <= len(catalog.qrels("val").queries) <= 10
    assert catalog.pairs("val") == catalog.pairs("test") == []


def test_the_corpus_is_the_judged_products_of_the_locale_and_keeps_the_item_contract(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    items = items_of(catalog)
    assert set(items) == {f"B{n:04}" for n in range(200)}
    assert all(isinstance(item, Item) for item in items.values())
    assert not (catalog.path / "rejects.ndjson").exists()


def test_locale_and_version_choose_the_judgments(tmp_path):
    examples = [
        example(1, "A"),
        example(2, "B", small_version=0),
        example(3, "C", product_locale="es"),
        example(4, "D", split="test"),
    ]
    products = [product(p) for p in "ABD"] + [product("C", product_locale="es"), product("A", product_locale="es")]
    data = write(tmp_path / "data", examples, products)
    assert set(items_of(prepare(data, tmp_path / "c"))) == {"A", "D"}
    assert set(items_of(prepare(data, tmp_path / "c", version="large"))) == {"A", "B", "D"}
    assert set(items_of(prepare(data, tmp_path / "c", locale="es"))) == {"C"}
    with pytest.raises(InvalidInput, match="no judgment of locale jp"):
        prepare(data, tmp_path / "c", locale="jp")
    with pytest.raises(InvalidInput, match="no locale 'de'; use us, es or jp"):
        prepare(data, tmp_path / "c", locale="de")


def test_bullet_points_colour_and_description_are_read_without_markup(tmp_path):
    words = {
        "product_description": "<p>Made of&nbsp;oak</p>",
        "product_bullet_point": "Strong<br>Light",
        "product_brand": "Acme",
        "product_color": "Brown",
    }
    data = write(tmp_path / "data", [example(1, "A")], [product("A", **words)])
    item = items_of(prepare(data, tmp_path / "catalog"))["A"]
    assert (item.description, item.brand) == ("Brown. Strong Light. Made of oak", "Acme")


def test_products_that_lack_or_break_the_contract_are_counted_and_their_judgments_left_out(tmp_path, caplog):
    examples = [example(1, "A"), example(1, "gone"), example(2, "untitled"), example(3, "long", split="test"), example(4, "A")]
    products = [product("A"), product("untitled", product_title=None), product("long", product_title="x" * 2000)]
    catalog = prepare(write(tmp_path / "data", examples, products), tmp_path / "catalog")
    assert [pair.item_id for pair in catalog.pairs("train")] == ["A", "A"]
    assert catalog.qrels("test").queries == {}
    assert "1 of 4 judged products are not in" in caplog.text
    assert "2 break the item contract" in caplog.text
    assert "3 judgments of products that lack are left out, with 2 queries" in caplog.text
    rejects = [json.loads(line) for line in (catalog.path / "rejects.ndjson").read_text().splitlines()]
    assert [(reject["line"], reject["item_id"]) for reject in rejects] == [(2, "untitled"), (3, "long")]


def test_a_repeated_product_is_listed_once(tmp_path):
    data = write(tmp_path / "data", [example(1, "A")], [product("A"), product("A", product_title="Again")])
    assert items_of(prepare(data, tmp_path / "catalog"))["A"].title == "Product A"


def test_progress_counts_the_product_rows(data, tmp_path):
    seen = []
    prepare(data, tmp_path / "catalog", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (250, 250)


QUERIES = st.lists(
    st.tuples(st.text("aA b", min_size=1, max_size=4).filter(str.strip), st.sampled_from(["train", "test"])), max_size=40
)


@given(QUERIES, st.integers(0, 99))
def test_no_query_stands_in_two_splits_and_only_doubles_of_test_are_left_out(texts, seed):
    queries = [JudgedQuery(str(n), text, split, {}) for n, (text, split) in enumerate(texts)]
    by_split = split_queries(queries, seed)
    folded = [{fold(query.text) for query in by_split[split]} for split in ("train", "val", "test")]
    assert not folded[0] & folded[1]
    assert not folded[0] & folded[2]
    assert not folded[1] & folded[2]
    assert set().union(*folded) == {fold(text) for text, _ in texts}
    assert {query.query_id for query in by_split["test"]} == {query.query_id for query in queries if query.split == "test"}


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(InvalidInput, match=rf"expected {EXAMPLES_FILE}"):
        prepare(tmp_path, tmp_path / "catalog")
    data = write(tmp_path / "data", [example(1, "A")], [product("A")])
    pq.write_table(pq.read_table(data / EXAMPLES_FILE).drop_columns(["esci_label"]), data / EXAMPLES_FILE)
    with pytest.raises(InvalidInput, match="lacks the columns esci_label"):
        prepare(data, tmp_path / "catalog")
    (data / EXAMPLES_FILE).write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="not a readable parquet file"):
        prepare(data, tmp_path / "catalog")
    assert not (tmp_path / "catalog").exists()


def test_broken_judgments_are_set_aside_with_their_reasons(tmp_path):
    broken = [example(1, "B", "X"), example(1, "C", split="dev"), example(1, None)]
    data = write(tmp_path / "data", [example(1, "A"), *broken, example(2, "A", query=" ", product_locale="es")], [product("A")])
    catalog = prepare(data, tmp_path / "catalog")
    assert [pair.item_id for pair in catalog.pairs("train")] == ["A"]
    rejects = [json.loads(line) for line in (catalog.path / "rejects.ndjson").read_text().splitlines()]
    assert [(reject["source"], reject["line"], reject["reason"]) for reject in rejects] == [
        (EXAMPLES_FILE, 2, "esci_label is 'X', not one of E, S, C, I"),
        (EXAMPLES_FILE, 3, "split is 'dev', not train or test"),
        (EXAMPLES_FILE, 4, "the judgment has no product_id"),
    ]


def test_a_file_of_broken_judgments_is_refused(tmp_path):
    data = write(tmp_path / "data", [example(1, "A"), *(example(1, f"B{n}", "X") for n in range(4))], [product("A")])
    with pytest.raises(InvalidInput, match=r"4 of 5 judgments .* are broken, the last one: esci_label is 'X'"):
        prepare(data, tmp_path / "catalog")
    assert not (tmp_path / "catalog").exists()


def test_test_queries_can_search_all_products_of_the_locale(tmp_path):
    examples = [example(1, "A"), example(2, "B", split="test")]
    products = [product("A"), product("B"), product("C"), product("C", product_title="Again"), product("D", product_locale="es")]
    products.append(product("E", product_title=""))
    catalog = prepare(write(tmp_path / "data", examples, products), tmp_path / "catalog", corpus="all")
    ids = {
        split: [item.item_id for path in catalog.item_files(split) for item in read_items(path)]
        for split in ("train", "val", "test")
    }
    assert ids == {"train": ["A", "B"], "val": ["A", "B"], "test": ["A", "B", "C"]}
    assert catalog.name == "esci-us-small-all"
    rejects = [json.loads(line) for line in (catalog.path / "rejects.ndjson").read_text().splitlines()]
    assert [(reject["line"], reject["item_id"]) for reject in rejects] == [(6, "E")]
    with pytest.raises(InvalidInput, match="no corpus 'every'; use judged or all"):
        prepare(tmp_path / "data", tmp_path / "catalog", corpus="every")
