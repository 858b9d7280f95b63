"""Reciprocal rank fusion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.fuse import reciprocal_rank_fusion

rankings = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4)


def test_a_lot_that_both_lists_rank_first_wins() -> None:
    fused = reciprocal_rank_fusion([["a", "b"], ["a", "c"]], k=60)
    assert fused[0] == ("a", pytest.approx(2 / 61))


def test_equal_scores_come_by_item_id() -> None:
    assert [item for item, _ in reciprocal_rank_fusion([["b"], ["a"]])] == ["a", "b"]


@given(rankings)
def test_every_lot_comes_out_once_with_a_score_in_range(lists: list[list[str]]) -> None:
    fused = reciprocal_rank_fusion(lists)
    assert sorted(item for item, _ in fused) == sorted({item for ranking in lists for item in ranking})
    assert all(0 < score <= len(lists) / 61 for _, score in fused)


@given(rankings)
def test_the_order_of_the_lists_does_not_matter(lists: list[list[str]]) -> None:
    forward, backward = reciprocal_rank_fusion(lists), reciprocal_rank_fusion(lists[::-1])
    assert dict(forward) == pytest.approx(dict(backward))
