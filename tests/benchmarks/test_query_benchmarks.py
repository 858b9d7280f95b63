"""The benchmarks of the query path and of the server: what they make of a release, and that they time what they say."""

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from judged_lots import write_release
from lots import WordEncoder
from served_lots import served_lots
from trained_booster import trained_booster

from benchmarks.speed import buyer_path, fresh_lots, fresh_words, load
from benchmarks.speed.load_users import LoadPlan, LoadResponse
from benchmarks.speed.many_lots import CutEncoder, copies, copy_ids, index_of_copies, questions
from benchmarks.speed.query_path import PARTS, run_benchmark
from gavel.opensearch.node import free_port
from retrieval.buyers.vector import AVERAGE
from retrieval.contracts.items import Item
from retrieval.errors import GavelError, InvalidInput
from retrieval.index.embedded import keywords as lot_keywords
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter

TITLES = ("red round vase", "blue old vase", "gold ring", "silver ring for two", "old luxury watch", "new lamp")


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "a1b2c3d4e5f6-0123456789ab", [Item(f"lot-{n}", title) for n, title in enumerate(TITLES)])


def test_copies_are_lots_of_their_own_near_their_original(release):
    made = list(copies(release, 20, 8))
    assert len({lot.item_id for lot in made}) == 20
    assert all(lot.document["item_id"] == lot.item_id for lot in made)
    assert [lot.document["title"] for lot in made[6:12]] == list(TITLES)
    vectors = np.stack([lot.vector for lot in made])
    assert vectors.shape == (20, 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    near = (vectors[6:12] * vectors[:6]).sum(axis=1)
    assert (near > 0.8).all()
    assert (near < 0.9999).all()


def test_an_index_of_copies_is_made_once(release, tmp_path):
    store, seen = EmbeddedStore(tmp_path / "benches", "bench"), []
    index = index_of_copies(store, release, 50, 13, lambda done, total: seen.append((done, total)))
    assert (index.count(), index.dimensions, seen) == (50, 13, [(50, 50)])
    assert index_of_copies(store, release, 50, 13).name == index.name
    assert index_of_copies(store, release, 30, 13).count() == 30
    with pytest.raises(InvalidInput, match="have 13 numbers, not 64"):
        index_of_copies(store, release, 50, 64)


def test_a_broken_off_index_of_copies_leaves_nothing_behind(release, tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    store = EmbeddedStore(tmp_path / "benches", "bench")
    with pytest.raises(KeyboardInterrupt):
        index_of_copies(store, release, 50, 13, interrupt)
    assert list((tmp_path / "benches").glob("bench-*")) == []


def test_questions_are_words_that_follow_each_other_in_a_title_and_all_different(release):
    asked = questions(release, 10)
    assert len(set(asked)) == 10
    assert all(any(question in title for title in TITLES) and " " in question for question in asked)
    with pytest.raises(InvalidInput, match=r"different questions, and 500 are wanted; ask for fewer"):
        questions(release, 500)


def test_searches_are_timed_whole_and_in_the_parts_that_they_have(release, tmp_path):
    store = EmbeddedStore(tmp_path / "benches", "bench")
    index_of_copies(store, release, 60, 8)
    encoder = CutEncoder(WordEncoder(), 8)
    assert encoder.encode(["red vase"]).shape == (1, 8)
    ticks = []
    result = run_benchmark(
        store,
        encoder,
        trained_booster(3),
        questions(release, 5),
        repetitions=2,
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert (result.lots, result.dimensions, ticks[-1]) == (60, 8, (10, 10))
    assert result.whole.searches == result.sum_alone.searches == 10
    assert set(PARTS) <= set(result.stages)
    assert set(PARTS) == set(result.alone)
    assert all(taken.p50_ms > 0 for taken in (result.whole, *result.alone.values()))
    assert result.overhead == pytest.approx(result.whole.p50_ms / result.sum_alone.p50_ms, abs=1e-3)
    assert result.to_dict()["tail"] >= 1
    assert store.live().keyword("vase", 3, Filter())


def test_buyers_ask_over_http_at_the_rate_of_the_plan(tmp_path):
    with served_lots(tmp_path) as url:
        seen = ask(LoadPlan(url, ["gold watch", "red vase"], users=8, seconds=4, rate=40))
    assert seen.errors == {}
    assert seen.milliseconds
    assert seen.rate < 60
    assert min(seen.milliseconds) > 0
    assert (seen.reranked, seen.degraded) == (0, 0)


def test_a_server_that_is_not_there_is_an_error_for_every_buyer():
    seen = ask(LoadPlan(f"http://127.0.0.1:{free_port()}", ["gold watch"], users=2, seconds=1, rate=10))
    assert seen.milliseconds == []
    assert sum(seen.errors.values()) > 0


def test_a_home_without_an_index_is_told_in_the_words_of_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path / "empty"))
    with pytest.raises(GavelError, match=r"ended before it answered.*gavel index"), load.served():
        pass


def ask(plan: LoadPlan) -> LoadResponse:
    command = [sys.executable, "-m", "benchmarks.speed.load_users"]
    ran = subprocess.run(command, input=json.dumps(asdict(plan)), capture_output=True, text=True, check=True)
    return LoadResponse(**json.loads(ran.stdout))


@pytest.mark.parametrize("tower", [AVERAGE, buyer_path.random_attention(8, 2)], ids=["average", "attention"])
def test_buyers_are_timed_over_http_beside_plain_faiss(tower, release, tmp_path):
    store = EmbeddedStore(tmp_path / "benches", "bench")
    index_of_copies(store, release, 60, 8)
    item_ids = copy_ids(release, 60)
    assert len(store.live().fetch(item_ids)) == 60
    result = buyer_path.run_benchmark(store, tmp_path / "benches", tower, item_ids, buyers=5, repetitions=2)
    assert (result.lots, result.dimensions) == (60, 8)
    ways = (result.encode_buyer, result.retrieve, result.both, result.in_one, result.bare)
    assert all(way.searches == 10 and way.p50_ms > 0 for way in ways)
    assert result.both.mean_ms == pytest.approx(result.encode_buyer.mean_ms + result.retrieve.mean_ms, abs=0.01)


def test_drawn_histories_are_as_long_as_the_api_takes_them():
    lengths = [len(acts) for acts in buyer_path.draw_histories(["lot-1", "lot-2"], 400)]
    assert min(lengths) >= 1
    assert 100 < max(lengths) <= 200


def test_new_lots_are_timed_on_a_copy_of_the_index(release, tmp_path, monkeypatch):
    monkeypatch.setattr(lot_keywords, "SMALL", 0)
    store = EmbeddedStore(tmp_path / "benches", "bench")
    index_of_copies(store, release, 60, 8)
    store.close()
    phases = []
    result = fresh_lots.run_benchmark(tmp_path / "benches", "bench", written=2_500, on_phase=phases.append)
    assert (result.lots, result.written, phases) == (60, 2_500, ["copy", "idle", "write", "renew the graph", *phases[4:]])
    assert result.idle.searches == fresh_lots.IDLE
    assert result.upserts_a_second > 0
    assert result.to_dict()["renewing_to_idle_p99"] > 0
    assert phases[4:] == ["hybrid, idle", "hybrid, write", "hybrid, join the words"]
    assert result.words.idle.searches == fresh_words.IDLE
    assert result.words.joined > lot_keywords.MIN_MERGE_ITEMS
    assert result.to_dict()["words"]["joining_to_idle_p99"] > 0
    assert EmbeddedStore(tmp_path / "benches", "bench").live().count() == 60
    assert not list((tmp_path / "benches").glob("fresh-*"))
