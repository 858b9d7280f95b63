"""The sweep of vector indices: real processes, few vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.ann.benchmark import run_benchmark
from benchmarks.ann.candidates import CandidateIndex, candidate_indices
from benchmarks.ann.clustered import clustered, clustered_queries
from benchmarks.ann.data import synthetic_vectors
from benchmarks.ann.plot import pareto_front
from benchmarks.ann.targets import AnnResult, IndexResult, Point, exponent
from gavel.cli.main import app
from retrieval.config.index_spec import IndexSpec
from retrieval.errors import InvalidInput
from retrieval.index.ann.advice import Calibration

GRAPH = IndexSpec.parse("hnsw:m=8,ef_construction=64")


def index_result(name: str, items: int, *points: Point, build_s: float | None = 1.0, file_bytes: int = 1_000) -> IndexResult:
    library, family = name.split()
    return IndexResult(name, library, family, items, 10, build_s, build_s, file_bytes, 0.1, 2_000, 1_000, points)


def point(effort: int, recall: float, p50: float) -> Point:
    return Point(effort, recall, p50, 2 * p50, (p50, p50, p50), p50)


def test_clustered_vectors_are_the_same_for_a_seed_of_unit_length_and_not_among_the_queries() -> None:
    first, again = (np.concatenate(list(clustered(2_000, 16, 7))) for _ in range(2))
    queries = clustered_queries(50, 16, 7, of=2_000)
    assert (first == again).all()
    assert np.linalg.norm(first, axis=1) == pytest.approx(np.ones(2_000), abs=1e-5)
    assert (queries @ first.T).max() < 0.99999
    assert (queries @ first.T).max(axis=1).mean() > 0.7


def test_libraries_are_measured_at_equal_parameters_and_agree_on_recall(tmp_path: Path) -> None:
    vectors, queries = synthetic_vectors(16, 30, 7)[1](2_000)
    chosen = [CandidateIndex(library, GRAPH) for library in ("gavel", "faiss", "hnswlib", "usearch")]
    measured = run_benchmark(vectors, queries, chosen, tmp_path, rounds=2)
    assert [seen.library for seen in measured] == ["gavel", "faiss", "hnswlib", "usearch"]
    for seen in measured:
        assert [point.effort for point in seen.points] == [64, 100, 200, 400, 600, 800]
        assert seen.points[-1].recall > 0.98
        assert seen.resident_bytes > 0
        assert all(len(point.p50_rounds_ms) == 2 for point in seen.points)
    assert measured[1].build_s is None
    assert measured[1].file_bytes == measured[0].file_bytes


def test_rivals_stand_beside_what_they_can_build() -> None:
    made = [
        (one.library, one.spec.index_type)
        for one in candidate_indices([IndexSpec("flat"), IndexSpec("hnsw"), IndexSpec("hnsw", pca=64)])
    ]
    assert made.count(("faiss", "hnsw")) == 2
    assert [library for library, family in made if family == "flat"] == ["gavel", "faiss"]
    assert [library for library, _ in made].count("hnswlib") == 1


def test_specs_of_one_family_are_told_apart_by_their_parameters() -> None:
    specs = [IndexSpec.parse(text) for text in ("hnsw:m=8", "hnsw:m=16", "sq8")]
    names = [one.name for one in candidate_indices(specs, ("faiss",))]
    assert len(set(names)) == 6
    assert names[-2:] == ["gavel sq8", "faiss sq8"]


def test_an_index_is_taken_from_an_earlier_run_of_the_same_vectors_alone(tmp_path: Path) -> None:
    vectors, queries = synthetic_vectors(16, 20, 7)[1](1_000)
    one = [CandidateIndex("gavel", GRAPH)]
    first = run_benchmark(vectors, queries, one, tmp_path, rounds=1)
    wider = [CandidateIndex("gavel", GRAPH.at(300))]  # the same files
    again = run_benchmark(vectors, queries, wider, tmp_path, rounds=1, reuse=True)
    assert [seen.build_s for seen in again] == [seen.build_s for seen in first]
    built = tmp_path / one[0].folder / "index.faiss"
    before = built.stat().st_mtime_ns
    run_benchmark(vectors[::-1].copy(), queries, one, tmp_path, rounds=1, reuse=True)
    assert built.stat().st_mtime_ns > before


def test_the_bars_are_read_at_the_quickest_point_of_enough_recall() -> None:
    ours = index_result("gavel hnsw", 100, point(100, 0.98, 1.0), point(200, 0.992, 2.1), file_bytes=6_000)
    plain = index_result("faiss hnsw", 100, point(100, 0.98, 0.9), point(200, 0.992, 2.0), build_s=None)
    small = index_result("gavel ivf_sq8", 100, point(8, 0.9, 0.1), point(16, 0.975, 0.3), file_bytes=1_200)
    bars = AnnResult("test", (ours, plain, small), "here").targets()
    assert bars["hnsw"] == {
        "ef_search": 200,
        "recall": 0.992,
        "p50_ms": 2.1,
        "p50_over_faiss": 1.05,
        "resident_gb": 0.0,
    }
    assert bars["quantised"]["name"] == "gavel ivf_sq8"
    assert bars["quantised"]["share_of_float32"] == 0.3


def test_exponents_are_the_slopes_between_sizes() -> None:
    assert exponent([(10, 2.0), (100, 20.0), (1_000, 200.0)]) == 1.0
    sizes = [index_result("gavel flat", n, point(0, 1.0, n / 50), build_s=n**0.5, file_bytes=n) for n in (100, 10_000)]
    assert AnnResult("test", tuple(sizes), "here").exponents() == {
        "gavel flat": {"build_cpu_s": 0.5, "file_bytes": 1.0, "p50_ms": 1.0}
    }


def test_the_front_holds_what_nothing_else_beats() -> None:
    best = [point(1, 0.9, 0.1), point(2, 0.95, 0.2), point(3, 0.99, 0.9)]
    worse = [point(1, 0.9, 0.2), point(2, 0.94, 0.3), point(3, 0.985, 1.0)]
    assert pareto_front([*worse, *best]) == best


def test_gavel_bench_ann_prints_json_draws_a_picture_and_writes_a_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    sizes = ["--sizes", "1000,2000", "--dimensions", "16", "--queries", "20", "--rounds", "1", "--rival", "faiss"]
    wanted = ["--spec", "sq8", "--calibration", str(tmp_path / "table.json"), "--json"]
    told = CliRunner().invoke(app, ["bench", "ann", *sizes, *wanted])
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    assert [(seen["name"], seen["items"]) for seen in said["standings"]] == [
        (name, items) for items in (1_000, 2_000) for name in ("gavel sq8", "faiss sq8")
    ]
    assert Path(said["plot"]).read_bytes().startswith(b"\x89PNG")
    assert {row.items for row in Calibration.load(tmp_path / "table.json").measured} == {1_000, 2_000}


@pytest.mark.parametrize("wrong", [["--rival", "annoy"], ["--sizes", "many"], ["--spec", "tree"]])
def test_what_cannot_be_measured_is_refused_before_anything_is_built(
    wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    told = CliRunner().invoke(app, ["bench", "ann", *wrong])
    assert isinstance(told.exception, InvalidInput)
    assert list(tmp_path.iterdir()) == []
