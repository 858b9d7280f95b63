"""The embedded index in every family: new lots, deletes, filters, merges, restarts and damaged files."""

import logging
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import faiss
import numpy as np
import pytest
from embedded_lots import NOW

from benchmarks.ann.clustered import clustered, clustered_queries
from benchmarks.ann.embedded_index_types import measure
from benchmarks.reliability.kills import KillReport, survive
from retrieval.config.index_spec import INDEX_TYPES, IndexSpec
from retrieval.contracts.documents import Deletion, IndexedItem, Vector
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.files import replacing
from retrieval.index.ann.full_vectors import FullVectors
from retrieval.index.ann.vector_index import RETRAIN_GROWTH, AnnIndex
from retrieval.index.embedded.database import ItemDatabase
from retrieval.index.embedded.index import LOTS_FILE
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.embedded.vectors import VectorView
from retrieval.index.filters import Filter

N, MORE, D, K = 3_000, 1_100, 16, 10

TEXTS = {
    **{family: family for family in INDEX_TYPES},
    "pq": "pq:pq_m=8,pq_bits=5,rescore=8",
    "ivf_pq": "ivf_pq:pq_m=8,pq_bits=5,rescore=8",
    "ivf_pq4": "ivf_pq4:pq_m=8,rescore=16",
    "opq_ivf_pq": "opq_ivf_pq:pq_m=8,pq_bits=5,rescore=8",
    "cut": "ivf_sq8:pca=12,rescore=8",
}
VECTORS: Vector = np.concatenate(list(clustered(N + MORE, D, seed=7)))
QUERIES = clustered_queries(30, D, seed=7, of=N)


pytestmark = pytest.mark.usefixtures("one_thread")


def lots(start: int, stop: int) -> list[IndexedItem]:
    return [
        IndexedItem(f"lot-{n:05}", 1, {"item_id": f"lot-{n:05}", "current_price": n % 100}, VECTORS[n]) for n in range(start, stop)
    ]


def filled(root: Path, text: str) -> EmbeddedIndex:
    store = EmbeddedStore(root, spec=embedded_spec(text))
    index = store.create("tower", D)
    index.upsert(lots(0, N))
    store.publish(index.name)
    return index


def reopened(root: Path, text: str) -> EmbeddedIndex:
    index = EmbeddedStore(root, spec=embedded_spec(text)).live()
    assert isinstance(index, EmbeddedIndex)
    return index


def recall(index: EmbeddedIndex, filters: Filter) -> float:
    """Share of the exact answer that is found; what is found has its exact cosine."""
    hits = 0
    for query in QUERIES:
        found, exact = index.semantic(query, K, filters), index.semantic(query, K, filters, exact=True)
        assert len(found) == len(exact) == K
        assert [c.score for c in found] == pytest.approx([float(VECTORS[int(c.item_id[4:])] @ query) for c in found], abs=1e-6)
        hits += len({c.item_id for c in found} & {c.item_id for c in exact})
    return hits / (K * len(QUERIES))


def saved_main(index: EmbeddedIndex, root: Path, text: str) -> AnnIndex:
    """The main segment that the index saved, mapped from its file."""
    index.refresh()
    index.semantic(QUERIES[0], 1, Filter(now=NOW))
    with closing(ItemDatabase(root / index.name / LOTS_FILE)) as database:
        return VectorView.open(database, embedded_spec(text)).vectors.main


