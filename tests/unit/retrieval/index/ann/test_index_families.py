"""Indices of every family: built from a stream, opened from the disk, searched under filters, tuned to a recall."""

import re
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from benchmarks.ann.clustered import clustered, clustered_queries
from retrieval.config.index_spec import INDEX_TYPES, IndexSpec
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.ann.build import build_index, open_index
from retrieval.index.ann.recall import exact_cut, mean_recall, recall_of, tune
from retrieval.index.ann.vector_index import AnnIndex

N, D, K = 4_000, 16, 20
TEXTS = {
    **{family: family for family in INDEX_TYPES},
    "pq": "pq:pq_m=8,pq_bits=6,rescore=4",
    "ivf": "ivf:nlist=32,nprobe=12",
    "ivf_sq8": "ivf_sq8:nlist=32,nprobe=12",
    "ivf_pq": "ivf_pq:nlist=32,nprobe=12,pq_m=8,pq_bits=6,rescore=4",
    "ivf_pq4": "ivf_pq4:nlist=32,nprobe=12,pq_m=8,rescore=4",
    "opq_ivf_pq": "opq_ivf_pq:nlist=32,nprobe=12,pq_m=8,pq_bits=6,rescore=4",
    "hnsw": "hnsw:m=8,ef_construction=64,ef_search=80",
    "hnsw_sq8": "hnsw_sq8:m=8,ef_construction=64,ef_search=80",
    "cut": "hnsw:m=8,ef_construction=64,ef_search=80,pca=12",
}
SPECS = {name: IndexSpec.parse(text) for name, text in TEXTS.items()}
SPECS["cut"] = replace(SPECS["cut"], rescore=8)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.concatenate(list(clustered(N, D, seed=7)))


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered_queries(60, D, seed=7, of=N)


@pytest.fixture(scope="module")
def indices(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnnIndex]:
    root = tmp_path_factory.mktemp("families")
    return {name: build_index(spec, np.array_split(vectors, 7), D, root / name) for name, spec in SPECS.items()}


@pytest.fixture(params=list(SPECS))
def index(request: pytest.FixtureRequest, indices: dict[str, AnnIndex]) -> AnnIndex:
    return indices[request.param]


def test_every_family_finds_most_of_the_exact_answer(index: AnnIndex, vectors: np.ndarray, queries: np.ndarray) -> None:
    cut = exact_cut(vectors, queries, K)
    assert mean_recall(index, queries, cut, K) >= 0.9


def test_slots_are_the_places_of_the_stream_and_cosines_are_exact(
    index: AnnIndex, vectors: np.ndarray, queries: np.ndarray
) -> None:
    for query in queries[:10]:
        found = index.search(query, K)
        assert len(found.vector_ids) == len(set(found.vector_ids.tolist())) == K
        assert found.cosines == pytest.approx(vectors[found.vector_ids].astype(np.float64) @ query, abs=1e-6)
        assert (np.diff(found.cosines) <= 0).all()


@pytest.mark.parametrize("share", [0.002, 0.3, 0.9])
def test_a_filter_lets_only_allowed_vectors_through_and_enough_of_them(
    index: AnnIndex, vectors: np.ndarray, queries: np.ndarray, share: float
) -> None:
    allowed = np.random.default_rng(1).random(N) < share
    cut = exact_cut(vectors[allowed], queries, min(K, int(allowed.sum())))
    recalls = []
    for query, limit in zip(queries, cut, strict=True):
        found = index.search(query, K, allowed)
        assert allowed[found.vector_ids].all()
        recalls.append(recall_of(found.cosines, limit, min(K, int(allowed.sum()))))
    assert np.mean(recalls) >= 0.9


def test_a_filter_that_nothing_passes_finds_nothing(index: AnnIndex, queries: np.ndarray) -> None:
    assert len(index.search(queries[0], K, np.zeros(N, dtype=bool)).vector_ids) == 0


def test_exact_search_agrees_with_numpy_under_a_filter(index: AnnIndex, vectors: np.ndarray, queries: np.ndarray) -> None:
    allowed = np.arange(N) % 3 == 0
    rows = np.flatnonzero(allowed)
    for query in queries[:5]:
        best = rows[np.argsort(-(vectors[rows].astype(np.float64) @ query), kind="stable")[:K]]
        assert index.search_exact(query, K, allowed).vector_ids.tolist() == best.tolist()


@pytest.mark.parametrize("name", ["flat", "hnsw", "ivf_sq8"])
def test_equal_vectors_come_in_the_order_of_their_slots(name: str, queries: np.ndarray, tmp_path: Path) -> None:
    same = np.repeat(queries[:2], 30, axis=0)
    index = build_index(replace(SPECS[name], nlist=1) if name == "ivf_sq8" else SPECS[name], [same], D, tmp_path)
    assert index.search(queries[0], 10).vector_ids.tolist() == list(range(10))


