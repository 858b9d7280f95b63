"""Attributes: what of a row becomes one, in which form, and within which bounds."""

import json
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.contracts.attributes import (
    MAX_ATTRIBUTE_CHARS,
    MAX_ATTRIBUTES,
    MAX_VALUE_CHARS,
    attribute_terms,
    attribute_text,
    label_term,
    number_term,
    parse_number_term,
    read_attributes,
)
from retrieval.contracts.documents import document_of, listed_fields, visible_fields
from retrieval.contracts.item_files import ReadingLog, ReadOptions, read_items
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput
from retrieval.index.filters import AttributeFilter, parse_attribute_filters


def attributes_of(path, log=None, **options):
    return [row.attributes for row in read_items(path, ReadOptions(**options), log)]


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"colour": " Red "}, {"colour": "Red"}),
        ({"size": 42.0, "weight": 1.5, "ok": True}, {"size": 42, "weight": 1.5, "ok": "true"}),
        ({"colour": ["red", "blue", "red"]}, {"colour": ["red", "blue"]}),
        ({"colour": "red | blue"}, {"colour": ["red", "blue"]}),
        ({"colour": '["red", "blue"]'}, {"colour": ["red", "blue"]}),
        ({"attributes": {"colour": "red"}, "metadata": {"brand": "Acme", "era": "1950s"}}, {"colour": "red", "era": "1950s"}),
        ({"attributes": "{'colour': 'red'}"}, {"colour": "red"}),
        ({"attributes": [{"name": "colour", "value": "red"}, {"key": "size", "value": 4}]}, {"colour": "red", "size": 4}),
        ({"specs": {"frame": {"width": 3}}}, {"specs.frame.width": 3}),
        ({"care": "<b>Hand</b> wash &amp; dry"}, {"care": "Hand wash & dry"}),
        ({"a": "", "b": None, "c": "NULL", "d": "n/a", "e": float("nan"), "f": []}, {}),
        ({"catalog_id": "7", "seller_id": "s", "image_url": "a.jpg"}, {}),
    ],
)
def test_what_has_no_field_of_its_own_is_an_attribute(row, expected, tmp_path):
    path = write(tmp_path / "lots.ndjson", json.dumps({"id": "1", "title": "Vase", **row}))
    assert attributes_of(path) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Handle,Title,Variant Price,Option1 Name,Option1 Value\nv,Vase,3,Colour,Red\n", {"Colour": "Red"}),
        ('ID,Name,Regular price,Attribute 1 name,Attribute 1 value(s)\n1,Vase,3,Colour,"Red, Blue"\n', {"Colour": ["Red", "Blue"]}),
        ("CustomLabel,Title,PicURL,C:Colour,Format\n1,Vase,,Red,AUCTION\n", {"Colour": "Red"}),
        ("URL handle,Title,Color (product.metafields.shopify.color-pattern)\nv,Vase,Red\n", {"Color": "Red"}),
    ],
)
def test_exports_name_attributes_in_their_own_ways(text, expected, tmp_path):
    assert attributes_of(write(tmp_path / "lots.csv", text)) == [expected]


def test_attributes_may_be_chosen_or_left_out(tmp_path):
    path = write(tmp_path / "lots.csv", "id,title,Colour,Size\n1,Vase,red,4\n")
    assert attributes_of(path, attributes=("colour",)) == [{"Colour": "red"}]
    assert attributes_of(path, attributes=()) == [{}]
    with pytest.raises(InvalidInput, match=r"has no attribute `shape`, which --attributes names; it has `Colour`, `Size`"):
        attributes_of(path, attributes=("colour", "shape"))


def test_times_and_bytes_of_parquet_are_no_attributes_and_refuse_nothing(tmp_path):
    times = pa.array([1_798_761_600_000_000_001], pa.int64()).cast(pa.timestamp("ns"))
    table = pa.table({"id": ["1"], "title": ["Vase"], "seen": times, "raw": pa.array([b"\xff"]), "colour": ["red"]})
    pq.write_table(table, tmp_path / "lots.parquet")
    log = ReadingLog()
    assert attributes_of(tmp_path / "lots.parquet", log) == [{"colour": "red"}]
    assert "columns that are not used: `seen`, `raw`" in log.notices


