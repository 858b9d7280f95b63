"""The benchmarks of the re-ranker: what is timed, and what is made of the folds."""

import os

import numpy as np
import pytest

from benchmarks.quality import chorus_reranker
from benchmarks.quality.chorus_reranker import BM25, HYBRID, RERANKED, lead
from benchmarks.speed import rerank


def run(values: dict[str, list[float]]) -> chorus_reranker.PerQuery:
    return {way: {"ndcg@10": {f"q{n}": value for n, value in enumerate(of_way)}} for way, of_way in values.items()}


def test_a_lead_is_paired_by_query_over_the_mean_of_the_seeds_and_held_against_both_bars() -> None:
    base = {BM25: [0.70] * 6, HYBRID: [0.72, 0.74] * 3}
    made = lead([run(base | {RERANKED: [0.80] * 6}), run(base | {RERANKED: [0.78] * 6})], HYBRID)
    assert made["new"] == pytest.approx(0.79)
    assert made["difference"] == pytest.approx(0.06)
    assert made["wins"] == 6
    assert (made["bar_on_the_mark"], made["bar_on_this_run"]) == (True, True)
    assert not lead([run(base | {RERANKED: [0.775] * 6})], HYBRID)["bar_on_this_run"]


def test_re_ranking_is_timed_in_process_and_through_a_server_that_scores_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(rerank, "LOTS", 300)
    monkeypatch.setattr(rerank, "QUERIES", 4)
    monkeypatch.setattr(rerank, "ROUNDS", 5)
    monkeypatch.delenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", raising=False)
    result = rerank.run_benchmark(candidates=20, repetitions=1)
    assert 0 < result.features.p50_ms <= result.features.p99_ms
    assert result.server.searches == result.in_process.searches == result.features.searches
    assert min(result.in_process_cpu_ms, result.server_cpu_ms) > 0
    assert "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME" not in os.environ
    asked = next(rerank.ask(tmp_path / "index", 20))
    features = rerank.features_of(asked)
    assert features.shape[0] == len(asked.candidates) == 20
    assert np.isfinite(features[:, rerank.FEATURES.index("keyword_rank")]).any()
