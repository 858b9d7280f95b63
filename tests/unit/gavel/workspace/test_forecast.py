"""The time that is left in all phases of a run, at the speed that was measured so far."""

import pytest

from gavel.workspace.forecast import Forecast, duration_words


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_rest_is_told_at_the_measured_speed():
    clock = Clock()
    forecast = Forecast({"encode": 100, "learn": 50, "index": 10}, clock)
    assert forecast.remaining() == 160
    with forecast:
        step = forecast("encode")
        clock.now = 60.0
        step(1, 4)  # a quarter of the expected 100 s took 60 s: 2.4 times as long
        assert forecast.remaining() == pytest.approx(2.4 * (75 + 50 + 10))
        clock.now = 240.0
        step(4, 4)
        forecast("learn")
        assert forecast.remaining() == pytest.approx(2.4 * 60)
        clock.now = 360.0
        forecast.finish()
        assert forecast.remaining() == pytest.approx(2.4 * 10)


def test_what_an_earlier_run_finished_takes_no_time():
    forecast = Forecast({"encode": 100, "index": 10}, Clock())
    forecast.skip("encode")
    assert forecast.remaining() == 10


def test_a_phase_that_was_not_expected_is_shown_all_the_same():
    with Forecast({"index": 10}, Clock()) as forecast:
        forecast("encode")(1, 2)
        assert forecast.remaining() == 10


@pytest.mark.parametrize(("seconds", "words"), [(0, "5 s"), (42, "40 s"), (70, "1 min"), (600, "10 min"), (7_200, "2.0 h")])
def test_durations_are_rounded_to_what_an_estimate_can_tell(seconds, words):
    assert duration_words(seconds) == words