@pytest.mark.parametrize(
    ("row", "reason", "kept"),
    [
        ({"care": "x" * (MAX_VALUE_CHARS + 1)}, "a value of more than 1,000 characters", 0),
        ({"x" * 101: "red"}, "a name of more than 100 characters", 0),
        ({"---": "red"}, "an attribute without a name", 0),
        ({f"n{n}": n for n in range(MAX_ATTRIBUTES + 1)}, "more than 100 attributes of one lot", MAX_ATTRIBUTES),
        ({"n": [*map(str, range(51))]}, "more than 50 values of one attribute", 1),
        ({"half": "\ud83d"}, "a value with half a character", 0),
        ({"deep": {"a": {"b": {"c": {"d": 1}}}}}, "objects below 3 levels", 0),
        (
            {f"n{n}": "x" * MAX_VALUE_CHARS for n in range(MAX_ATTRIBUTE_CHARS // MAX_VALUE_CHARS)},
            "more than 20,000 characters in the attributes of one lot",
            19,
        ),
    ],
)
def test_what_is_out_of_bounds_is_left_out_and_counted_but_rejects_no_lot(row, reason, kept, tmp_path):
    log = ReadingLog()
    (attributes,) = attributes_of(write(tmp_path / "lots.ndjson", json.dumps({"id": "1", "title": "Vase", **row})), log)
    assert len(attributes) == kept
    assert log.attributes_left_out == {reason: 1}
    assert log.lines()[-1] == f"attributes that were left out: 1 for {reason}"


def test_words_are_names_and_values_without_addresses_and_denials():
    attributes = {
        "colour": ["Red", "blue"],
        "waterproof": "yes",
        "boxed": "no",
        "size": 42,
        "link": "https://a.b/c",
        "img": "a.jpg",
    }
    assert attribute_text(attributes) == "colour. Red. blue. waterproof. size. 42"


def test_terms_of_numbers_are_in_the_order_of_the_numbers():
    numbers = [float("-inf"), -1e9, -2.5, -0.0, 1e-9, 3, 42, 1e300, float("inf")]
    terms = [number_term("Size", number) for number in numbers]
    assert terms == sorted(terms)
    assert [parse_number_term(term) for term in terms] == [("size", number) for number in numbers]
    assert parse_number_term(label_term("size", "x#0123456789abcdef")) is None


@pytest.mark.parametrize(
    ("conditions", "match"),
    [
        (["Colour:RED"], True),
        (["col_our: red "], True),
        (["colour:green"], False),
        (["colour:green", "colour:blue"], True),
        (["colour:red", "size:42"], True),
        (["colour:red", "size:43"], False),
        (["size:42.0"], True),
        (["size:40..44"], True),
        (["size:..41"], False),
        (["size:42.."], True),
        (["width:1.5..1.5"], True),
        (["code:007"], True),
        (["code:7"], False),
        (["colour:1..2"], False),
        (["shape:round"], False),
        (["ratio:1..x"], True),
    ],
)
def test_filters_compare_text_without_case_and_numbers_by_value(conditions, match):
    attributes = {"Colour": ["Red", "Blue"], "size": "42", "width": "1,5", "code": "007", "ratio": "1..x"}
    terms = attribute_terms(attributes)
    assert all(condition.matches(terms) for condition in parse_attribute_filters(conditions)) == match


def test_values_of_one_name_are_one_condition():
    assert parse_attribute_filters(["a:x", "a:y", "b:1.."]) == (AttributeFilter("a", ("x", "y")), AttributeFilter("b", (), 1.0))


def test_a_document_shows_attributes_and_a_list_the_first_of_many():
    attributes = {f"name {n}": "x" * 90 for n in range(9)}
    item = Item("1", "Vase", listed_at=datetime(2026, 1, 1, tzinfo=UTC), attributes=attributes)
    document = document_of(item, has_image=False, tower_id="t", release_id="r")
    assert visible_fields(document)["attributes"] == attributes
    assert "attribute_terms" not in visible_fields(document)
    listed = listed_fields(document)
    assert (list(listed["attributes"]), listed["attributes_cut"]) == (["name 0", "name 1", "name 2", "name 3"], True)
    plain = document_of(Item("1", "Vase"), has_image=False, tower_id="t", release_id="r")
    assert not {"attributes", "attribute_text", "attribute_terms"} & plain.keys()


def test_of_two_attributes_with_one_name_the_first_counts():
    assert read_attributes([("", {"a": 1}), ("a", 2)], Counter()) == {"a": 1}
