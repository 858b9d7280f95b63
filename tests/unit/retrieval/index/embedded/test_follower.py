"""Following a database: who waits for a refresh, and rebuilds without memory or disk, which are tried again later."""

import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from embedded_lots import ALL, D, live_index, lot, vector
from shortages import limited

from retrieval.errors import IndexUnavailable
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded import follower
from retrieval.index.embedded.bm25 import Bm25Index
from retrieval.index.embedded.database import NO_COMMIT, CommitSeq, ItemDatabase, translated
from retrieval.index.embedded.filter_columns import FilterColumns
from retrieval.index.embedded.follower import Backoff, Follower
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.embedded.vectors import MIN_MERGE_ITEMS, VectorView

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


@dataclass(frozen=True)
class Count:
    """A view that has the number of items."""

    commit_seq: CommitSeq
    items: int


class CountFollower(Follower[Count]):
    """A follower whose refresh can be held up, or fail."""

    def __init__(self, database: ItemDatabase) -> None:
        super().__init__(database, "count", "the count stays as it is")
        self.refreshing, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def _open(self) -> Count:
        return Count(NO_COMMIT, 0)

    def _refresh(self, view: Count, checkpoint: Callable[[], None] = lambda: None) -> Count:
        with self._database.snapshot() as snapshot:
            self.refreshing.set()
            assert self.go_on.wait(30)
            if self.error is not None:
                raise self.error
            return Count(snapshot.commit_seq(), snapshot.count())

    def _rebuild(self, view: Count, *, in_background: bool) -> None:
        self._swap(Count(NO_COMMIT, 0))

    def _save(self, view: Count) -> None:
        pass


@pytest.fixture
def counts(tmp_path: Path) -> Iterator[CountFollower]:
    ItemDatabase.create(tmp_path / "lots.sqlite", "tower", D)
    with closing(ItemDatabase(tmp_path / "lots.sqlite")) as database:
        database.write([lot(0)])
        yield CountFollower(database)


def test_while_one_thread_refreshes_others_get_an_older_view_or_wait_for_the_commit_that_they_need(
    counts: CountFollower, tmp_path: Path
) -> None:
    before = counts.current(NO_COMMIT)
    assert before.items == 1
    with closing(ItemDatabase(tmp_path / "lots.sqlite")) as writer, ThreadPoolExecutor() as threads:
        writer.write([lot(1)])
        counts.refreshing.clear()
        counts.go_on.clear()
        refreshed = threads.submit(counts.current, NO_COMMIT)
        assert counts.refreshing.wait(30)
        assert counts.current(before.commit_seq) is before
        waiting = threads.submit(counts.current, writer.commit_seq())
        assert not waiting.done()
        counts.go_on.set()
        assert waiting.result(30) == refreshed.result(30) == Count(writer.commit_seq(), 2)


def test_a_rebuild_brings_a_view_of_all_commits(counts: CountFollower, tmp_path: Path) -> None:
    before = counts.current(NO_COMMIT)
    counts.rebuild(NO_COMMIT)
    assert counts.view == before
    assert counts.view is not before
    assert not counts.rebuilding


