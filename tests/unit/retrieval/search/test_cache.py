"""A cache holds no more bytes, entries and time than it was given."""

import sys

import numpy as np
import pytest

from retrieval.search import cache
from retrieval.search.cache import LruCache, size_of


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the cache believes have passed."""
    now = [0.0]
    monkeypatch.setattr(cache.time, "monotonic", lambda: now[0])
    return now


def test_what_was_asked_for_longest_ago_makes_room_for_new_bytes():
    kept = LruCache(100, max_bytes=3_000)
    for name in ("a", "b"):
        kept.put(name, name * 1_000)
    assert kept.get("a") is not None
    kept.put("c", "c" * 1_000)
    assert [kept.get(name) is not None for name in ("a", "b", "c")] == [True, False, True]
    assert kept.use().bytes <= 3_000


def test_a_value_larger_than_the_cache_is_not_kept_and_drives_nothing_out():
    kept = LruCache(100, max_bytes=3_000)
    kept.put("small", "s")
    kept.put("large", "l" * 10_000)
    assert (kept.get("small"), kept.get("large")) == ("s", None)


def test_a_value_that_replaces_another_is_counted_once():
    kept = LruCache(100, max_bytes=10_000)
    for size in (5_000, 1_000):
        kept.put("a", "a" * size)
    assert 1_000 < kept.use().bytes < 2_000
    kept.drop("a")
    assert kept.use().bytes == 0


def test_what_is_too_old_gives_its_memory_back_though_nobody_asks_for_it(clock):
    kept = LruCache(100, seconds=5, max_bytes=10_000)
    kept.put("a", "a" * 1_000)
    clock[0] = 4
    kept.put("b", "b")
    assert kept.get("a") is not None, "being asked for makes nothing younger"
    clock[0] = 6
    assert kept.get("b") == "b"
    assert (kept.use().entries, kept.use().bytes < 1_000) == (1, True)


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 9, "seconds": 0}, {"size": 9, "max_bytes": 0}])
def test_a_cache_of_nothing_keeps_nothing(settings):
    kept = LruCache(**settings)
    kept.put("a", "a")
    assert (kept.get("a"), kept.use().entries) == (None, 0)


def test_a_value_has_the_size_of_what_it_holds():
    text, row = "\u0627" * 1_000, np.zeros((50, 128), np.float32)[3]
    assert size_of(text) == sys.getsizeof(text) > 2_000
    assert size_of({"text": text, "more": [text, (text,)]}) > 3 * sys.getsizeof(text)
    assert size_of(row) >= 512
