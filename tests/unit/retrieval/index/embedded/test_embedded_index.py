"""What is special to the embedded index: nothing acknowledged is lost, and snapshots are only snapshots."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from embedded_lots import ALL, NOW, D, lot, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, IndexedItem, Vector
from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.bm25 import Bm25Index, lucene_length
from retrieval.index.embedded.database import CommitSeq
from retrieval.index.embedded.keywords import KeywordFollower, KeywordView
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.text.analysis import words

REPOSITORY = Path(__file__).parents[5]


def ids(index: EmbeddedIndex, filters: Filter = ALL, k: int = 1_000) -> list[str]:
    """All ids that a search finds, in order of id."""
    return sorted(c.item_id for c in index.semantic(vector(0), k, filters))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "index"


def kill_a_writer(root: Path, first: int, after_s: float) -> list[int]:
    """Start a process that writes batches, kill it without warning, and tell which batches it had acknowledged."""
    command = [sys.executable, str(Path(__file__).with_name("endless_writer.py")), str(root), str(first)]
    writer = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"},
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    time.sleep(after_s)
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    writer.wait()
    return acknowledged


def test_a_writer_killed_at_any_moment_loses_nothing_acknowledged(root: Path) -> None:
    store = EmbeddedStore(root)
    store.publish(store.create("tower", D).name)
    store.live().close()
    acknowledged: list[int] = []
    moments = random.Random(5)
    for round_number in range(3):
        acknowledged += kill_a_writer(root, round_number * 20_000, moments.uniform(0.02, 0.3))
        index = EmbeddedStore(root).live()
        expected = [f"lot-{first + i:05}" for first in acknowledged for i in range(1, 20)]
        assert [c.item_id for c in index.fetch(expected)] == expected
        assert index.fetch([f"lot-{first:05}" for first in acknowledged]) == []
        for item_id in expected[::200]:
            best = index.semantic(vector(int(item_id[4:])), 1, ALL)[0]
            assert (best.item_id, best.score) == (item_id, 1.0)
        assert len(index.keyword("watch", 100_000, ALL)) == index.count() >= len(expected)
        index.close()
    assert acknowledged


def test_a_reopened_index_answers_as_before(root: Path) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    index.upsert(lot(i) for i in range(300))
    index.upsert([Deletion("lot-00007", 2), lot(8, version=2, text="a vase")])
    store.publish(index.name)
    before = [(c.item_id, c.score) for c in index.hybrid("vase watch", vector(3), 50, ALL)]
    index.close()
    again = EmbeddedStore(root).live()
    assert [(c.item_id, c.score) for c in again.hybrid("vase watch", vector(3), 50, ALL)] == before
    assert again.upsert([lot(7, version=1)]).stale == 1


def test_what_was_written_after_the_snapshot_is_read_from_the_database(root: Path) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    index.upsert(lot(i) for i in range(100))
    store.publish(index.name)
    snapshot = (root / index.name / "hnsw.faiss").read_bytes()
    index.upsert([*(lot(i) for i in range(100, 120)), Deletion("lot-00001", 2), lot(2, version=2)])
    index.close()
    (root / index.name / "hnsw.faiss").write_bytes(snapshot)
    reopened = EmbeddedStore(root).live()
    assert ids(reopened) == [f"lot-{i:05}" for i in range(120) if i != 1]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "of another index"])
def test_a_lost_or_damaged_snapshot_is_built_again(root: Path, damage: str) -> None:
    store = EmbeddedStore(root)
    index, other = store.create("tower", D), store.create("tower", D)
    index.upsert(lot(i) for i in range(200))
    other.upsert(lot(i) for i in range(1_000, 1_200))
    other.prepare()
    store.publish(index.name)
    index.close()
    folder = root / index.name
    for path in [folder / "hnsw.faiss", *folder.glob("bm25-*/*.npy")]:
        content = bytearray(path.read_bytes())
        if damage == "missing":
            path.unlink()
        elif damage == "of another index":
            shutil.copy(root / other.name / "hnsw.faiss", folder / "hnsw.faiss")
        else:
            content[len(content) // 2] ^= 0xFF
            path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "flipped": content}[damage])
    reopened = EmbeddedStore(root).live()
    assert ids(reopened) == [f"lot-{i:05}" for i in range(200)]
    assert len(reopened.keyword("watch", 1_000, ALL)) == 200


@pytest.mark.parametrize("content", [b"", b"not a database, by any means" * 100])
def test_a_damaged_database_is_named_with_the_way_out(root: Path, content: bytes) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    index.upsert([lot(1)])
    store.publish(index.name)
    index.close()
    for path in (root / index.name).glob("lots.sqlite-*"):
        path.unlink()
    (root / index.name / "lots.sqlite").write_bytes(content)
    with pytest.raises(IndexUnavailable, match=r"lots\.sqlite .*gavel index"):
        EmbeddedStore(root).live()


def test_a_page_damaged_in_the_middle_of_the_database_is_an_unavailable_index(root: Path) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    index.upsert(lot(i, text="word " * 200) for i in range(500))
    store.publish(index.name)
    index.close()
    path = root / index.name / "lots.sqlite"
    content = bytearray(path.read_bytes())
    content[20_000:-20_000] = b"\xa5" * (len(content) - 40_000)
    path.write_bytes(content)
    with pytest.raises(IndexUnavailable, match="gavel index"):
        EmbeddedStore(root).live().semantic(vector(1), 500, ALL)


def test_a_damaged_alias_is_named_with_the_way_out(root: Path) -> None:
    store = EmbeddedStore(root)
    store.publish(store.create("tower", D).name)
    (root / "auction-items.json").write_text("{")
    with pytest.raises(IndexUnavailable, match="gavel index"):
        store.live()


def test_an_alias_to_a_folder_that_is_gone_is_a_missing_index(root: Path) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    store.publish(index.name)
    index.close()
    shutil.rmtree(root / index.name)
    with pytest.raises(IndexMissing, match="gavel index"):
        EmbeddedStore(root).live()


def test_a_store_in_a_folder_that_is_not_there_has_no_live_index(root: Path) -> None:
    with pytest.raises(IndexMissing, match="gavel index"):
        EmbeddedStore(root).live()
    assert EmbeddedStore(root).find("tower") is None
    assert not root.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "auction-items-x/../../elsewhere", ""])
def test_a_name_cannot_lead_out_of_the_folder(root: Path, name: str) -> None:
    store = EmbeddedStore(root)
    store.create("tower", D)
    with pytest.raises(IndexMissing):
        store.drop(name)


def test_a_second_reader_sees_what_a_writer_commits(root: Path) -> None:
    store = EmbeddedStore(root)
    writer = store.create("tower", D)
    writer.upsert(lot(i) for i in range(50))
    store.publish(writer.name)
    reader = EmbeddedStore(root).live()
    assert len(ids(reader)) == 50
    writer.upsert([lot(50), Deletion("lot-00000", 2)])
    assert ids(reader) == [f"lot-{i:05}" for i in range(1, 51)]
    assert len(reader.keyword("watch", 100, ALL)) == 50


def test_a_writer_waits_for_another_writer_and_searches_do_not(root: Path) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    index.upsert(lot(i) for i in range(20))
    index.refresh()
    other = sqlite3.connect(root / index.name / "lots.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    assert len(ids(index)) == 20
    started = time.monotonic()
    assert index.upsert([lot(20)]).indexed == 1
    assert time.monotonic() - started > 0.1
    release.join()
    other.close()


def test_searches_of_many_threads_stay_right_while_one_writes(root: Path) -> None:
    index = EmbeddedStore(root, exact_below=0).create("tower", D)
    index.upsert(lot(i) for i in range(300))
    index.refresh()
    faults: list[str] = []
    done = threading.Event()

    def search(seed: int) -> None:
        while not done.is_set():
            expected = f"lot-{seed:05}"
            results = index.semantic(vector(seed), 3, ALL)
            if results[0].item_id != expected or results[0].score != 1.0 or len(results) != 3:
                faults.append(f"{expected}: {[(c.item_id, c.score) for c in results]}")
            if len(index.keyword("watch", 20, ALL)) != 20:
                faults.append("keyword")

    threads = [threading.Thread(target=search, args=(seed,)) for seed in (3, 77, 205)]
    for thread in threads:
        thread.start()
    for version in range(2, 12):
        index.upsert(lot(i, version=version) for i in range(0, 300, 2))
        index.upsert(lot(1_000 * version + i) for i in range(40))
        index.refresh()
    done.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert index.count() == 300 + 10 * 40


def test_a_graph_of_mostly_deleted_vectors_is_built_again(root: Path) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    for version in range(1, 6):
        index.upsert(lot(i, version=version) for i in range(400))
        index.refresh()
    store.publish(index.name)
    database_id = json.loads((root / index.name / "lots.json").read_text())["database_id"]
    graph, positions = AnnIndex.load(root / index.name / "hnsw.faiss", D, database_id)
    assert len(graph) == len(positions) <= 400 / 0.7
    assert ids(index) == [f"lot-{i:05}" for i in range(400)]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1.0])
def test_the_graph_keeps_its_recall_under_a_filter(root: Path, share: float) -> None:
    index = EmbeddedStore(root, exact_below=0).create("tower", D)
    index.upsert(lot(i, current_price=(i * 7919 % 2_000) / 2_000) for i in range(2_000))
    index.refresh()
    filters = Filter(max_price=share, now=NOW)
    common = []
    for query in map(vector, range(9_000, 9_030)):
        approximate, exact = (index.semantic(query, 20, filters, exact=exact) for exact in (False, True))
        common.append({c.item_id for c in approximate} & {c.item_id for c in exact})
    assert sum(map(len, common)) / (30 * 20) >= 0.95


def test_hundreds_of_equal_vectors_come_in_the_order_of_their_ids(root: Path) -> None:
    index = EmbeddedStore(root).create("tower", D)
    twins = [
        IndexedItem(f"twin-{i:03}", 1, {"item_id": f"twin-{i:03}"}, vector(1)) for i in np.random.default_rng(1).permutation(300)
    ]
    index.upsert(twins)
    index.refresh()
    results = index.semantic(vector(1), 25, ALL, exact=True)
    assert [c.item_id for c in results] == [f"twin-{i:03}" for i in range(25)]


@pytest.mark.parametrize("wrong", [np.ones(D + 1, dtype=np.float32), np.full(D, np.nan, dtype=np.float32)])
def test_a_query_vector_that_cannot_be_is_refused(root: Path, wrong: Vector) -> None:
    index = EmbeddedStore(root).create("tower", D)
    with pytest.raises(InvalidInput, match=f"{D} finite numbers"):
        index.semantic(wrong, 5, ALL)


def test_a_closed_index_says_so_and_the_store_opens_it_anew(root: Path) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    index.upsert([lot(1)])
    store.publish(index.name)
    index.close()
    index.close()
    with pytest.raises(IndexUnavailable, match="closed"):
        index.count()
    assert store.live().count() == 1


def test_a_document_that_json_cannot_hold_is_rejected(root: Path) -> None:
    index = EmbeddedStore(root).create("tower", D)
    report = index.upsert([lot(1, odd=float("nan")), lot(2, odd={1, 2}), lot(3, odd="\ud800"), lot(4, odd=None)])
    assert report.indexed == 1
    assert [item_id for item_id, _ in report.rejected] == ["lot-00001", "lot-00002", "lot-00003"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 5)), max_size=40))
def test_any_sequence_of_writes_ends_where_the_versions_say(entries: list[tuple[bool, int, int]]) -> None:
    stored: dict[str, tuple[int, bool]] = {}
    stale = 0
    for is_lot, number, version in entries:
        item_id = f"lot-{number:05}"
        if version < stored.get(item_id, (-1, False))[0]:
            stale += 1
        else:
            stored[item_id] = (version, is_lot)
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddedStore(Path(folder)).create("tower", D)
        report = index.upsert(lot(n, version=v) if is_lot else Deletion(f"lot-{n:05}", v) for is_lot, n, v in entries)
        assert (report.total, report.stale) == (len(entries), stale)
        assert ids(index) == sorted(item_id for item_id, (_, is_lot) in stored.items() if is_lot)
        index.close()


def test_words_are_those_of_lucenes_pattern_tokenizer() -> None:
    assert words("Don't ½ ① snake_case 1.5 İSTANBUL ΣΊΣΥΦΟΣ") == ["don", "t", "snake_case", "1", "5", "istanbul", "σίσυφοσ"]
    assert words("हिन्दी 日本語") == ["हिन्दी", "日本語"]
    assert words("نَصّ ١٢") == ["نص", "12"]  # as its mapping of letters leaves them


def test_lengths_are_kept_as_lucene_keeps_them_in_one_byte() -> None:
    assert [lucene_length(n) for n in (0, 1, 39, 40, 41, 42, 56, 59, 60, 100, 1_000)] == [0, 1, 39, 40, 40, 42, 56, 56, 60, 96, 984]


@given(st.lists(st.lists(st.sampled_from(["gold", "silver", "watch", "vase", "lamp"]), max_size=90), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_keyword_scores_follow_lucenes_formula(texts: list[list[str]]) -> None:
    index = Bm25Index.build((i, " ".join(text)) for i, text in enumerate(texts))
    written = {i: text for i, text in enumerate(texts) if text}
    assert index.row_ids.tolist() == list(written)
    containing = sum("gold" in text for text in written.values())
    if not containing:
        assert not index.scores("gold").any()
        return
    idf = np.log(1 + (len(written) - containing + 0.5) / (containing + 0.5))
    average = np.mean([len(text) for text in written.values()])
    counts = np.array([text.count("gold") for text in written.values()])
    lengths = np.array([lucene_length(len(text)) for text in written.values()])
    expected = idf * counts / (counts + 1.2 * (0.25 + 0.75 * lengths / average))
    assert index.scores("gold").tolist() == pytest.approx(expected, rel=1e-5)


def test_the_alias_is_one_small_file(root: Path) -> None:
    store = EmbeddedStore(root)
    name = store.create("tower", D).name
    store.publish(name)
    assert json.loads((root / "auction-items.json").read_text()) == {"live": name, "previous": None}
    assert {path.name for path in root.iterdir() if ".states." not in path.name} == {name, "auction-items.json"}


def test_a_flat_index_answers_as_the_exact_search_of_the_graph_does(root: Path) -> None:
    store = EmbeddedStore(root, spec=IndexSpec("flat"))
    index = store.create("tower", D)
    index.upsert(lot(n) for n in range(300))
    index.upsert([Deletion("lot-00007", 10)])
    index.refresh()
    store.publish(index.name)
    graph = EmbeddedStore(root).live()
    for n in (7, 8, 100, 1_000):
        flat, exact = index.semantic(vector(n), 20, ALL), graph.semantic(vector(n), 20, ALL, exact=True)
        assert [(c.item_id, c.score) for c in flat] == [(c.item_id, c.score) for c in exact]
    index.close()
    reopened = EmbeddedStore(root, spec=IndexSpec("flat")).live()
    assert (root / index.name / "flat.faiss").is_file()
    assert reopened.semantic(vector(8), 1, ALL)[0].item_id == "lot-00008"


def test_a_vector_file_of_another_kind_is_passed_over(root: Path) -> None:
    store = EmbeddedStore(root)
    index = store.create("tower", D)
    index.upsert(lot(n) for n in range(20))
    store.publish(index.name)
    index.close()
    shutil.copy(root / index.name / "hnsw.faiss", root / index.name / "flat.faiss")
    assert ids(EmbeddedStore(root, spec=IndexSpec("flat")).live()) == [f"lot-{n:05}" for n in range(20)]


def test_a_search_by_words_across_a_replacement_finds_the_lot(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = EmbeddedStore(root).create("tower", D)
    index.upsert(lot(number) for number in range(30))
    index.refresh()
    current, done = KeywordFollower.current, []

    def and_then_replaced(follower: KeywordFollower, min_commit: CommitSeq) -> KeywordView:
        view = current(follower, min_commit)
        if not done:
            done.append(index.upsert([lot(0, version=2)]))
            assert index.semantic(vector(0), 1, ALL)[0].document == lot(0).document
        return view

    monkeypatch.setattr(KeywordFollower, "current", and_then_replaced)
    assert len(index.keyword("watch", 100, ALL)) == 30
    index.close()


def test_a_graph_of_many_equal_vectors_answers_with_as_many_as_are_wanted() -> None:
    different = np.stack([vector(number) for number in range(60)])
    graph = AnnIndex(D, IndexSpec("hnsw", m=4, ef_construction=16))
    graph.add(np.repeat(different, 50, axis=0))
    everything = np.ones(len(graph), dtype=bool)
    assert all(len(graph.nearest(query, 100, everything, exact_below=0)) >= 100 for query in different)


def test_another_process_that_closes_the_index_takes_no_later_commit_away(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.publish(store.create("tower", D).name)
    store.close()
    store = EmbeddedStore(tmp_path)  # opened again, so that it compares the checksum of the file
    index = store.live()
    look = "import sys; from pathlib import Path; from retrieval.index.embedded.store import EmbeddedStore; "
    look += "store = EmbeddedStore(Path(sys.argv[1])); print(store.live().count()); store.close()"
    counts = []
    for number in range(3):
        index.upsert([lot(number)])
        run = subprocess.run([sys.executable, "-c", look, str(tmp_path)], capture_output=True, text=True, check=True)
        counts.append(int(run.stdout))
    assert counts == [1, 2, 3]
    store.close()
