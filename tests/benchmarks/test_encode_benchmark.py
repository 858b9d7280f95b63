"""`gavel bench encode`: three ways from a text to a vector, on the same queries."""

import pytest

from benchmarks.speed.encode import INT8, SMALL, TORCH, run_benchmark
from retrieval.contracts.tower_card import QUERY_TOWER_FILE, SMALL_QUERY_TOWER_FILE


def test_all_three_are_measured_against_torch() -> None:
    marks = []
    result = run_benchmark("compact", tokens=3, rounds=2, progress=lambda done, total: marks.append((done, total)))
    assert list(result.encoders) == [TORCH, INT8, SMALL]
    assert result.encoders[TORCH].ratio == result.encoders[TORCH].cpu_ratio == 1.0
    for encoder in result.encoders.values():
        assert 0 < encoder.latency.p50_ms <= encoder.latency.p99_ms
        assert encoder.latency.searches % 2 == 0
    assert result.encoders[SMALL].ratio == pytest.approx(
        result.encoders[TORCH].latency.p50_ms / result.encoders[SMALL].latency.p50_ms, rel=0.9
    )
    assert result.bytes[QUERY_TOWER_FILE] > 1e6
    assert result.bytes[SMALL_QUERY_TOWER_FILE] > 1e6
    assert marks[-1] == (2, 2)
    assert result.to_dict()["encoders"][SMALL]["latency"]["p50_ms"] > 0
