"""What every index promises of attributes: filters that let exactly their lots through, words that count, and older lots."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from index_lots import EVERYTHING, TOWER_ID, axis, lot
from opensearch_stores import opensearch_store
from opensearchpy import OpenSearch

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.errors import InvalidQuery
from retrieval.index.filters import matches, parse_attribute_filters
from retrieval.index.opensearch.mapping import ATTRIBUTES_META
from retrieval.index.opensearch.store import OpenSearchStore
from retrieval.index.port import VectorIndex

Fill = Callable[[Iterable[IndexedItem | Deletion]], VectorIndex]
LOTS = [
    lot("a", attributes={"Colour": ["Red", "Blue"], "Frame size": 42}),
    lot("b", attributes={"colour": "red", "frame_size": "42.5"}),
    lot("c", attributes={"colour": "RÉD", "frame_size": -3}),
    lot("d", attributes={"shape": "red"}),
    lot("e"),
]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["colour:red"], "a b"),
        (["COLOUR:blue"], "a"),
        (["colour:réd"], "c"),
        (["colour:re"], ""),
        (["colour:blue", "colour:RÉD"], "a c"),
        (["colour:red", "framesize:42"], "a"),
        (["frame size:42.0"], "a"),
        (["frame size:42..43"], "a b"),
        (["frame size:42.1.."], "b"),
        (["frame size:..0"], "c"),
        (["shape:red"], "d"),
        (["nothing:red"], ""),
    ],
)
def test_filters_by_attributes_let_exactly_their_lots_through(filled: Fill, conditions: list[str], expected: str) -> None:
    index, filters = filled(LOTS), replace(EVERYTHING, attributes=parse_attribute_filters(conditions))
    answers = [
        index.semantic(axis(0), 10, filters),
        index.semantic(axis(0), 10, filters, exact=True),
        index.keyword("lot", 10, filters),
        index.hybrid("lot", axis(0), 10, filters),
    ]
    assert [" ".join(sorted(found.item_id for found in answer)) for answer in answers] == [expected] * 4
    assert index.count(filters) == len(expected.split())
    assert [item.item_id for item in index.fetch(list("abcde")) if matches(filters, item.document)] == expected.split()


def test_lots_are_found_by_the_words_of_their_attributes_behind_those_of_their_texts(filled: Fill) -> None:
    index = filled([lot("in text", title="a walnut lot"), lot("in attribute", attributes={"wood": "Walnut"}), lot("other")])
    assert [found.item_id for found in index.keyword("walnut", 10, EVERYTHING)] == ["in text", "in attribute"]


def test_a_new_version_of_a_lot_has_its_own_attributes_alone(filled: Fill) -> None:
    index = filled([lot("a", version=1, attributes={"colour": "red"})])
    index.upsert([lot("a", version=2, attributes={"colour": "blue"})])
    index.refresh()
    for colour, expected in (("red", 0), ("blue", 1)):
        filters = replace(EVERYTHING, attributes=parse_attribute_filters([f"colour:{colour}"]))
        assert len(index.semantic(axis(0), 10, filters)) == expected
        assert len(index.keyword(colour, 10, EVERYTHING)) == expected


def test_words_of_attributes_are_not_misspelt(filled: Fill) -> None:
    index = filled([lot("a", title="walnut table", attributes={"wood": "walnot"}), lot("b", title="chair")])
    assert index.corrections(["walnot", "tabel"]) == {"tabel": "table"}


def test_an_opensearch_index_from_before_attributes_is_read_and_a_filter_names_the_remedy(opensearch_url: str) -> None:
    stores = opensearch_store(opensearch_url)
    store = next(stores)
    index = store.create(TOWER_ID, 16)
    client = OpenSearch(opensearch_url)
    meta = client.indices.get_mapping(index=index.name)[index.name]["mappings"]["_meta"]
    del meta[ATTRIBUTES_META]
    client.indices.put_mapping(index=index.name, body={"_meta": meta})
    older = OpenSearchStore(opensearch_url, index.name.partition(f"-{TOWER_ID}")[0]).find(TOWER_ID)
    assert older is not None
    older.upsert(LOTS)
    older.refresh()
    assert len(older.keyword("lot", 10, EVERYTHING)) == 5
    with pytest.raises(InvalidQuery, match=r"built before lots had attributes.*gavel index --rebuild"):
        older.semantic(axis(0), 10, replace(EVERYTHING, attributes=parse_attribute_filters(["colour:red"])))
    next(stores, None)
