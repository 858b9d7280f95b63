"""The benchmarks of batches and caches, small; and what a kept answer may still show."""

import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from lots import WordEncoder, lot, publish

from benchmarks.ann import batches
from benchmarks.ann.data import synthetic_vectors
from benchmarks.speed import caches
from retrieval.contracts.documents import Deletion
from retrieval.contracts.items import epoch_ms
from retrieval.errors import InvalidInput
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter, utc_now
from retrieval.search.service import SearchLimits, SearchModels, SearchRequest, SearchService


def test_every_family_is_searched_in_batches_on_one_thread_and_on_two(tmp_path: Path) -> None:
    vectors, queries = synthetic_vectors(8, 20, 7)[1](1_000)
    result = batches.run_benchmark(vectors, queries, tmp_path, specs=("flat", "hnsw:m=4"), batches=(1, 20), rounds=2)
    assert [(row.family, row.threads, row.batch) for row in result.rows] == [
        (family, threads, batch) for family in ("flat", "hnsw") for threads in (1, 2) for batch in (1, 20)
    ]
    assert all(row.gain == row.cpu_gain == 1 for row in result.rows if row.batch == 1)
    assert all(row.ms_a_query > 0 and row.cpu_ms_a_query > 0 for row in result.rows)


def test_queries_come_as_often_as_the_law_says_and_a_log_tells_its_exponent() -> None:
    texts = [f"query {number}" for number in range(500)]
    asked = caches.zipf_draws(texts, 0.8, 20_000)
    counts = Counter(asked)
    assert counts["query 0"] / counts["query 99"] == pytest.approx(100**0.8, rel=0.3)
    assert caches.zipf_exponent(asked) == pytest.approx(0.8, abs=0.03)
    with pytest.raises(InvalidInput, match="two different queries"):
        caches.zipf_exponent(["one", "one"])


def test_kept_answers_serve_more_the_more_often_the_same_is_asked() -> None:
    shares = [caches.expected_hits(1_000, exponent, rate) for exponent in (0.6, 1.0) for rate in (1, 10, 100)]
    assert shares[:3] == sorted(shares[:3])
    assert all(steep > flat for flat, steep in zip(shares[:3], shares[3:], strict=True))
    assert caches.expected_hits(1, 1.0, rate=1, seconds=1) == 0.5


def test_expected_hits_are_those_of_a_simulation() -> None:
    queries, rate, rng = 200, 20.0, np.random.default_rng(7)
    times = np.cumsum(rng.exponential(1 / rate, 20_000))
    kept: dict[str, float] = {}
    hits = 0
    for moment, query in zip(times, caches.zipf_draws([str(number) for number in range(queries)], 0.9, 20_000), strict=True):
        if moment - kept.get(query, -np.inf) <= 5:
            hits += 1
        else:
            kept[query] = moment
    assert caches.expected_hits(queries, 0.9, rate) == pytest.approx(hits / 20_000, abs=0.02)


def test_a_withdrawn_lot_stays_in_kept_answers_no_longer_than_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = EmbeddedStore(tmp_path), utc_now()
    publish(store, [lot("v1", "red vase"), lot("v2", "blue vase")])
    forgetful, keeping = (
        SearchService(store, SearchModels(WordEncoder)),
        SearchService(store, SearchModels(WordEncoder), SearchLimits(cached_answers_s=5)),
    )
    asked = SearchRequest("red vase", filters=Filter(now=now + timedelta(seconds=1)))

    def found() -> list[list[str]]:
        return [[result.item_id for result in service.search(asked).results] for service in (forgetful, keeping)]

    assert found() == [["v1", "v2"], ["v1", "v2"]]
    store.live().upsert([Deletion("v1", epoch_ms(now))])
    store.live().refresh()
    assert found() == [["v2"], ["v1", "v2"]]
    later = time.monotonic() + 5.1
    monkeypatch.setattr("retrieval.search.cache.time.monotonic", lambda: later)
    assert found() == [["v2"], ["v2"]]
