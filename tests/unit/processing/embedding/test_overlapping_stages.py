"""Stages that run at the same time: order, errors, and what is left running when nobody wants the rest."""

import threading
import time
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.embedding.prefetch import Stopwatch, prefetch


@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_items_made_ahead_come_out_whole_and_in_order(items, depth):
    assert list(prefetch(items, depth)) == items


def test_the_next_item_is_made_while_this_one_is_used():
    made = []

    def source():
        for number in range(3):
            made.append(number)
            yield number

    with closing(prefetch(source(), 1)) as stream:
        assert next(stream) == 0
        deadline = time.monotonic() + 10
        while len(made) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert made[:2] == [0, 1]


def test_an_error_of_the_source_is_raised_where_its_items_are_used():
    def source():
        yield 1
        raise ValueError("the second is broken")

    stream = prefetch(source(), 2)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="the second is broken"):
        next(stream)


def test_a_source_that_nobody_wants_any_more_is_closed_in_its_own_thread():
    closed = []

    def source():
        try:
            while True:
                yield threading.get_ident()
        finally:
            closed.append(threading.get_ident())

    stream = prefetch(source(), 1)
    thread = next(stream)
    stream.close()
    assert closed == [thread]
    assert thread != threading.get_ident()


def test_a_stopwatch_adds_up_the_busy_time_of_a_stage_over_threads():
    watch = Stopwatch()
    threads = [threading.Thread(target=watch.add, args=("decode", 0.5)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with watch.time("write"):
        time.sleep(0.01)
    assert watch.seconds["decode"] == 4.0
    assert watch.seconds["write"] >= 0.01
