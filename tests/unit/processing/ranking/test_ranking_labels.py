"""What a re-ranker learns from: grades, and clicks freed of their positions."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.clicks import POSITION_BIAS_EXPONENT, simulate_clicks
from catalog.folder import Click, Qrels
from catalog.lots import draw_lots
from catalog.questions import draw_questions
from processing.ranking.labels import (
    MAX_POSITION_BIAS_EXPONENT,
    MIN_PROPENSITY,
    clicked_gains,
    judged_gains,
    position_bias,
    propensity,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def click(item: str = "1", position: int = 1, event: str | None = None, query: str = "vase") -> Click:
    return Click(query, item, position, event, "ann", NOON)


def clicks_at(position: int, clicked: int, shown: int, item: str = "1") -> list[Click]:
    return [click(item, position, "view" if n < clicked else None) for n in range(shown)]


def test_the_fall_by_which_simulated_buyers_stop_looking_is_found_again() -> None:
    lots = draw_lots(800, np.random.default_rng([1, 0]), NOON)
    asked = draw_questions(lots, {"train": 900}, np.random.default_rng([1, 1]))["train"]
    clicks = simulate_clicks([q for q in asked if q.grades], lots, np.random.default_rng([1, 2]), NOON)
    assert position_bias(clicks) == pytest.approx(POSITION_BIAS_EXPONENT, abs=0.06)


def test_one_lot_at_two_positions_tells_the_fall_and_its_relevance_does_not_matter() -> None:
    twice_as_often_at_the_top = [*clicks_at(1, 40, 100), *clicks_at(2, 20, 100)]
    and_one_that_is_rarely_wanted = [*clicks_at(1, 4, 100, "2"), *clicks_at(2, 2, 100, "2")]
    assert position_bias(twice_as_often_at_the_top) == pytest.approx(1.0, abs=0.01)
    assert position_bias(twice_as_often_at_the_top + and_one_that_is_rarely_wanted) == pytest.approx(1.0, abs=0.01)


def test_buyers_who_look_everywhere_have_no_position_bias() -> None:
    assert position_bias([*clicks_at(1, 20, 100), *clicks_at(9, 20, 100)]) == 0.0


@pytest.mark.parametrize("clicks", [[], [click(event="view"), click("2", 2)], [*clicks_at(1, 0, 5), *clicks_at(2, 0, 5)]])
def test_where_nothing_was_shown_at_two_positions_or_nothing_clicked_the_fall_is_not_known(clicks: list[Click]) -> None:
    assert position_bias(clicks) is None


def test_a_click_far_down_counts_for_those_who_did_not_look_there() -> None:
    shown = [click("top", 1, "view"), click("top", 1), click("deep", 4, "view"), click("deep", 4), click("never", 2)]
    assert clicked_gains(shown) == {"vase": {"top": 0.5, "deep": 0.5, "never": 0.0}}
    assert clicked_gains(shown, position_bias_exponent=0.5) == {"vase": {"top": 0.5, "deep": 1.0, "never": 0.0}}


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0, MAX_POSITION_BIAS_EXPONENT))
def test_a_propensity_is_a_chance_that_never_grows_with_the_position(one: int, other: int, position_bias_exponent: float) -> None:
    above, below = sorted((one, other))
    assert (
        MIN_PROPENSITY
        <= propensity(below, position_bias_exponent)
        <= propensity(above, position_bias_exponent)
        <= 1
        == propensity(1, position_bias_exponent)
    )


def test_grades_are_gains_as_they_are_under_the_query_s_text() -> None:
    qrels = Qrels({"q1": "red vase"}, {"q1": {"a": 3, "b": 0}})
    assert judged_gains(qrels) == {"red vase": {"a": 3.0, "b": 0.0}}
