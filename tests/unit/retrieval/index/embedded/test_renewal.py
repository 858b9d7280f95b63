"""A merge without memory or disk: searches go on with what there is, and it is tried again later, not by each of them."""

import resource
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from embedded_lots import ALL, D, live_index, lot, vector
from shortages import limited

from retrieval.errors import IndexUnavailable
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded import background as renewal
from retrieval.index.embedded.background import BackgroundRebuild
from retrieval.index.embedded.bm25 import Bm25Index
from retrieval.index.embedded.database import ItemDatabase, translated
from retrieval.index.embedded.filter_columns import FilterColumns
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.embedded.vectors import LEAST_DELTA, VectorView

Fail = Callable[..., None]


def out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError


@pytest.fixture
def index(tmp_path: Path) -> EmbeddedIndex:
    return live_index(tmp_path / "index")


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device"), RuntimeError("Error in faiss")])
def test_a_merge_that_fails_is_tried_again_later_and_not_by_every_search(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried = []

    def fail(graph: AnnIndex) -> AnnIndex:
        tried.append(time.monotonic())
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(AnnIndex, "copy", fail)
        broken.setattr(renewal, "FIRST_WAIT_S", 60.0)
        index._graph._renewal._wait_s = 60.0
        index.upsert(lot(number) for number in range(2_000, 2_001 + LEAST_DELTA))
        for number in range(2_000, 2_040):
            assert index.semantic(vector(number), 1, ALL)[0].item_id == f"lot-{number:05}"
            wait_until(lambda: not index.renewing)
        index.refresh()
        index.upsert([lot(4_000)])
        index.refresh()
        assert index.semantic(vector(4_000), 1, ALL)[0].item_id == "lot-04000"
        assert len(tried) == 1
    index.prepare()
    assert index.semantic(vector(4_000), 1, ALL)[0].item_id == "lot-04000"


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_search_is_answered_when_no_thread_can_be_started_and_the_merge_waits(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    tried = []

    def fail(thread: threading.Thread) -> None:
        tried.append(thread.name)
        raise error

    index._graph._renewal._wait_s = index._keywords._renewal._wait_s = 60.0
    index.keyword("watch", 1, ALL)
    index.upsert(lot(number) for number in range(2_000, 2_001 + LEAST_DELTA))
    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", fail)
        for number in range(2_000, 2_010):
            assert index.hybrid("watch", vector(number), 1, ALL)
            assert index.semantic(vector(number), 1, ALL)[0].item_id == f"lot-{number:05}"
        index.refresh()
    assert len(tried) == len(set(tried)) > 0, "each merge tried once"
    assert "keeps its graph and its delta as they are" in caplog.text
    index.prepare()
    assert index.semantic(vector(2_005), 1, ALL)[0].item_id == "lot-02005"


def test_the_wait_grows_up_to_a_limit_and_ends_with_the_first_success(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(renewal.time, "monotonic", lambda: now)
    merge, waits = BackgroundRebuild("merge"), []
    for _ in range(12):
        with pytest.raises(IndexUnavailable, match="merge: the memory does not suffice; free some"), merge.attempt():
            raise MemoryError
        began = now
        while not merge.due:
            now += 0.5
        waits.append(now - began)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    with merge.attempt():
        pass
    with pytest.raises(IndexUnavailable), merge.attempt():
        raise MemoryError
    now += 1.0
    assert merge.due


def test_words_that_no_memory_joins_are_found_beside_the_others(index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail(*_: object) -> Bm25Index:
        tried.append(1)
        raise MemoryError

    index.keyword("watch", 1, ALL)
    monkeypatch.setattr(Bm25Index, "merged", fail)
    index._keywords._renewal._wait_s = 60.0
    for number in range(3_000, 3_010):
        index.upsert([lot(number, text="a teapot")])
        assert f"lot-{number:05}" in [hit.item_id for hit in index.keyword("teapot", 100, ALL)]
    assert len(tried) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda index: index.semantic(vector(1), 3, ALL),
        lambda index: index.keyword("watch", 3, ALL),
        lambda index: index.hybrid("watch", vector(1), 3, ALL),
        lambda index: index.top("bid_count", 3, ALL),
        lambda index: index.sample(3, ALL, 0),
        lambda index: index.corrections(["wahtc"]),
    ],
)
def test_a_search_that_runs_out_of_memory_is_an_unavailable_index_and_the_next_is_answered(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch, ask: Callable[[EmbeddedIndex], object]
) -> None:
    before = ask(index)
    index.upsert([lot(5, version=2)])
    with monkeypatch.context() as broken:
        broken.setattr(VectorView, "catch_up", out_of_memory)
        with pytest.raises(IndexUnavailable, match=r"the memory does not suffice; free some, or give the process more"):
            ask(index)
    assert type(ask(index)) is type(before)
    assert index.semantic(vector(5), 1, ALL)[0].item_id == "lot-00005"


@pytest.mark.parametrize(
    ("part", "method", "ask"),
    [
        (ItemDatabase, "of", lambda index: [lot.item_id for lot in index.fetch(["lot-00001"])]),
        (ItemDatabase, "count", lambda index: index.count()),
        (ItemDatabase, "deletions", lambda index: index.deletions()),
        (FilterColumns, "allowed", lambda index: len(index.sample(3, ALL, 0))),
    ],
)
def test_a_question_that_runs_out_of_memory_is_an_unavailable_index(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch, part: type, method: str, ask: Callable[[EmbeddedIndex], object]
) -> None:
    before = ask(index)
    with monkeypatch.context() as broken:
        broken.setattr(part, method, out_of_memory)
        with pytest.raises(IndexUnavailable, match=r"the memory does not suffice; free some, or give the process more"):
            ask(index)
    assert ask(index) == before


def test_a_full_disk_or_quota_is_told_as_such_and_nothing_is_distrusted(tmp_path: Path) -> None:
    """The size of a file is limited, as a quota does it."""
    store = EmbeddedStore(tmp_path / "index")
    index = store.create("tower", D)
    index.upsert(lot(number) for number in range(1_500))
    store.publish(index.name)
    files = {path: path.read_bytes() for path in (tmp_path / "index" / index.name).rglob("*.faiss")}
    with limited(resource.RLIMIT_FSIZE, 4_096):
        with pytest.raises(IndexUnavailable, match=r"lots\.sqlite cannot be used now .*free space, .* raise their limits") as told:
            index.upsert(lot(number) for number in range(2_000, 3_000))
        assert "damaged" not in str(told.value)
        assert index.semantic(vector(7), 1, ALL)[0].item_id == "lot-00007"
    assert {path: path.read_bytes() for path in files} == files
    assert index.upsert([lot(2_000)]).indexed == 1
    assert index.semantic(vector(2_000), 1, ALL)[0].item_id == "lot-02000"


def test_without_file_descriptors_nothing_is_told_to_be_damaged_or_to_be_built_again(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    index = store.create("tower", D)
    index.upsert(lot(number) for number in range(100))
    store.publish(index.name)
    index.upsert([lot(200)])  # so that the next search opens the database anew
    with limited(resource.RLIMIT_NOFILE, 0):
        for ask, file in (
            (lambda: index.semantic(vector(1), 1, ALL), "lots.sqlite"),
            (lambda: index.keyword("watch", 1, ALL), "lots.sqlite"),
            (lambda: EmbeddedStore(tmp_path / "index").live(), "auction-items.json"),
            (lambda: ItemDatabase(tmp_path / "index" / index.name / "lots.sqlite"), "lots.sqlite"),
        ):
            with pytest.raises(IndexUnavailable, match=rf"{file} cannot be used now .*free .*descriptors") as told:
                ask()
            assert "damaged" not in str(told.value)
            assert "gavel index" not in str(told.value)
    assert index.semantic(vector(200), 1, ALL)[0].item_id == "lot-00200"
    assert EmbeddedStore(tmp_path / "index").live().count() == 101


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_READONLY_DBMOVED", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"])
def test_what_sqlite_says_of_a_full_disk_is_no_damage(name: str) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    with pytest.raises(IndexUnavailable, match="cannot be used now"), translated(Path("lots.sqlite")):
        raise error
