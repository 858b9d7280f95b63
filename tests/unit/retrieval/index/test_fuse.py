"""Fusion by reciprocal rank and by weighted, normalised scores."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidQuery
from retrieval.index.fusion import FUSION_KINDS, Fusion, FusionKind, Scored, fuse, reciprocal_rank_fusion

rankings = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4)


def scored_lists(least: float, most: float) -> st.SearchStrategy[list[tuple[str, float]]]:
    """Lists of (item_id, score), best first."""
    scores = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(least, most))
    return scores.map(lambda found: sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


KEYWORD: Scored = [("a", 12.0), ("b", 6.0), ("c", 2.0)]
SEMANTIC: Scored = [("c", 0.8), ("d", 0.4), ("a", 0.2)]


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


def test_equal_weights_are_plain_reciprocal_ranks() -> None:
    plain = reciprocal_rank_fusion([["a", "b", "c"], ["c", "d", "a"]])
    assert fuse(KEYWORD, SEMANTIC, Fusion()) == plain
    assert fuse(KEYWORD, SEMANTIC, Fusion(weights=(3, 3))) == plain


def test_min_max_puts_each_list_between_nearly_nothing_and_one() -> None:
    expected = {"a": 0.6 * 1 + 0.4 * 0.001, "b": 0.6 * 0.4, "c": 0.6 * 0.001 + 0.4 * 1, "d": 0.4 / 3}
    assert dict(fuse(KEYWORD, SEMANTIC, Fusion("min_max", (0.6, 0.4)))) == pytest.approx(expected, abs=1e-6)


def test_l2_gives_each_list_unit_length_with_cosines_as_the_engine_scores_them() -> None:
    bm25, cosine = math.sqrt(12**2 + 6**2 + 2**2), math.sqrt(0.9**2 + 0.7**2 + 0.6**2)
    expected = {"a": 6 / bm25 + 0.3 / cosine, "b": 3 / bm25, "c": 1 / bm25 + 0.45 / cosine, "d": 0.35 / cosine}
    assert dict(fuse(KEYWORD, SEMANTIC, Fusion("l2"))) == pytest.approx(expected, abs=1e-6)


@given(scored_lists(0.01, 50), scored_lists(-1, 1), st.sampled_from(FUSION_KINDS), st.floats(0.05, 0.95), st.floats(0.5, 3))
def test_every_lot_of_either_list_comes_once_whatever_the_scale_of_bm25(
    keyword: Scored, semantic: Scored, kind: FusionKind, share: float, factor: float
) -> None:
    fusion = Fusion(kind, (share, 1 - share))
    fused = fuse(keyword, semantic, fusion)
    assert sorted(item for item, _ in fused) == sorted({item for item, _ in (*keyword, *semantic)})
    assert fused == sorted(fused, key=lambda pair: (-pair[1], pair[0]))
    assert all(0 <= score <= 1 + 1e-9 for _, score in fused)
    scaled = fuse([(item, factor * score) for item, score in keyword], semantic, fusion)
    assert dict(scaled) == pytest.approx(dict(fused), abs=2e-6)


def test_a_list_of_one_score_is_all_best() -> None:
    assert fuse([("a", 3.0), ("b", 3.0)], [], Fusion("min_max")) == [("a", 0.5), ("b", 0.5)]


@pytest.mark.parametrize("kind", FUSION_KINDS)
def test_two_empty_lists_make_an_empty_one(kind: FusionKind) -> None:
    assert fuse([], [], Fusion(kind)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rrf", Fusion()),
        ("min_max:0.7,0.3", Fusion("min_max", (0.7, 0.3))),
        (" l2:2,1", Fusion("l2", (2.0, 1.0))),
    ],
)
def test_a_fusion_is_read_from_a_kind_and_its_weights(text: str, expected: Fusion) -> None:
    assert Fusion.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "sum", "rrf:", "min_max:1", "min_max:1,2,3", "l2:a,b", "l2:-1,2", "l2:0,0", "l2:nan,1", "l2:inf,1", "min_max 1 2"],
)
def test_a_fusion_that_makes_no_sense_is_an_invalid_query(text: str) -> None:
    with pytest.raises(InvalidQuery):
        Fusion.parse(text)


@pytest.mark.parametrize("constant", [0, -1, 10_001])
def test_a_rank_constant_has_limits(constant: int) -> None:
    with pytest.raises(InvalidQuery, match="rank constant"):
        Fusion(rank_constant=constant)
