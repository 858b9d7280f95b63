"""New lots beside the graph: found at once, in the graph later, and searches go on meanwhile."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from embedded_lots import ALL, D, live_index, lot, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, Vector
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.embedded.segments import SegmentedVectors
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.embedded.vectors import LEAST_DELTA


@pytest.fixture
def index(tmp_path: Path) -> EmbeddedIndex:
    return live_index(tmp_path / "index")


def vectors(*numbers: int) -> Vector:
    return np.stack([vector(number) for number in numbers])


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_new_lot_is_found_by_the_next_search_while_the_graph_stays_what_it_was(index: EmbeddedIndex) -> None:
    assert index._graph.known is not None
    graph = index._graph.known.vectors.main
    index.upsert([lot(2_000), lot(3, version=2), Deletion("lot-00004", 2)])
    assert index.semantic(vector(2_000), 1, ALL)[0].item_id == "lot-02000"
    assert index.semantic(vector(3), 1, ALL)[0].item_id == "lot-00003"
    assert index.semantic(vector(4), 1, ALL)[0].item_id != "lot-00004"
    assert index._graph.known.vectors.main is graph
    assert len(graph) == 1_500
    assert len(index._graph.known.vectors.buffer) == 2


def test_many_new_lots_go_into_the_graph_by_themselves(index: EmbeddedIndex) -> None:
    index.upsert(lot(number) for number in range(2_000, 2_000 + LEAST_DELTA + 1))
    assert index.semantic(vector(2_500), 1, ALL)[0].item_id == "lot-02500"
    assert index._graph.known is not None
    held = index._graph.known.vectors
    wait_until(lambda: len(held.buffer) == 0)
    assert len(held.main) == 1_500 + LEAST_DELTA + 1
    assert index.semantic(vector(2_500), 1, ALL)[0].item_id == "lot-02500"


def test_searches_stay_right_while_the_graph_takes_new_lots_in_and_more_come(index: EmbeddedIndex) -> None:
    wrong: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            wrong.extend(f"lot-{n:05}" for n in (7, 900) if index.semantic(vector(n), 1, ALL)[0].item_id != f"lot-{n:05}")

    searching = [threading.Thread(target=search) for _ in range(3)]
    for thread in searching:
        thread.start()
    for start in range(2_000, 8_000, 1_000):
        index.upsert(lot(number) for number in range(start, start + 1_000))
        index.refresh()
    done.set()
    for thread in searching:
        thread.join()
    assert wrong == []
    assert index.semantic(vector(7_999), 1, ALL)[0].item_id == "lot-07999"


def test_a_reopened_index_maps_the_graph_of_its_file_and_takes_what_came_later_into_the_delta(
    index: EmbeddedIndex, tmp_path: Path
) -> None:
    index.upsert(lot(number) for number in range(2_000, 2_020))
    index.close()
    reopened = EmbeddedStore(tmp_path / "index").live()
    assert reopened.semantic(vector(2_010), 1, ALL)[0].item_id == "lot-02010"
    assert reopened._graph.known is not None
    held = reopened._graph.known.vectors
    assert (len(held.main), len(held.buffer)) == (1_500, 20)
    with pytest.raises(AssertionError):
        held.main.add(vectors(1))
    reopened.prepare()
    assert (len(held.main), len(held.buffer)) == (1_520, 0)


def test_an_index_that_is_closed_while_it_renews_its_graph_loses_nothing(index: EmbeddedIndex, tmp_path: Path) -> None:
    index.upsert(lot(number) for number in range(2_000, 12_000))
    index.semantic(vector(1), 1, ALL)  # starts the renewal
    index.close()
    assert EmbeddedStore(tmp_path / "index").live().semantic(vector(11_999), 1, ALL)[0].item_id == "lot-11999"


def test_a_merge_that_is_given_up_changes_nothing() -> None:
    class Enough(Exception):
        pass

    def give_up() -> None:
        raise Enough

    held = SegmentedVectors(AnnIndex(D))
    held.add(vectors(1, 2, 3))
    with pytest.raises(Enough):
        held.merge(ReadWriteLock(), give_up)
    assert (len(held.main), len(held.buffer)) == (0, 3)


@given(
    steps=st.lists(st.one_of(st.integers(1, 30), st.just("merge"), st.just("absorb")), min_size=1, max_size=8),
    flat=st.booleans(),
    allow=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_slots_keep_their_vectors_whatever_is_merged_when(steps: list[int | str], flat: bool, allow: int) -> None:
    held, every = SegmentedVectors(AnnIndex(D, IndexSpec("flat")) if flat else AnnIndex(D)), np.empty((0, D), dtype=np.float32)
    for step in steps:
        if isinstance(step, int):
            new = vectors(*range(len(every), len(every) + step))
            held.add(new)
            every = np.concatenate([every, new])
        elif step == "merge":
            held.merge(ReadWriteLock())
        else:
            held.merge_in_place()
    assert len(held) == len(every)
    slots = np.random.default_rng(allow).permutation(len(every))
    assert (held.take(slots) == every[slots]).all()
    allowed = np.random.default_rng(allow).random(len(every)) < 0.6
    query = vector(10_000)
    best = np.flatnonzero(allowed)[np.argsort(-(every @ query)[allowed])][:5]
    assert set(best) <= set(held.exact(query, 5, allowed))
    assert set(best) <= set(held.nearest(query, 5, allowed, 1_000))
