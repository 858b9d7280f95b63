"""Lots with equal vectors hide no other: those of a seller who lists one thing hundreds of times, and those that rounding parts."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from index_lots import EVERYTHING, NOW, TOWER_ID, clustered, lot, unit
from opensearch_stores import opensearch_store

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.port import IndexStore, VectorIndex
from retrieval.ingestion import MIN_RECALL, probe_index, recall_at_10

D = 64
OTHERS, GROUPS, COPIES = 800, 3, 300
FLOAT_NOISE, NEAR = 1e-7, 1.4e-3  # lengths; at the second the cosine is .999999


@pytest.fixture(params=("faiss", "opensearch"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexStore]:
    """Each adapter, the embedded one with its graph where it would compare so few lots one by one."""
    if request.param == "faiss":
        yield EmbeddedStore(tmp_path / "index", exact_below=0)
        return
    yield from opensearch_store(request.getfixturevalue("opensearch_url"))


def others() -> list[IndexedItem]:
    return [lot(f"other-{i:04}", vector) for i, vector in enumerate(clustered(OTHERS, D, seed=4))]


def copies(apart: float = 0.0, count: int = COPIES) -> list[IndexedItem]:
    """Lots like some of the others, in turns, each this far from them in a direction of its own."""
    heads, generator, made = others()[:: OTHERS // GROUPS][:GROUPS], np.random.default_rng(8), []
    for number in range(count):
        for group, head in enumerate(heads):
            step = generator.standard_normal(D)
            vector = unit((head.vector + apart * step / np.linalg.norm(step)).tolist()) if apart else head.vector
            made.append(lot(f"copy-{group}-{number:04}", vector))
    return made


def merge(index: VectorIndex, request: pytest.FixtureRequest) -> None:
    """What happens to an index in the background, now: all in one graph."""
    if isinstance(index, EmbeddedIndex):
        index.prepare()
        return
    from opensearchpy import OpenSearch

    client = OpenSearch(request.getfixturevalue("opensearch_url"), timeout=120)
    client.indices.forcemerge(index=index.name, max_num_segments=1)
    client.close()
    index.refresh()


@pytest.mark.parametrize("apart", [0.0, FLOAT_NOISE, NEAR])
@pytest.mark.parametrize("order", ["after the others", "among them"])
def test_copies_of_a_lot_hide_no_other_before_and_after_a_merge(
    store: IndexStore, request: pytest.FixtureRequest, apart: float, order: str
) -> None:
    index = store.create(TOWER_ID, D)
    both = [others(), copies(apart)]
    if order == "among them":
        mixed = [*both[0], *both[1]]
        both = [[mixed[place] for place in np.random.default_rng(2).permutation(len(mixed))]]
    for entries in both:
        assert index.upsert(entries).rejected == ()
        index.refresh()
    asked = [entry.vector for entry in others()[::16]]
    for _ in range(2):
        each = [recall_at_10(index, [vector]) for vector in asked]
        assert each.count(0.0) <= (0 if isinstance(index, EmbeddedIndex) else 1)  # Lucene draws the levels of a graph at random
        assert sum(each) / len(each) >= 0.95
        assert probe_index(index) >= MIN_RECALL
        merge(index, request)


def test_a_copy_is_found_when_all_its_equals_have_ended_or_are_filtered_out(
    store: IndexStore, request: pytest.FixtureRequest
) -> None:
    index = store.create(TOWER_ID, D)
    entries = copies(count=100)
    over = [
        replace(c, document={**c.document, "ends_at": int((NOW - timedelta(days=1)).timestamp() * 1000), "category": "Old"})
        for c in entries
    ]
    over[42] = replace(entries[42], document={**entries[42].document, "category": "Rare"})
    index.upsert([*others(), *over])
    index.refresh()
    for _ in range(2):
        nearest = index.semantic(entries[42].vector, 2, EVERYTHING)
        assert {hit.item_id for hit in nearest} == {over[42].item_id, f"other-{(42 % GROUPS) * (OTHERS // GROUPS):04}"}
        rare = index.semantic(others()[5].vector, 5, Filter(categories=("rare",), now=NOW))
        assert [hit.item_id for hit in rare] == [over[42].item_id]
        merge(index, request)


def test_copies_are_withdrawn_and_replaced_one_by_one(store: IndexStore, request: pytest.FixtureRequest) -> None:
    index = store.create(TOWER_ID, D)
    entries = copies(count=40)
    index.upsert([*others(), *entries])
    index.refresh()
    merge(index, request)
    first = [entry for entry in entries if entry.item_id.startswith("copy-0-")]
    elsewhere = others()[7].vector
    index.upsert([Deletion(first[0].item_id, 2), Deletion("other-0000", 2), replace(first[1], version=2, vector=elsewhere)])
    index.refresh()
    for _ in range(2):
        assert [hit.item_id for hit in index.semantic(first[2].vector, 38, EVERYTHING)] == [e.item_id for e in first[2:]]
        assert {hit.item_id for hit in index.semantic(elsewhere, 2, EVERYTHING)} == {first[1].item_id, "other-0007"}
        merge(index, request)


def test_a_stored_vector_comes_back_to_the_last_digit(store: IndexStore) -> None:
    index = store.create(TOWER_ID, D)
    entries = copies(FLOAT_NOISE, count=3)
    index.upsert(entries)
    index.refresh()
    for found, entry in zip(index.fetch([entry.item_id for entry in entries]), entries, strict=True):
        np.testing.assert_array_equal(found.vector, entry.vector)


def test_a_sample_is_of_open_lots_that_pass_the_filter_and_the_same_for_a_seed(store: IndexStore) -> None:
    index = store.create(TOWER_ID, D)
    ended = [replace(entry, document={**entry.document, "ends_at": 1}) for entry in others()[:20]]
    index.upsert([*ended, *others()[20:60]])
    index.refresh()
    there = {entry.vector.tobytes() for entry in others()[20:60]}
    drawn = index.sample(10, EVERYTHING, 3)
    assert len({vector.tobytes() for vector in drawn} & there) == len(drawn) == 10
    assert [v.tobytes() for v in drawn] == [v.tobytes() for v in index.sample(10, EVERYTHING, 3)]
    assert [v.tobytes() for v in drawn] != [v.tobytes() for v in index.sample(10, EVERYTHING, 4)]
    assert {vector.tobytes() for vector in index.sample(1_000, EVERYTHING, 0)} == there
    assert index.sample(0, EVERYTHING, 0) == index.sample(5, Filter(categories=("none",), now=NOW), 0) == []