@pytest.mark.parametrize("family", list(TEXTS))
def test_a_family_answers_as_flat_does_through_all_that_happens_to_an_index(family: str, tmp_path: Path) -> None:
    text = TEXTS[family]
    index = filled(tmp_path, text)
    main = saved_main(index, tmp_path, text)
    assert (main.spec, main.is_trained) == (embedded_spec(text).sized(N), True)
    for filters in (Filter(now=NOW), Filter(now=NOW, max_price=70), Filter(now=NOW, max_price=2)):
        assert recall(index, filters) >= 0.9
    index.upsert([Deletion("lot-00007", 2), *lots(N, N + 20)])
    assert index.semantic(VECTORS[N + 5], 1, Filter(now=NOW))[0].item_id == f"lot-{N + 5:05}"
    assert index.semantic(VECTORS[7], 1, Filter(now=NOW))[0].item_id != "lot-00007"
    index.upsert(lots(N + 20, N + MORE))
    index.prepare()
    assert len(saved_main(index, tmp_path, text)) == N + MORE
    assert recall(index, Filter(now=NOW)) >= 0.9
    index.close()
    again = reopened(tmp_path, text)
    assert len(saved_main(again, tmp_path, text)) == N + MORE
    assert recall(again, Filter(now=NOW, max_price=70)) >= 0.9
    assert again.count() == N + MORE - 1
    again.close()


