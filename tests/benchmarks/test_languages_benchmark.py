"""What the benchmark of two languages asks, and when its bars are passed."""

import numpy as np
import pytest
from emoji_dataset import write_dataset

from benchmarks.quality.languages import (
    BM25,
    CHANCE,
    TITLES,
    TOWER,
    compare_with_targets,
    interval,
    measure,
    rank_by_chance,
    rank_by_words,
    read_corpora,
    summarise,
)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emoji")
    return read_corpora(write_dataset(folder / "data"), folder / "catalogs", "test", seed=7)[1]


def test_lots_are_searched_in_each_listing_and_by_their_names_alone(corpora):
    assert [corpus.listing for corpus in corpora] == ["en", "ar", "either", f"{TITLES}, en", f"{TITLES}, ar"]
    assert all(len(corpus.lots.ids) == 20 for corpus in corpora)
    english = corpora[3]
    assert all(text.startswith("Face") for text in english.lots.texts)
    assert all(text.startswith("grin") for text in english.qrels.queries.values())  # names are asked for nowhere here


def test_in_one_language_a_query_stands_in_its_lot_and_words_find_it(corpora):
    english, arabic = corpora[:2]
    found = measure(english, {BM25: rank_by_words(english)}) | measure(arabic, {BM25: rank_by_words(arabic)})
    assert found[BM25, "en", "en"].mean() == found[BM25, "ar", "ar"].mean() == 1


def test_a_random_order_has_every_lot_and_its_own_seed(corpora):
    one, other = rank_by_chance(corpora[0], 7), rank_by_chance(corpora[0], 8)
    assert all(sorted(run) == sorted(corpora[0].lots.ids) for run in one.values())
    assert one != other


def values(arabic, english, across, chance):
    found = {(TOWER, "ar", "ar"): arabic, (TOWER, "en", "en"): english, (TOWER, "ar", "en"): across, (CHANCE, "ar", "en"): chance}
    return {key: np.full(50, value) for key, value in found.items()}


@pytest.mark.parametrize(
    ("figures", "passed"),
    [((0.6, 0.64, 0.2, 0.01), [True, True]), ((0.6, 0.66, 0.2, 0.01), [False, True]), ((0.7, 0.6, 0.09, 0.01), [True, False])],
)
def test_the_bars_are_five_points_and_ten_times(figures, passed):
    assert [bar["passed"] for bar in compare_with_targets([values(*figures)]).values()] == passed


def test_an_interval_holds_the_mean_and_narrows_with_queries():
    random = np.random.default_rng(1)
    few, many = (random.random((3, size)) < 0.4 for size in (20, 2_000))
    for rows in (few, many):
        low, high = interval(list(rows.astype(float)))
        assert low < rows.mean() < high
    assert np.ptp(interval(list(many.astype(float)))) < np.ptp(interval(list(few.astype(float))))
    low, high = interval([np.ones(5)], minus=[np.zeros(9)])
    assert low == high == 1


def test_the_table_has_spread_over_seeds_and_counts_queries():
    runs = [values(0.5, 0.5, 0.1, 0.01), values(0.7, 0.5, 0.1, 0.01)]
    cell = summarise(runs)[f"{TOWER} | ar | ar"]
    assert (cell["mean"], cell["queries"]) == (pytest.approx(0.6), 100)
    assert cell["sd"] == pytest.approx(0.1414, abs=1e-3)
