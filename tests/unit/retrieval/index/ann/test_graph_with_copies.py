"""Equal vectors in the graphs of the embedded index: answers as of a comparison with every lot, across merges and restarts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from embedded_lots import ALL, D, lot, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, Vector
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.store import EmbeddedStore

GRAPHS = ("hnsw", "hnsw_sq8")


def copies_of(number: int, count: int) -> list:
    """Lots of other ids with the vector of one lot."""
    return [
        replace(lot(number), item_id=f"copy-{i:04}", document={**lot(number).document, "item_id": f"copy-{i:04}"})
        for i in range(count)
    ]


def ids(found: list) -> list[str]:
    return [candidate.item_id for candidate in found]


@given(
    batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=40), min_size=1, max_size=5),
    apart=st.sampled_from([0.0, 1e-7, 1e-4]),
    allow=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_slots_keep_their_vectors_and_are_found_however_many_are_equal(
    batches: list[list[int]], apart: float, allow: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = np.random.default_rng(allow)
    graph, every = AnnIndex(D), np.empty((0, D), dtype=np.float32)
    for numbers in batches:
        rows = np.stack([vector(number) for number in numbers])
        rows = (rows + apart * generator.standard_normal(rows.shape)).astype(np.float32)
        graph = graph.copy()
        graph.add(rows)
        every = np.concatenate([every, rows])
    path = tmp_path_factory.mktemp("graph") / "hnsw.faiss"
    mapped = graph.save(path, np.arange(len(every)), "database")
    reopened, _ = AnnIndex.load(path, D, "database")
    allowed = generator.random(len(every)) < 0.6
    query: Vector = vector(10_000)
    exact = np.sort((every @ query)[allowed])[::-1]
    for held in (graph, mapped, reopened, reopened.copy()):
        assert (held.take(np.arange(len(every))) == every).all()
        found = held.nearest(query, 5, allowed, 0)
        assert allowed[found].all()
        assert len(set(found.tolist())) == len(found) >= min(5, len(exact))
        assert np.sort(every[found] @ query)[::-1][:5] == pytest.approx(exact[:5], abs=1e-6)


@pytest.mark.parametrize("family", GRAPHS)
def test_of_five_hundred_copies_the_ten_of_the_smallest_ids_come_first(tmp_path: Path, family: str) -> None:
    store = EmbeddedStore(tmp_path / "index", exact_below=0, spec=IndexSpec(family))
    index = store.create("tower", D)
    index.upsert([*(lot(number) for number in range(1_500)), *reversed(copies_of(7, 500))])
    store.publish(index.name)
    first = [f"copy-{i:04}" for i in range(10)]
    assert ids(index.semantic(vector(7), 10, ALL)) == first
    assert ids(index.semantic(vector(7), 501, ALL)) == [*(f"copy-{i:04}" for i in range(500)), "lot-00007"]
    index.upsert(
        [
            Deletion("copy-0000", 2),
        ]
    )
    assert ids(index.semantic(vector(7), 9, ALL)) == first[1:]
    index.close()
    reopened = EmbeddedStore(tmp_path / "index", exact_below=0, spec=IndexSpec(family)).live()
    assert ids(reopened.semantic(vector(7), 9, ALL)) == first[1:]


@pytest.mark.parametrize("family", GRAPHS)
def test_lots_among_thousands_of_copies_are_found_by_their_vectors(tmp_path: Path, family: str) -> None:
    store = EmbeddedStore(tmp_path / "index", exact_below=0, spec=IndexSpec(family))
    index = store.create("tower", D)
    index.upsert(copies_of(7, 3_000))
    index.upsert(lot(number) for number in range(1_500))
    index.refresh()
    index.prepare()
    found = {n: ids(index.semantic(vector(n), 1, ALL)) for n in range(0, 1_500, 10)}
    assert found == {n: [f"lot-{n:05}"] for n in found}


def test_a_file_without_pairs_of_equal_slots_is_read_as_before(tmp_path: Path) -> None:
    from retrieval.files import replacing
    from retrieval.index.ann.storage import seal

    graph = AnnIndex(D)
    graph.add(np.stack([vector(number) for number in range(50)]))
    with replacing(tmp_path / "hnsw.faiss") as partial:
        graph.write(partial)
        seal(partial, np.arange(50), "database")
    loaded, _ = AnnIndex.load(tmp_path / "hnsw.faiss", D, "database")
    assert loaded.nearest(vector(3), 1, np.ones(50, dtype=bool), 0)[0] == 3
