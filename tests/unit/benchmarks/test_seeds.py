"""Mean and spread over seeds."""

from benchmarks.quality.seeds import summarise


def test_a_cell_is_the_mean_with_the_sample_deviation_over_the_seeds() -> None:
    runs = [{"hybrid": {"recall@10": value}} for value in (0.2, 0.3, 0.4)]
    assert summarise(runs) == {"hybrid": {"recall@10": "0.300 ± 0.100"}}
