"""How a lot stands in an index: mapping, document, bulk lines."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from retrieval.contracts.documents import (
    TEXT_FIELD,
    VECTOR_FIELD,
    BadLine,
    Deletion,
    IndexedItem,
    bulk_lines,
    document_of,
    parse_bulk_lines,
    vector_from_json,
    vector_to_json,
    visible_fields,
)
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput
from retrieval.index.opensearch.mapping import index_body
from retrieval.text.analysis import ANALYSIS

EVENING = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
numbers = st.floats(-1, 1, width=32)
vectors = arrays.arrays(np.float32, st.integers(1, 8), elements=numbers)


def lot(**given):
    return Item(**{"item_id": "lot-1", "title": "Steel watch", "ends_at": EVENING, "current_price": 5.0} | given)


def document(item=None):
    return document_of(item or lot(), has_image=True, tower_id="tower", release_id="release")


def entry(item_id="lot-1", vector=(0.6, 0.8), **given):
    return IndexedItem(item_id, 7, document(lot(item_id=item_id, **given)), np.array(vector, np.float32))


def same(left, right):
    return left.item_id == right.item_id and left.version == right.version and left.document == right.document


def test_a_document_has_the_lots_fields_its_text_and_where_its_vector_is_from():
    assert document(lot(description="Runs")) == {
        "item_id": "lot-1",
        "title": "Steel watch",
        "description": "Runs",
        "current_price": 5.0,
        "bid_count": 0,
        "ends_at": 1795291200000,
        "text": "Steel watch. Runs",
        "has_image": True,
        "tower_id": "tower",
        "release_id": "release",
    }


def test_unknown_values_are_absent_and_a_price_of_zero_is_known():
    bare = document(lot(ends_at=None, current_price=0.0))
    assert bare["current_price"] == 0.0
    assert not {"ends_at", "seller_rating", "brand", "image"} & set(bare)


def test_every_field_of_a_document_but_texts_and_paths_is_mapped():
    mapped = index_body("tower", 128)["mappings"]["properties"]
    full = document(
        lot(
            description="d",
            image="i.jpg",
            category="c",
            brand="b",
            seller_rating=1.0,
            listed_at=EVENING,
            updated_at=EVENING,
            seller="s",
        )
    )
    assert set(full) - set(mapped) == {"description", "image"}


def test_the_index_names_its_tower_and_its_hnsw_graph():
    body = index_body("tower", 128, engine="faiss", shards=3, replicas=1)
    method = body["mappings"]["properties"][VECTOR_FIELD]["method"]
    assert body["mappings"]["_meta"] == {
        "tower_id": "tower",
        "dimensions": 128,
        "shards": 3,
        "analysis": ANALYSIS,
        "attributes": {"k1": 0.6, "b": 0.75, "scale": 1.0},
    }
    assert method == {
        "name": "hnsw",
        "engine": "faiss",
        "space_type": "cosinesimil",
        "parameters": {"m": 16, "ef_construction": 256},
    }
    assert body["settings"]["index"]["number_of_shards"] == 3
    assert body["settings"]["index"]["number_of_replicas"] == 1
    assert json.dumps(body)


def test_a_lot_is_two_bulk_lines_that_opensearch_takes_as_they_are():
    action, source = map(json.loads, bulk_lines(entry()))
    assert action == {"index": {"_id": "lot-1", "version": 7, "version_type": "external_gte"}}
    assert source == document() | {VECTOR_FIELD: [0.6, 0.8]}


def test_a_tombstone_is_one_bulk_line():
    assert [json.loads(line) for line in bulk_lines(Deletion("lot-1", 9))] == [
        {"delete": {"_id": "lot-1", "version": 9, "version_type": "external_gte"}}
    ]


@given(st.lists(st.tuples(text.filter(bool), text, vectors, st.booleans(), st.integers(0, 2**53)), max_size=5))
def test_bulk_lines_read_back_as_the_lots_and_tombstones_that_were_written(rows):
    written = [
        IndexedItem(i, v, document(lot(item_id=i, description=d)), x) if alive else Deletion(i, v) for i, d, x, alive, v in rows
    ]
    lines = "".join(line + "\n" for e in written for line in bulk_lines(e))
    back = list(parse_bulk_lines(lines.encode().decode().split("\n")[:-1]))
    for before, after in zip(written, back, strict=True):
        if isinstance(before, Deletion):
            assert after == before
        else:
            assert same(before, after)
            np.testing.assert_allclose(after.vector, before.vector, atol=1e-7)


@given(vectors)
def test_a_vector_read_back_is_written_the_same_again(vector):
    once = vector_to_json(vector)
    assert vector_to_json(vector_from_json(once)) == once
    assert vector_from_json(once).dtype == np.float32


@pytest.mark.parametrize("numbers", [[[0.1]], 3, [1e300], [float("nan")], ["a"], None])
def test_what_is_no_flat_list_of_finite_numbers_is_no_vector(numbers):
    with pytest.raises((InvalidInput, ValueError, TypeError)):
        vector_from_json(numbers)


@pytest.mark.parametrize(
    "bad",
    [
        "not json",
        "{}",
        "[]",
        '{"index": {"_id": "1"}}',
        '{"index": {"version": 1}}',
        '{"delete": {"_id": "1"}}',
        '{"delete": {"_id": 1, "version": 1}}',
        '{"delete": {"_id": "1", "version": "1"}}',
        '{"delete": {"_id": "1", "version": -1}}',
        '{"update": {"_id": "1", "version": 1}}',
        '{"index": {"_id": "1", "version": 1}}\n{"title": "x"}',
        '{"index": {"_id": "1", "version": 1}}\n{"embedding": ["x"]}',
        '{"index": {"_id": "1", "version": 1}}\n[1]',
    ],
)
def test_a_damaged_line_is_set_aside_by_its_number_and_the_lots_around_it_are_read(bad):
    lines = [*bulk_lines(entry()), *bad.split("\n"), *bulk_lines(replace(entry(), item_id="after"))]
    before, damaged, after = parse_bulk_lines(lines)
    assert (before.item_id, after.item_id) == ("lot-1", "after")
    assert isinstance(damaged, BadLine)
    assert re.match(r"line [34] is not a bulk line of an embedding part: ", damaged.reason)
    assert damaged.item_id in ("", "1")


@pytest.mark.parametrize(
    ("lines", "read"),
    [
        (["{oops", "DOCUMENT"], ["bad lot-1"]),  # the document names the lot of a damaged action
        (["ACTION", "{oops"], ["bad lot-1"]),
        (["ACTION", "DOCUMENT", "{oops", "ACTION", "DOCUMENT"], ["lot-1", "bad ", "lot-1"]),
        (["ACTION", "ACTION", "DOCUMENT"], ["bad lot-1", "lot-1"]),
        (["ACTION", "DOCUMENT", "ACTION"], ["lot-1", "bad lot-1"]),
        (["DOCUMENT", "ACTION", "DOCUMENT"], ["bad ", "lot-1"]),
        (["", "ACTION", "  ", "DOCUMENT", ""], ["lot-1"]),
        (["ACTION", "DOCUMENT\r", "ACTION", b"\xff"], ["lot-1", "bad lot-1"]),
        (["ACTION", "[" * 100_000], ["bad lot-1"]),
        (['{"index": {"_id": "1", "version": 1}}', '{"embedding": [1.0]}'], ["bad 1"]),  # it names no tower
        (['{"index": {"_id": "1", "version": true}}', "DOCUMENT"], ["bad 1"]),
        (["ACTION", '{"embedding": [NaN, 1.0], "tower_id": "t"}'], ["bad lot-1"]),
        (["ACTION", '{"embedding": [1' + "0" * 400 + '], "tower_id": "t"}'], ["bad lot-1"]),
    ],
)
def test_after_a_damaged_line_reading_goes_on_at_the_next_action(lines, read):
    action, source = bulk_lines(entry())
    given = [line.replace("ACTION", action).replace("DOCUMENT", source) if isinstance(line, str) else line for line in lines]
    told = [f"bad {found.item_id}" if isinstance(found, BadLine) else found.item_id for found in parse_bulk_lines(given)]
    assert told == read


def test_a_buyer_does_not_see_how_a_lot_was_indexed():
    shown = visible_fields(document() | {VECTOR_FIELD: [1.0]})
    assert shown["title"] == "Steel watch"
    assert not {TEXT_FIELD, VECTOR_FIELD, "tower_id", "release_id"} & set(shown)
