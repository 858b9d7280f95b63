"""The ceiling of generated users and items: the true tastes find more than the tables say of them, and these more than chance."""

from pathlib import Path

from benchmarks.quality.users_items_ceiling import measure
from catalog.interactions import generate


def test_no_ranking_finds_more_than_that_of_the_true_tastes(tmp_path: Path) -> None:
    recall = measure(generate(tmp_path / "set", users=200, items=2000, per_user=20, seed=4), 200)
    assert recall["true tastes"]["recall@100"] > recall["tables alone"]["recall@100"] + 0.1
    assert recall["tables alone"]["recall@100"] > 3 * 100 / 2000
