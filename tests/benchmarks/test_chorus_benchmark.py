"""The chorus benchmark: what it makes of the seeds."""

import pytest

from benchmarks.measurement import mean_and_sd_of_runs
from benchmarks.quality.chorus import MEASURES


def test_a_way_that_one_seed_measured_has_no_spread_and_the_others_have() -> None:
    found = [dict.fromkeys(MEASURES, value) for value in (0.2, 0.3, 0.4)]
    runs = [{"BM25": found[0], "zero-shot": found[0], "hybrid": found[0]}, {"hybrid": found[1]}, {"hybrid": found[2]}]
    table = mean_and_sd_of_runs(runs)
    assert list(table) == ["BM25", "zero-shot", "hybrid"]
    assert table["zero-shot"]["recall@50"] == (0.2, 0.0)
    assert table["hybrid"]["recall@50"] == pytest.approx((0.3, 0.1))