@pytest.mark.parametrize(("error", "stays"), [(MemoryError(), False), (IndexUnavailable("locked"), True)])
def test_a_view_is_opened_anew_after_a_refresh_without_memory_and_refreshed_again_after_any_other_error(
    counts: CountFollower, tmp_path: Path, error: Exception, stays: bool
) -> None:
    before = counts.current(NO_COMMIT)
    with closing(ItemDatabase(tmp_path / "lots.sqlite")) as writer:
        writer.write([lot(1)])
        counts.error = error
        with pytest.raises(type(error)):
            counts.current(NO_COMMIT)
        assert counts.view is (before if stays else None)
        counts.error = None
        assert counts.current(NO_COMMIT).items == 2


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device"), RuntimeError("Error in faiss")])
def test_a_merge_that_fails_is_tried_again_later_and_not_by_every_search(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    attempts = []

    def fail(graph: AnnIndex) -> AnnIndex:
        attempts.append(time.monotonic())
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(AnnIndex, "copy", fail)
        broken.setattr(follower, "FIRST_WAIT_S", 60.0)
        index.upsert(lot(number) for number in range(2_000, 2_001 + MIN_MERGE_ITEMS))
        for number in range(2_000, 2_040):
            assert index.semantic(vector(number), 1, ALL)[0].item_id == f"lot-{number:05}"
            wait_until(lambda: not index.rebuilding_vectors)
        index.refresh()
        index.upsert([lot(4_000)])
        index.refresh()
        assert index.semantic(vector(4_000), 1, ALL)[0].item_id == "lot-04000"
        assert len(attempts) == 1
    index.prepare()
    assert index.semantic(vector(4_000), 1, ALL)[0].item_id == "lot-04000"


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_search_is_answered_when_no_thread_can_be_started_and_the_merge_waits(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    attempts = []

    def fail(thread: threading.Thread) -> None:
        attempts.append(thread.name)
        raise error

    monkeypatch.setattr(follower, "FIRST_WAIT_S", 60.0)
    index.keyword("watch", 1, ALL)
    index.upsert(lot(number) for number in range(2_000, 2_001 + MIN_MERGE_ITEMS))
    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", fail)
        for number in range(2_000, 2_010):
            assert index.hybrid("watch", vector(number), 1, ALL)
            assert index.semantic(vector(number), 1, ALL)[0].item_id == f"lot-{number:05}"
        index.refresh()
    assert len(attempts) == len(set(attempts)) > 0, "each merge tried once"
    assert "keeps its graph and its delta as they are" in caplog.text
    index.prepare()
    assert index.semantic(vector(2_005), 1, ALL)[0].item_id == "lot-02005"


def test_the_wait_grows_up_to_a_limit_and_ends_with_the_first_success(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(follower.time, "monotonic", lambda: now)
    merge, waits = Backoff("merge"), []
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
    attempts = []

    def fail(*_: object) -> Bm25Index:
        attempts.append(1)
        raise MemoryError

    index.keyword("watch", 1, ALL)
    monkeypatch.setattr(Bm25Index, "merge", fail)
    monkeypatch.setattr(follower, "FIRST_WAIT_S", 60.0)
    for number in range(3_000, 3_010):
        index.upsert([lot(number, text="a teapot")])
        assert f"lot-{number:05}" in [hit.item_id for hit in index.keyword("teapot", 100, ALL)]
    assert len(attempts) == 1


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
        (ItemDatabase, "by_item_id", lambda index: [lot.item_id for lot in index.fetch(["lot-00001"])]),
        (ItemDatabase, "count", lambda index: index.count()),
        (ItemDatabase, "deletions", lambda index: index.deletions()),
        (FilterColumns, "matches", lambda index: len(index.sample(3, ALL, 0))),
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
        with pytest.raises(
            IndexUnavailable, match=r"lots\.sqlite cannot be used now .*free space, .* raise their limits"
        ) as raised:
            index.upsert(lot(number) for number in range(2_000, 3_000))
        assert "damaged" not in str(raised.value)
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
            with pytest.raises(IndexUnavailable, match=rf"{file} cannot be used now .*free .*descriptors") as raised:
                ask()
            assert "damaged" not in str(raised.value)
            assert "gavel index" not in str(raised.value)
    assert index.semantic(vector(200), 1, ALL)[0].item_id == "lot-00200"
    assert EmbeddedStore(tmp_path / "index").live().count() == 101


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_READONLY_DBMOVED", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"])
def test_what_sqlite_says_of_a_full_disk_is_no_damage(name: str) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    with pytest.raises(IndexUnavailable, match="cannot be used now"), translated(Path("lots.sqlite")):
        raise error
