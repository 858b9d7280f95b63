"""New lots in the buffer beside the inverted lists: found at once, with the scores of one index, and merged later."""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded_lots import ALL, D, lot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.errors import IndexUnavailable
from retrieval.index.embedded import keywords, title_terms
from retrieval.index.embedded.bm25 import Bm25Buffer, Bm25Index, bm25_scores, lucene_length
from retrieval.index.embedded.database import NO_COMMIT, ItemDatabase, ItemSnapshot
from retrieval.index.embedded.index import LOTS_FILE
from retrieval.index.embedded.keywords import KeywordFollower
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.embedded.title_terms import TitleFollower
from retrieval.index.embedded.vectors import VectorFollower
from retrieval.index.filters import Filter
from retrieval.index.hybrid_tuning import FieldBoosts, Tuning
from retrieval.text.analysis import ANALYSIS
from retrieval.text.stemming import stem

WORDS = ("gold", "silver", "watch", "vase", "lamp", "ring")
QUERY = "gold watch ring gold"
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), min_size=1, max_size=20)
EQUALLY_LONG = st.lists(st.lists(st.sampled_from(WORDS), min_size=5, max_size=5).map(" ".join), min_size=1, max_size=20)


@pytest.fixture(autouse=True)
def small_indices_have_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keywords, "SMALL", 0)
    monkeypatch.setattr(title_terms, "SMALL", 0)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    """A live index of 300 watches, all of them in the main index."""
    store = EmbeddedStore(tmp_path / "index")
    built = store.create("tower", D)
    built.upsert(lot(number) for number in range(300))
    store.publish(built.name)
    yield built
    store.close()


@pytest.fixture
def folder(index: EmbeddedIndex, tmp_path: Path) -> Path:
    return tmp_path / "index" / index.name


@pytest.fixture
def follower(folder: Path) -> Iterator[KeywordFollower]:
    """Another follower of the index's database, as another process has it."""
    with closing(ItemDatabase(folder / LOTS_FILE)) as database:
        vectors = VectorFollower(database, embedded_spec())
        yield KeywordFollower(database, folder, FieldBoosts(), "en", vectors.live_rows)


def split(texts: list[str], at: int) -> tuple[Bm25Index, Bm25Buffer]:
    """The first texts in an index, the others in its buffer."""
    main = Bm25Index.build(enumerate(texts[:at]))
    buffer = Bm25Buffer(main)
    for number, text in enumerate(texts[at:], at):
        buffer.add([(number, text)])
    return main, buffer


def everything(row_ids: np.ndarray) -> np.ndarray:
    return np.ones(len(row_ids), dtype=np.bool_)


def matching_ids(index: EmbeddedIndex, words: str, filters: Filter = ALL) -> list[str]:
    return sorted(candidate.item_id for candidate in index.keyword(words, 10_000, filters))


def snapshots(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("bm25-*") if path.name.removeprefix("bm25-").isdecimal())  # of the text


def saved_items(folder: Path) -> int:
    """Items in the newest inverted lists on the disk; 0 while these are replaced."""
    try:
        return len(Bm25Index.load(folder / snapshots(folder)[-1]).row_ids)
    except OSError:
        return 0


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


