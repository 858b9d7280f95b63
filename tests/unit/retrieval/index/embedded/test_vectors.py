"""New lots in the buffer beside the graph: found at once, in the graph later, and searches go on meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from embedded_lots import ALL, D, live_index, lot, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, Vector
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.database import NO_COMMIT, ItemDatabase
from retrieval.index.embedded.index import LOTS_FILE
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.embedded.segments import SegmentedVectors, embedded_spec
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.embedded.vectors import MIN_MERGE_ITEMS, VectorFollower


@pytest.fixture
def index(tmp_path: Path) -> EmbeddedIndex:
    return live_index(tmp_path / "index")


@pytest.fixture
def follower(index: EmbeddedIndex, tmp_path: Path) -> Iterator[VectorFollower]:
    """Another follower of the index's database, as another process has it."""
    with closing(ItemDatabase(tmp_path / "index" / index.name / LOTS_FILE)) as database:
        yield VectorFollower(database, embedded_spec())


def vectors(*numbers: int) -> Vector:
    return np.stack([vector(number) for number in numbers])


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_new_lot_is_found_by_the_next_search_while_the_graph_stays_what_it_was(
    index: EmbeddedIndex, follower: VectorFollower
) -> None:
    graph = follower.current(NO_COMMIT).vectors.main
    index.upsert([lot(2_000), lot(3, version=2), Deletion("lot-00004", 2)])
    assert index.semantic(vector(2_000), 1, ALL)[0].item_id == "lot-02000"
    assert index.semantic(vector(3), 1, ALL)[0].item_id == "lot-00003"
    assert index.semantic(vector(4), 1, ALL)[0].item_id != "lot-00004"
    assert not index.rebuilding_vectors
    vectors = follower.current(NO_COMMIT).vectors
    assert vectors.main is graph
    assert (len(graph), len(vectors.buffer)) == (1_500, 2)


def test_many_new_lots_go_into_the_graph_by_themselves(index: EmbeddedIndex, follower: VectorFollower) -> None:
    index.upsert(lot(number) for number in range(2_000, 2_000 + MIN_MERGE_ITEMS + 1))
    assert index.semantic(vector(2_500), 1, ALL)[0].item_id == "lot-02500"
    segments = follower.current(NO_COMMIT).vectors
    wait_until(lambda: len(segments.buffer) == 0)
    assert len(segments.main) == 1_500 + MIN_MERGE_ITEMS + 1
    wait_until(lambda: not index.rebuilding_vectors)
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
    for start in range(2_000, 5_000, 1_000):
        index.upsert(lot(number) for number in range(start, start + 1_000))
        index.refresh()
    done.set()
    for thread in searching:
        thread.join()
    assert wrong == []
    assert index.semantic(vector(4_999), 1, ALL)[0].item_id == "lot-04999"


def test_a_reopened_index_maps_the_graph_of_its_file_and_takes_what_came_later_into_the_buffer(
    index: EmbeddedIndex, follower: VectorFollower, tmp_path: Path
) -> None:
    index.upsert(lot(number) for number in range(2_000, 2_020))
    index.close()
    reopened = EmbeddedStore(tmp_path / "index").live()
    assert reopened.semantic(vector(2_010), 1, ALL)[0].item_id == "lot-02010"
    segments = follower.current(NO_COMMIT).vectors
    assert (len(segments.main), len(segments.buffer)) == (1_500, 20)
    with pytest.raises(AssertionError):
        segments.main.add(vectors(1))
    follower.rebuild(NO_COMMIT)
    assert (len(segments.main), len(segments.buffer)) == (1_520, 0)
    reopened.prepare()
    assert reopened.semantic(vector(2_010), 1, ALL)[0].item_id == "lot-02010"


def test_an_index_that_is_closed_while_it_renews_its_graph_loses_nothing(index: EmbeddedIndex, tmp_path: Path) -> None:
    index.upsert(lot(number) for number in range(2_000, 6_000))
    index.semantic(vector(1), 1, ALL)  # starts the renewal
    index.close()
    assert EmbeddedStore(tmp_path / "index").live().semantic(vector(5_999), 1, ALL)[0].item_id == "lot-05999"


def test_a_merge_that_is_given_up_changes_nothing() -> None:
    class Enough(Exception):
        pass

    def give_up() -> None:
        raise Enough

    segments = SegmentedVectors(AnnIndex(D))
    segments.add(vectors(1, 2, 3))
    with pytest.raises(Enough):
        segments.merge(ReadWriteLock(), give_up)
    assert (len(segments.main), len(segments.buffer)) == (0, 3)


@given(
    steps=st.lists(st.one_of(st.integers(1, 30), st.just("merge"), st.just("absorb")), min_size=1, max_size=8),
    flat=st.booleans(),
    allow=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_slots_keep_their_vectors_whatever_is_merged_when(steps: list[int | str], flat: bool, allow: int) -> None:
    segments, every = SegmentedVectors(AnnIndex(D, IndexSpec("flat" if flat else "hnsw"))), np.empty((0, D), dtype=np.float32)
    for step in steps:
        if isinstance(step, int):
            new = vectors(*range(len(every), len(every) + step))
            segments.add(new)
            every = np.concatenate([every, new])
        elif step == "merge":
            segments.merge(ReadWriteLock())
        else:
            segments.merge_in_place()
    assert len(segments) == len(every)
    slots = np.random.default_rng(allow).permutation(len(every))
    assert (segments.take(slots) == every[slots]).all()
    allowed = np.random.default_rng(allow).random(len(every)) < 0.6
    query = vector(10_000)
    best = np.flatnonzero(allowed)[np.argsort(-(every @ query)[allowed])][:5]
    assert set(best) <= set(segments.exact(query, 5, allowed))
    assert set(best) <= set(segments.nearest(query, 5, allowed, 1_000))
