"""Searches under filters: what they find, and the benchmark that measures it."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.ann.data import synthetic_vectors
from benchmarks.ann.filtered import FilteredResult, run_benchmark
from benchmarks.ann.filters import KINDS, Filters
from gavel.cli.main import app
from retrieval.contracts.documents import Vector
from retrieval.index.ann.inner_products import inner_products
from retrieval.index.ann.vector_index import AnnIndex, estimate_pass_share

LOTS, D = 6_000, 16
GRAPH = "hnsw:m=8,ef_construction=64,ef_search=40"
LISTS = "ivf_sq8:nlist=64,nprobe=24"
SHARES = (0.9, 0.5, 0.01)


@pytest.fixture(scope="module")
def drawn() -> tuple[Vector, Vector]:
    return synthetic_vectors(D, 12, 7)[1](LOTS)


@pytest.fixture(scope="module")
def measured(drawn: tuple[Vector, Vector], tmp_path_factory: pytest.TempPathFactory) -> FilteredResult:
    folder = tmp_path_factory.mktemp("filters")
    return run_benchmark("test", *drawn, folder, specs=(GRAPH, LISTS), fractions=SHARES)


def test_a_filter_lets_its_share_through_wherever_it_lies(drawn: tuple[Vector, Vector]) -> None:
    vectors, queries = drawn
    filters = Filters(vectors)
    nearest = {kind: float((vectors[filters.draw(kind, 0.1, queries[0])] @ queries[0]).max()) for kind in KINDS}
    assert nearest["own"] > nearest["independent"] > nearest["other"] > nearest["opposite"]
    for kind in KINDS:
        assert [np.count_nonzero(filters.draw(kind, share, queries[0])) for share in (1.0, 0.25, 1 / LOTS)] == [LOTS, LOTS / 4, 1]


@pytest.mark.parametrize("system", ["gavel hnsw", "gavel ivf_sq8", "embedded"])
def test_no_filter_costs_more_than_a_twentieth_of_the_recall_without_one(measured: FilteredResult, system: str) -> None:
    for k in (10, 50):
        without = measured.row(system, "none", 1.0, k).recall
        assert without > 0.95
        for kind in KINDS:
            for share in SHARES:
                assert measured.row(system, kind, share, k).recall >= 0.95 * without, (kind, share, k)


def test_plain_faiss_loses_what_lies_far_from_the_query(measured: FilteredResult) -> None:
    assert measured.row("faiss hnsw", "opposite", 0.5, 50).recall < 0.9
    assert measured.row("afterwards", "opposite", 0.01, 50).recall < 0.5
    assert measured.row("exact", "opposite", 0.5, 50).recall == 1.0


def test_inner_products_are_those_of_numpy_at_any_address() -> None:
    rng = np.random.default_rng(7)
    held = np.zeros(50 * D * 4 + 2, dtype=np.uint8)
    odd = held[2:].view("<f4").reshape(50, D)
    odd[:] = rng.standard_normal((50, D))
    query, slots = rng.standard_normal(D).astype(np.float32), np.array([3, 3, 49, 0])
    assert not odd.flags.aligned
    assert inner_products(odd, query) == pytest.approx(odd.copy() @ query, abs=1e-5)
    assert inner_products(odd, query, slots) == pytest.approx(odd.copy()[slots] @ query, abs=1e-5)
    assert inner_products(odd, query, slots[:0]).shape == (0,)


def test_the_share_near_a_query_is_that_of_its_neighbours_and_never_nothing() -> None:
    allowed = np.array([True] * 10 + [False] * 90)
    assert estimate_pass_share(np.arange(20), allowed, 0.1) == pytest.approx(10.1 / 21)
    assert 0 < estimate_pass_share(np.arange(50, 70), allowed, 0.1) < 0.01


def test_neighbours_that_pass_are_the_answer_without_a_second_search(drawn: tuple[Vector, Vector]) -> None:
    vectors, queries = drawn
    graph = AnnIndex(D)
    graph.add(vectors)
    allowed = vectors @ queries[0] > np.quantile(vectors @ queries[0], 0.4)  # all that is near to the query
    found = graph.nearest(queries[0], 10, allowed, exact_below=0)
    best = np.flatnonzero(allowed)[np.argsort(-(vectors[allowed] @ queries[0]))[:10]]
    assert set(best) <= set(found.tolist())


def test_gavel_bench_filters_prints_json_and_draws_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    small = ["--lots", "1000", "--dimensions", "8", "--queries", "3", "--spec", "hnsw:m=4,ef_construction=16", "--share", "0.5"]
    told = CliRunner().invoke(app, ["bench", "filters", *small, "--json"])
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    assert {row["kind"] for row in said["rows"]} == {"none", *KINDS}
    assert Path(said["plot"]).read_bytes().startswith(b"\x89PNG")