@pytest.mark.parametrize("family", ["pq", "ivf_sq8", "hnsw_sq8"])
def test_a_file_that_is_damaged_short_or_of_other_codes_is_built_again_and_said_so(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = filled(tmp_path, TEXTS[family])
    index.close()
    path = tmp_path / index.name / f"{IndexSpec.parse(TEXTS[family]).index_type}.faiss"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for content in (bytes(damaged), whole[: len(whole) // 3], b""):
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again = reopened(tmp_path, TEXTS[family])
            assert recall(again, Filter(now=NOW)) >= 0.9
        assert "is not usable" in caplog.text
        again.close()
    with caplog.at_level(logging.WARNING):
        other = reopened(tmp_path, TEXTS[family].partition(":")[0] + ":pca=8,rescore=16" + ",pq_m=8,pq_bits=5" * (family == "pq"))
        assert recall(other, Filter(now=NOW)) >= 0.8
    assert ", not " in caplog.text
    other.close()


def test_what_was_saved_is_mapped_and_the_memory_goes_back(tmp_path: Path) -> None:
    for text in ("hnsw", "flat", "sq8"):
        index = filled(tmp_path / text, text)
        held = saved_main(index, tmp_path / text, text)
        with pytest.raises(AssertionError):
            held.add(VECTORS[:1])
        assert (held.take(np.array([5, 0])) == VECTORS[[5, 0]]).all()
        index.close()


def test_few_lots_are_compared_and_enough_of_them_are_trained_by_themselves(tmp_path: Path) -> None:
    spec = embedded_spec(TEXTS["pq"])
    index = EmbeddedStore(tmp_path, spec=spec).create("tower", D)
    index.upsert(lots(0, 500))
    index.prepare()
    held = saved_main(index, tmp_path, TEXTS["pq"])
    assert not held.is_trained
    assert len(held) == 500 < spec.min_to_train()
    assert recall(index, Filter(now=NOW)) == 1
    index.upsert(lots(500, N))
    index.prepare()
    index.prepare()
    trained = saved_main(index, tmp_path, TEXTS["pq"])
    assert trained.is_trained
    assert len(trained) == N >= spec.min_to_train()
    assert not trained.needs_retraining, "trained for all of them, else it would be"
    index.close()


def test_an_index_is_trained_again_when_it_has_grown_fourfold_and_not_before(tmp_path: Path) -> None:
    held = AnnIndex(D, IndexSpec.parse("ivf_sq8"), tmp_path)
    held.add(VECTORS[:1_000])
    held.train(lambda: None)
    grown = held.copy()
    grown.add(VECTORS[1_000 : RETRAIN_GROWTH * 1_000 - 1])
    assert (held.needs_retraining, grown.needs_retraining, len(held), len(grown)) == (
        False,
        False,
        1_000,
        RETRAIN_GROWTH * 1_000 - 1,
    )
    further = grown.copy()
    further.add(VECTORS[:1])
    assert further.needs_retraining


def test_lists_that_hold_too_few_for_a_search_do_not_shorten_its_answer(tmp_path: Path) -> None:
    held = AnnIndex(D, IndexSpec.parse("ivf_sq8:nlist=60,nprobe=1"), tmp_path)
    held.add(VECTORS[:N])
    held.train(lambda: None)
    assert held.is_trained
    assert len(held.search(QUERIES[0], 1_000).vector_ids) < 1_000
    assert len(held.nearest(QUERIES[0], 1_000, np.ones(N, dtype=bool), 0)) >= 1_000


def test_of_a_copy_that_was_given_up_nothing_is_left_in_the_next(tmp_path: Path) -> None:
    held = FullVectors(D, tmp_path)
    held.add(VECTORS[:10])
    given_up = held.copy()
    given_up.add(VECTORS[100:140])
    kept = held.copy()
    kept.add(VECTORS[10:30])
    assert (kept.rows(0, 30) == VECTORS[:30]).all()
    assert (held.rows(0, 30) == VECTORS[:10]).all()
    assert not list(tmp_path.iterdir())


def test_vectors_that_the_disk_does_not_take_are_an_index_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable, match="free space"):
        FullVectors(D, tmp_path / "nowhere").add(VECTORS[:1])


def test_codes_that_do_not_suit_the_vectors_are_refused_when_the_index_is_opened(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, spec=embedded_spec("pq:pq_m=5"))
    with pytest.raises(InvalidInput, match="5 equal parts"):
        store.create("tower", D)


def test_another_effort_or_another_graph_takes_the_file_that_is_there(tmp_path: Path) -> None:
    index = filled(tmp_path, "hnsw_sq8:m=8")
    index.close()
    path = tmp_path / index.name / "hnsw_sq8.faiss"
    before = path.stat().st_mtime_ns
    again = reopened(tmp_path, "hnsw_sq8:m=16,ef_search=300,rescore=4")
    assert recall(again, Filter(now=NOW)) >= 0.9
    again.close()
    assert path.stat().st_mtime_ns == before


def test_what_a_killed_process_had_written_goes_with_the_next_save(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f"flat.faiss.{pid}-1.partial" for pid in (ended.pid, os.getpid(), os.getppid())]  # that of a process that runs stays
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    with replacing(tmp_path / "flat.faiss") as partial:
        partial.write_bytes(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flat.faiss", names[2]]


@pytest.mark.parametrize("spec", ["ivf_sq8", "pq:pq_m=8,pq_bits=4"])
def test_a_writer_that_is_killed_loses_nothing_in_an_index_that_is_trained(spec: str, tmp_path: Path) -> None:
    report = KillReport("here")
    assert list(survive(tmp_path, 3, 7, report, spec)) == [1, 2, 3]
    assert report.rounds == 3


def test_the_benchmark_of_families_finds_all_in_small_indices_and_measures_each(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, "bench")
    index = store.create("tower", D)
    index.upsert(lots(0, 1_200))
    store.publish(index.name)
    index.close()
    graph, codes = measure(tmp_path, "bench", ["hnsw", "sq8"], queries=20, repetitions=2)
    assert (graph.built_s, graph.latency.searches) == (None, 40)
    assert codes.built_s is not None
    for result in (graph, codes):
        assert all(share >= 0.95 for share in result.recall.values())
        assert 0 < result.own_bytes <= result.resident_bytes
    assert codes.file_bytes >= 1_200 * (D + 4 * D + 8)


def test_a_beam_follows_the_number_of_vectors_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = faiss.SearchParametersHNSW
    monkeypatch.setattr(
        "retrieval.index.ann.vector_index._faiss.SearchParametersHNSW",
        lambda efSearch, sel: asked.append(efSearch) or real(efSearch=efSearch),
    )
    for spec in (IndexSpec("hnsw"), IndexSpec("hnsw", ef_search=77)):
        graph = AnnIndex(D, spec)
        graph.add(VECTORS[:500])
        graph.nearest(QUERIES[0], 3, np.ones(500, dtype=bool), exact_below=0)
    assert asked == [100, 77]
    beams = [IndexSpec("hnsw").ef_search_for(items) for items in (10_000, 100_000, 1_000_000)]
    assert beams == sorted(beams)
    assert beams[-1] == 550
