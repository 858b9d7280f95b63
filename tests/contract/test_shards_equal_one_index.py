"""An index in several processes answers as one does, and outlives them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from embedded_lots import ALL, NOW, D, lot, vector

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion
from retrieval.contracts.item_states import StateUpdate
from retrieval.errors import IndexUnavailable
from retrieval.index.embedded.sharding import SHARDS_FILE, ShardedIndex, shard_of
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.port import IndexStore, VectorIndex

LOTS, SHARDS = 3_000, 3
REPOSITORY = Path(__file__).parents[2]


def filled(store: IndexStore) -> VectorIndex:
    index = store.create("tower", D)
    ended, later = int(NOW.timestamp() * 1000) - 1, int(NOW.timestamp() * 1000) + 60_000
    index.upsert(
        lot(
            number,
            text=f"a watch from house {number}",
            current_price=number * 7919 % LOTS / LOTS,
            category=("watch", "vase", "ring")[number % 3],
            ends_at=ended if number % 11 == 0 else later,
        )
        for number in range(LOTS)
    )
    index.upsert([Deletion(f"lot-{number:05}", 2) for number in range(0, LOTS, 50)])
    index.upsert([replace(lot(number, version=3), vector=vector(number + 10_000)) for number in range(1, LOTS, 50)])
    store.publish(index.name)
    return store.live()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorIndex]:
    store = EmbeddedStore(tmp_path_factory.mktemp("sharded"), spec=IndexSpec("flat"), shards=SHARDS)
    yield filled(store)
    store.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    return filled(EmbeddedStore(tmp_path_factory.mktemp("whole"), spec=IndexSpec("flat")))


def test_a_thousand_random_queries_under_filters_find_the_same_lots_with_the_same_scores(
    sharded: VectorIndex, whole: VectorIndex
) -> None:
    chance = np.random.default_rng(5)
    for number in range(1_000):
        lowest, highest = sorted(chance.random(2))
        categories = [(), ("watch",), ("ring",)][chance.integers(3)]
        filters = Filter(categories=categories, min_price=[None, lowest][number % 2], max_price=highest, now=NOW)
        k = int(chance.integers(1, 60))
        query = vector(20_000 + number)
        results, expected = sharded.semantic(query, k, filters), whole.semantic(query, k, filters)
        assert [(c.item_id, c.score, c.semantic_rank) for c in results] == [(c.item_id, c.score, c.semantic_rank) for c in expected]


def test_lots_are_counted_fetched_and_found_by_word_whatever_shard_they_are_in(sharded: VectorIndex, whole: VectorIndex) -> None:
    assert isinstance(sharded, ShardedIndex)
    assert sharded.count() == whole.count()
    assert sorted(map(repr, sharded.deletions())) == sorted(map(repr, whole.deletions())) != []
    item_ids = ["lot-00007", "nowhere", "lot-00001", "lot-00007", "lot-00050"]
    assert [(c.item_id, c.vector.tolist()) for c in sharded.fetch(item_ids)] == [
        (c.item_id, c.vector.tolist()) for c in whole.fetch(item_ids)
    ]
    assert sharded.keyword("house 78", 1, ALL)[0].item_id == "lot-00078" == sharded.hybrid("78", vector(78), 1, ALL)[0].item_id
    assert sharded.corrections(["wacth", "watch"]) == whole.corrections(["wacth", "watch"])


def test_the_report_speaks_of_every_entry_of_every_shard(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, shards=2)
    index = store.create("tower", D)
    index.upsert([lot(number, version=5) for number in range(40)])
    broken = replace(lot(50), vector=np.zeros(3, dtype=np.float32))
    report = index.upsert([*(lot(number) for number in range(40)), Deletion("lot-00003", 6), lot(60), broken])
    assert (report.stale, report.deleted, report.indexed, [item_id for item_id, _ in report.rejected]) == (40, 1, 1, ["lot-00050"])
    assert report.total == 43
    store.close()


def test_a_shard_whose_process_is_killed_is_started_again_with_all_it_had_acknowledged(tmp_path: Path) -> None:
    others = set(psutil.Process().children())
    store = EmbeddedStore(tmp_path, shards=2)
    index = store.create("tower", D)
    index.upsert([lot(number) for number in range(100)])
    store.publish(index.name)
    for process in set(psutil.Process().children()) - others:
        process.send_signal(signal.SIGKILL)
    with pytest.raises(IndexUnavailable, match="started again; ask again"):
        index.semantic(vector(1), 100, ALL)
    deadline = time.monotonic() + 30
    while True:
        try:
            results = index.semantic(vector(1), 100, ALL)
            break
        except IndexUnavailable:  # the other shard
            assert time.monotonic() < deadline
    assert len(results) == 100
    store.close()


@pytest.mark.parametrize("folder", ["t", "t" * 100], ids=["short", "too long for a socket"])
def test_shards_end_with_the_process_that_asks_them_however_it_ends(tmp_path: Path, folder: str) -> None:
    script = (
        "import sys, time; from pathlib import Path; from retrieval.index.embedded.store import EmbeddedStore\n"
        "if __name__ == '__main__':\n"
        "    index = EmbeddedStore(Path(sys.argv[1]), shards=2).create('tower', 8); print('ready', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "asks.py"
    path.write_text(script)
    (tmp_path / folder).mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path / folder)}
    asking = subprocess.Popen(
        [sys.executable, str(path), str(tmp_path / "index")], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "ready\n"
    shards = psutil.Process(asking.pid).children(recursive=True)
    assert len(shards) >= 2
    os.kill(asking.pid, signal.SIGKILL)
    asking.wait()
    _, alive = psutil.wait_procs(shards, timeout=20)
    assert alive == []


def test_a_lot_is_in_the_same_shard_everywhere() -> None:
    assert [shard_of(item_id, 4) for item_id in ("lot-1", "été", "🏺", "\ud800")] == [1, 0, 0, 0]
    assert {shard_of(f"lot-{n}", 7) for n in range(100)} == set(range(7))


def test_a_damaged_list_of_shards_is_named_with_the_way_out(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, shards=2)
    name = store.create("tower", D).name
    store.close()
    (tmp_path / name / SHARDS_FILE).write_text("{")
    with pytest.raises(IndexUnavailable, match=r"shards.json is missing, closed or damaged.*`gavel index --rebuild`"):
        EmbeddedStore(tmp_path).find("tower")


def test_a_search_for_which_no_thread_can_be_started_is_an_unavailable_index(
    sharded: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    assert isinstance(sharded, ShardedIndex)
    with monkeypatch.context() as broken:
        broken.setattr(ThreadPoolExecutor, "submit", fail)
        with pytest.raises(IndexUnavailable, match=r"cannot be asked \(can't start new thread\); ask again"):
            sharded.semantic(vector(1), 3, ALL)
    assert sharded.semantic(vector(1), 3, ALL)


def test_states_reach_the_shard_of_their_lot(sharded: VectorIndex, whole: VectorIndex) -> None:
    later = {"ends_at": int(NOW.timestamp() * 1000) + 90_000}  # every eleventh lot had ended
    updates = [StateUpdate(f"lot-{number:05}", 9, later | {"current_price": 2.0}) for number in (11, 22, 33)]
    updates.append(StateUpdate("lot-00001", 9, {"status": "withdrawn"}))
    updates.append(StateUpdate("nowhere", 9, {"status": "sold"}))
    outcomes = [[one.outcome for one in index.update_states(updates)] for index in (sharded, whole)]
    assert outcomes == [["applied"] * 4 + ["unknown"]] * 2
    for filters in (Filter(min_price=1.5, now=NOW), Filter(now=NOW)):
        answers = [
            [(c.item_id, c.document["current_price"]) for c in index.semantic(vector(1), 50, filters)] for index in (sharded, whole)
        ]
        assert answers[0] == answers[1]
        assert sharded.count(filters) == whole.count(filters)
    assert sharded.states(["lot-00011", "nowhere"]) == whole.states(["lot-00011", "nowhere"])
    assert sharded.state_stamp(Filter()) == whole.state_stamp(Filter())