@given(EQUALLY_LONG, st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_where_the_average_length_is_the_same_main_and_buffer_score_exactly_as_one_index(texts: list[str], at: int) -> None:
    main, buffer = split(texts, at)
    both = np.concatenate(bm25_scores([main, buffer.view()], QUERY, "en"))
    assert both.tolist() == Bm25Index.build(enumerate(texts)).scores(QUERY).tolist()


@given(TEXTS, st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_a_buffer_is_weighted_by_the_average_length_of_the_main_index_and_by_the_words_of_both(texts: list[str], at: int) -> None:
    main, buffer = split(["gold watch of silver", *texts], 1 + at)
    written = [text.split() for text in ("gold watch of silver", *texts) if text]
    containing = sum("gold" in text for text in written)
    idf = np.log(1 + (len(written) - containing + 0.5) / (containing + 0.5))
    average = main.lengths.mean()
    counts, lengths = (
        np.array(column) for column in zip(*((t.count("gold"), lucene_length(len(t))) for t in written), strict=True)
    )
    expected = idf * counts / (counts + 1.2 * (0.25 + 0.75 * lengths / average))
    assert np.concatenate(bm25_scores([main, buffer.view()], "gold", "en")).tolist() == pytest.approx(expected, rel=1e-5)


@given(TEXTS, st.integers(0, 20), st.sets(st.integers(0, 19)))
@settings(max_examples=80, deadline=None)
def test_merged_lists_are_those_of_an_index_of_the_lots_that_are_left(texts: list[str], at: int, deleted: set[int]) -> None:
    main, buffer = split(texts, at)
    merged = main.merge(buffer.view(), lambda row_ids: ~np.isin(row_ids, list(deleted)))
    whole = Bm25Index.build((number, text) for number, text in enumerate(texts) if number not in deleted)
    assert merged.row_ids.tolist() == whole.row_ids.tolist()
    for query in (*WORDS, QUERY):
        assert merged.scores(query).tolist() == whole.scores(query).tolist()
        assert len(merged.find(stem(query, "en"))[0]) == len(whole.find(stem(query, "en"))[0])
    assert set(merged.postings.vocabulary) == set(whole.postings.vocabulary)


def test_lists_are_merged_in_strides_as_in_one_and_a_merge_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    main, buffer = split([f"{a} {b} {n}" for n, a in enumerate(WORDS) for b in WORDS], 20)
    whole = main.merge(buffer.view(), everything)
    monkeypatch.setattr("retrieval.index.embedded.bm25.POSTINGS_PER_STRIDE", 7)
    strides: list[None] = []
    in_strides = main.merge(buffer.view(), everything, lambda: strides.append(None))
    assert len(strides) > 10
    assert (in_strides.postings.doc_ids == whole.postings.doc_ids).all()
    assert (in_strides.postings.starts == whole.postings.starts).all()

    class Enough(Exception):
        pass

    def give_up() -> None:
        raise Enough

    with pytest.raises(Enough):
        main.merge(buffer.view(), everything, give_up)


def test_a_view_of_a_buffer_does_not_change_when_more_comes() -> None:
    _, buffer = split(["gold watch", "silver watch"], 1)
    before = buffer.view()
    for number in range(2, 100):
        buffer.add([(number, f"gold lamp {number}")])
    assert before.row_ids.tolist() == [1]
    assert len(before.find("gold")[0]) == 0
    assert len(buffer.view().find("gold")[0]) == 98


def test_a_row_that_a_buffer_has_already_is_skipped() -> None:
    _, buffer = split(["gold watch", "silver watch"], 1)
    buffer.add([(0, "gold watch"), (1, "silver watch"), (2, "lamp")])
    assert buffer.view().row_ids.tolist() == [1, 2]


def test_a_new_lot_is_found_by_the_next_search_while_the_main_index_stays_what_it_was(
    index: EmbeddedIndex, folder: Path, follower: KeywordFollower
) -> None:
    main, before = follower.current(NO_COMMIT).mains[0], snapshots(folder)
    index.upsert([lot(900, text="a sextant"), lot(3, version=2, text="a vase"), Deletion("lot-00004", 2)])
    assert matching_ids(index, "sextants") == ["lot-00900"]
    assert matching_ids(index, "vase") == ["lot-00003"]
    assert matching_ids(index, "watch") == [f"lot-{n:05}" for n in range(300) if n not in (3, 4)]
    view = follower.current(NO_COMMIT)
    assert view.mains[0] is main
    assert view.counts == (300, 2)
    assert snapshots(folder) == before


def test_lots_that_were_deleted_replaced_or_have_ended_do_not_come_back_when_main_and_buffer_are_merged(
    index: EmbeddedIndex, folder: Path, follower: KeywordFollower
) -> None:
    index.upsert([lot(3, version=2, text="a vase"), Deletion("lot-00004", 2), lot(5, version=2, ends_at=1)])
    left = [f"lot-{n:05}" for n in range(300) if n not in (3, 4, 5)]
    assert matching_ids(index, "watch") == left
    index.prepare()
    assert follower.current(NO_COMMIT).counts == (299, 0)
    assert matching_ids(index, "watch") == left
    index.close()
    assert matching_ids(EmbeddedIndex(folder), "watch") == left


def test_many_new_lots_go_into_the_main_index_by_themselves_and_the_snapshot_before_is_removed(
    index: EmbeddedIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "MIN_MERGE_ITEMS", 20)
    (before,) = snapshots(folder)
    index.upsert(lot(number, text=f"a lamp {number}") for number in range(1_000, 1_030))
    assert len(matching_ids(index, "lamp")) == 30
    wait_until(lambda: saved_items(folder) == 330)
    wait_until(lambda: not index.rebuilding_keywords)
    (after,) = snapshots(folder)
    assert after != before
    assert len(matching_ids(index, "lamp")) == 30
    assert len(matching_ids(index, "watch")) == 300


def test_searches_stay_right_while_lists_are_merged_again_and_again_and_more_lots_come(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "MIN_MERGE_ITEMS", 20)
    wrong: list[int] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            watches, vases = len(matching_ids(index, "watch")), len(matching_ids(index, "vase"))
            wrong.extend([watches] if watches != 300 else [])
            wrong.extend([vases] if vases % 50 else [])

    searching = [threading.Thread(target=search) for _ in range(3)]
    for thread in searching:
        thread.start()
    for start in range(1_000, 2_000, 50):
        index.upsert(lot(number, text=f"vase {number}") for number in range(start, start + 50))
        assert len(matching_ids(index, str(start + 7))) <= 1
    done.set()
    for thread in searching:
        thread.join()
    assert wrong == []
    index.refresh()
    assert matching_ids(index, "1007 1907") == ["lot-01007", "lot-01907"]


def test_a_second_process_has_a_buffer_of_its_own_and_takes_over_what_the_first_has_merged(
    index: EmbeddedIndex, folder: Path, follower: KeywordFollower, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = EmbeddedIndex(folder)
    assert follower.current(NO_COMMIT).counts == (300, 0)
    assert len(matching_ids(other, "watch")) == 300
    index.upsert(lot(number, text=f"lamp {number}") for number in range(1_000, 1_030))
    assert len(matching_ids(other, "lamp")) == len(matching_ids(index, "lamp")) == 30
    assert follower.current(NO_COMMIT).counts == (300, 30)
    index.prepare()
    assert follower.current(NO_COMMIT).counts == (300, 30)

    def refuse(*given: object) -> Bm25Index:
        raise AssertionError("merged although another process had done it")

    monkeypatch.setattr(keywords, "MIN_MERGE_ITEMS", 20)
    with monkeypatch.context() as patched:
        patched.setattr(Bm25Index, "merge", refuse)
        index.upsert([lot(2_000, text="lamp 2000")])
        assert len(matching_ids(other, "lamp")) == 31
        wait_until(lambda: follower.current(NO_COMMIT).counts == (330, 1))
        wait_until(lambda: not other.rebuilding_keywords)
    assert len(matching_ids(other, "lamp")) == 31
    other.close()


@pytest.mark.parametrize("name", ["vocabulary.txt", "rows.npy", "shares.npy", "statistics.json"])
def test_a_snapshot_with_one_wrong_byte_is_built_again(index: EmbeddedIndex, folder: Path, name: str) -> None:
    (snapshot,) = snapshots(folder)
    index.close()
    path = folder / snapshot / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert len(matching_ids(EmbeddedIndex(folder), "watch")) == 300
    assert len(Bm25Index.load(folder / snapshot).find("watch")[0]) == 300


def test_a_snapshot_whose_words_an_older_version_cut_is_built_again(index: EmbeddedIndex, folder: Path) -> None:
    (snapshot,) = snapshots(folder)
    index.close()
    path = folder / snapshot / "statistics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"analysis": ANALYSIS - 1}))
    vocabulary = folder / snapshot / "vocabulary.txt"
    vocabulary.write_text(vocabulary.read_text().replace("watch", "wat-ch"))  # as words were once cut
    assert len(matching_ids(EmbeddedIndex(folder), "watch")) == 300


def test_a_snapshot_that_cannot_be_written_is_no_loss(index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Bm25Index, folder: Path, database_id: str) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Bm25Index, "save", fail)
    index.upsert([lot(900, text="a sextant")])
    index.prepare()
    assert matching_ids(index, "sextant") == ["lot-00900"]
    index.upsert([lot(901, text="a sextant")])
    assert matching_ids(index, "sextant") == ["lot-00900", "lot-00901"]


def test_boosted_fields_of_new_lots_count_as_those_of_old_ones(tmp_path: Path) -> None:
    tuning = Tuning(boosts=FieldBoosts(title=0.5, brand=2.0))
    built: list[list[tuple[str, float]]] = []
    for prepared in (False, True):
        store = EmbeddedStore(tmp_path / str(prepared), tuning=lambda tower_id: tuning)
        index = store.create("tower", D)
        index.upsert(lot(number, text="a watch", **({"brand": "House"} if number % 3 else {})) for number in range(60))
        store.publish(index.name)
        index.upsert([lot(900, text="a watch", brand="House"), lot(901, text="a vase", brand="House")])
        if prepared:
            index.prepare()
        built.append([(c.item_id, c.score) for c in index.keyword("house watch", 100, ALL)])
    assert [item_id for item_id, _ in built[0]] == [item_id for item_id, _ in built[1]]
    assert [score for _, score in built[0]] == pytest.approx([score for _, score in built[1]], rel=0.01)
    assert {"lot-00900", "lot-00901"} <= {item_id for item_id, _ in built[0]}


def test_words_of_new_titles_correct_and_are_known_at_once_and_those_of_gone_titles_go_with_the_next_count(
    index: EmbeddedIndex, folder: Path
) -> None:
    assert index.corrections(["wacth", "sextent"]) == {"wacth": "watch"}
    titles = TitleFollower(ItemDatabase(folder / LOTS_FILE), folder)
    before = titles.current(NO_COMMIT)
    assert not before.near("sextent")
    index.upsert([lot(900, text="a brass sextant")])
    assert index.corrections(["sextent", "sextant"]) == {"sextent": "sextant"}
    assert titles.current(NO_COMMIT) is before
    assert before.near("sextent") == {"sextant": 1}
    index.upsert([Deletion("lot-00900", 2)])
    assert index.corrections(["sextent"]) == {"sextent": "sextant"}
    index.prepare()
    assert index.corrections(["sextent"]) == {}


def test_words_and_titles_that_a_broken_read_had_taken_in_count_once(
    folder: Path, index: EmbeddedIndex, follower: KeywordFollower, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower.current(NO_COMMIT)
    with closing(ItemDatabase(folder / LOTS_FILE)) as database:
        titles = TitleFollower(database, folder)
        titles.current(NO_COMMIT)
        index.upsert(lot(number, text="a sextant") for number in range(900, 904))
        monkeypatch.setattr(keywords, "TEXTS_PER_STEP", 1)
        monkeypatch.setattr(title_terms, "TITLES_PER_STEP", 1)
        texts_after = ItemSnapshot.texts_after

        def break_off(*given: Any) -> Iterator[Any]:
            yield from islice(texts_after(*given), 2)
            raise IndexUnavailable("locked")

        for view in (follower, titles):
            with monkeypatch.context() as broken:
                broken.setattr(ItemSnapshot, "texts_after", break_off)
                with pytest.raises(IndexUnavailable):
                    view.current(NO_COMMIT)
        assert follower.current(NO_COMMIT).counts == (300, 4)
        assert len(follower.current(NO_COMMIT).buffered[0].find("sextant")[0]) == 4
        assert titles.current(NO_COMMIT).near("sextent") == {"sextant": 4}


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 14), st.sampled_from(WORDS), st.booleans()),
    st.tuples(st.just("delete"), st.integers(0, 14)),
    st.tuples(st.sampled_from(["prepare", "reopen", "search"])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=25), least=st.sampled_from([0, 3, 1_000]))
def test_a_keyword_search_finds_the_lots_that_share_a_word_and_pass_the_filter_whatever_was_written_when(
    steps: list[tuple], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "MIN_MERGE_ITEMS", least)
    stored: dict[str, IndexedItem] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedStore(Path(folder))
        store.publish(store.create("tower", D).name)
        for version, (op, *given_) in enumerate(steps):
            index = store.live()
            if op == "write":
                number, word, ended = given_
                ends = {"ends_at": 1} if ended else {}
                entry = replace(lot(number, version=version, text=f"a {word}", **ends))
                stored[entry.item_id] = entry
                index.upsert([entry])
            elif op == "delete":
                stored.pop(f"lot-{given_[0]:05}", None)
                index.upsert([Deletion(f"lot-{given_[0]:05}", version)])
            elif op == "prepare":
                index.prepare()
            elif op == "reopen":
                index.close()
            else:
                _check(index, stored)
        index = store.live()
        index.refresh()
        _check(index, stored)
        store.close()


def _check(index: EmbeddedIndex, stored: dict[str, IndexedItem]) -> None:
    for word in WORDS:
        having = sorted(i for i, entry in stored.items() if word in entry.document["text"] and "ends_at" not in entry.document)
        assert matching_ids(index, word) == having