@pytest.mark.parametrize("name", list(SPECS))
def test_files_are_as_large_as_the_formulas_say(name: str, indices: dict[str, AnnIndex], vectors: np.ndarray) -> None:
    written = len(faiss.serialize_index(indices[name]._index))
    assert written == pytest.approx(indices[name].spec.index_bytes(N, D), rel=0.04)


def test_an_opened_index_is_mapped_read_only_and_answers_as_one_in_memory(
    vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    build_index(SPECS["hnsw_sq8"], [vectors], D, tmp_path)
    mapped, read = open_index(tmp_path), open_index(tmp_path, mapped=False)
    maps = [line.split()[1] for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert maps
    assert not any("w" in rights for rights in maps)
    assert mapped.search(queries[0], K).vector_ids.tolist() == read.search(queries[0], K).vector_ids.tolist()


def test_only_what_compresses_keeps_full_vectors_beside_it(vectors: np.ndarray, tmp_path: Path) -> None:
    for name, kept in (("hnsw", False), ("ivf", False), ("hnsw_sq8", True), ("cut", True)):
        build_index(SPECS[name], [vectors], D, tmp_path / name)
        assert (tmp_path / name / "vectors.f32").exists() is kept


@pytest.mark.parametrize("file", ["index.faiss", "vectors.f32", "index.json"])
@pytest.mark.parametrize("harm", ["gone", "short"])
def test_a_harmed_file_is_refused_with_its_folder_and_the_way_out(
    file: str, harm: str, vectors: np.ndarray, tmp_path: Path
) -> None:
    build_index(SPECS["ivf_sq8"], [vectors], D, tmp_path)
    path = tmp_path / file
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IndexUnavailable, match=f"{re.escape(str(tmp_path))} cannot be opened.*build it again"):
        open_index(tmp_path)


def test_a_flipped_bit_is_found_by_the_checksum(vectors: np.ndarray, tmp_path: Path) -> None:
    build_index(SPECS["sq8"], [vectors], D, tmp_path)
    bytes_ = bytearray((tmp_path / "index.faiss").read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    (tmp_path / "index.faiss").write_bytes(bytes_)
    with pytest.raises(IndexUnavailable, match="checksum"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    ("text", "batches", "named"),
    [
        ("pq:pq_m=5", [np.ones((9, D), dtype=np.float32)], "another pq_m"),
        ("flat:pca=17", [np.ones((9, D), dtype=np.float32)], "smaller pca"),
        ("flat", [], "no vector"),
        ("flat", [np.ones((9, D + 1), dtype=np.float32)], "shape"),
    ],
)
def test_what_cannot_be_built_is_refused_before_it_is(text: str, batches: list[np.ndarray], named: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=named):
        build_index(IndexSpec.parse(text), batches, D, tmp_path)


@pytest.mark.parametrize("name", ["ivf", "hnsw", "ivf_pq", "sq8"])
def test_tuning_reaches_the_recall_on_other_queries_with_less_than_all_effort(
    name: str, indices: dict[str, AnnIndex], vectors: np.ndarray, queries: np.ndarray
) -> None:
    index, cut = indices[name], exact_cut(vectors, queries, K)
    tuned = tune(index, queries[:40], cut[:40], K, 0.95)
    assert tuned.reached
    assert tuned.recall >= 0.95
    assert mean_recall(index, queries[40:], cut[40:], K, tuned.spec) >= 0.92
    assert (
        index.spec.search_effort is None
        or getattr(tuned.spec, index.spec.search_effort) < {"nprobe": 32, "ef_search": 4_096}[index.spec.search_effort]
    )


def test_tuning_says_when_no_effort_is_enough(indices: dict[str, AnnIndex], queries: np.ndarray) -> None:
    tuned = tune(indices["ivf_pq"], queries[:10], np.full(10, 1.5), K, 0.95)
    assert not tuned.reached
    assert tuned.recall == 0.0


def test_more_wanted_recall_never_takes_less_effort(indices: dict[str, AnnIndex], vectors: np.ndarray, queries: np.ndarray) -> None:
    cut = exact_cut(vectors, queries, K)
    efforts = [tune(indices["ivf"], queries, cut, K, wanted).spec.nprobe for wanted in (0.5, 0.8, 0.95, 1.0)]
    assert efforts == sorted(efforts)


def test_the_cut_is_the_cosine_of_the_kth_nearest_also_across_blocks(vectors: np.ndarray, queries: np.ndarray) -> None:
    whole = np.sort(queries @ vectors.T, axis=1)[:, -K]
    assert exact_cut(vectors, queries, K) == pytest.approx(whole, abs=1e-6)
