"""Circuits, deadlines and caches: what a search does not ask, does not begin, and does not ask again."""

import threading
import time

import pytest

from retrieval import resilience as circuit
from retrieval.deadline import Deadline
from retrieval.errors import GavelError, IndexMissing, IndexUnavailable, InvalidInput
from retrieval.resilience import Circuit
from retrieval.search.cache import LruCache


def fail(guarded: Circuit, error: GavelError) -> None:
    with pytest.raises(type(error)), guarded.guard():
        raise error


def test_what_failed_five_times_in_a_row_is_not_asked() -> None:
    guarded = Circuit("k-NN", IndexUnavailable)
    for _ in range(circuit.FAILURES):
        assert guarded.state == "closed"
        fail(guarded, IndexUnavailable("down"))
    assert guarded.state == "open"
    with pytest.raises(IndexUnavailable, match="k-NN failed 5 times"), guarded.guard():
        pytest.fail("asked")


def test_an_answer_in_between_begins_the_count_anew() -> None:
    guarded = Circuit("k-NN", IndexUnavailable)
    for _ in range(3):
        for _ in range(circuit.FAILURES - 1):
            fail(guarded, IndexUnavailable("down"))
        with guarded.guard():
            pass
    assert guarded.state == "closed"


@pytest.mark.parametrize("error", [IndexMissing("none yet"), InvalidInput("refused")])
def test_an_index_that_was_not_made_yet_and_a_bad_question_are_no_failures(error: GavelError) -> None:
    guarded = Circuit("k-NN", IndexUnavailable)
    for _ in range(2 * circuit.FAILURES):
        fail(guarded, error)
    assert guarded.state == "closed"


def test_after_a_while_it_is_tried_again_and_one_more_failure_opens_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "RECOVERY_S", 0.05)
    guarded = Circuit("k-NN", IndexUnavailable)
    for _ in range(circuit.FAILURES):
        fail(guarded, IndexUnavailable("down"))
    time.sleep(0.06)
    assert guarded.state == "half_open"
    fail(guarded, IndexUnavailable("down"))
    assert guarded.state == "open"
    time.sleep(0.06)
    with guarded.guard():
        pass
    assert guarded.state == "closed"


def test_calls_of_several_threads_are_under_way_at_once() -> None:
    guarded, together = Circuit("k-NN", IndexUnavailable), threading.Barrier(3, timeout=10)

    def call() -> None:
        with guarded.guard():
            together.wait()

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    together.wait()
    for thread in threads:
        thread.join()
    assert not together.broken, "both calls were under way while the third thread waited for them"


def test_a_request_has_what_is_left_of_the_search_at_most() -> None:
    assert Deadline(100).limit(2.0) == 2.0
    assert 0 < Deadline(1).limit(2.0) <= 1
    with pytest.raises(IndexUnavailable, match="0 s of this search were used up"):
        Deadline(0).limit(2.0)


def test_a_cache_forgets_what_was_not_asked_for_longest() -> None:
    cache: LruCache[int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert (cache.use().entries, cache.use().hits, cache.use().misses) == (2, 3, 1)
    assert cache.use().hit_ratio == 0.75


def test_a_cache_forgets_what_is_too_old() -> None:
    cache: LruCache[int] = LruCache(2, seconds=0.02)
    cache.put("a", 1)
    assert cache.get("a") == 1
    time.sleep(0.03)
    assert cache.get("a") is None
    assert cache.use().entries == 0


@pytest.mark.parametrize(("size", "seconds"), [(0, 10.0), (10, 0.0)])
def test_a_cache_of_no_size_or_no_time_keeps_nothing(size: int, seconds: float) -> None:
    cache: LruCache[int] = LruCache(size, seconds)
    cache.put("a", 1)
    assert cache.get("a") is None


def test_a_find_that_is_thrown_away_counts_as_a_miss() -> None:
    cache: LruCache[int] = LruCache(2)
    cache.put("a", 1)
    cache.get("a")
    cache.drop("a")
    assert (cache.get("a"), cache.use().hits, cache.use().misses) == (None, 0, 2)
