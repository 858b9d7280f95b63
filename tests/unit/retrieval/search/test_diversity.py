"""Diversity of a ranked list: maximal marginal relevance, and the cap a label."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidQuery
from retrieval.index.port import Candidate
from retrieval.search.diversification import Diversity, diversify

EAST, NORTH = np.eye(2, dtype=np.float32)


def candidate(vector: np.ndarray = EAST, **document: Any) -> Candidate:
    return Candidate("a", 0.5, document, vector)


@st.composite
def ranked_lists(draw: st.DrawFn) -> tuple[list[Candidate], np.ndarray]:
    """Up to twenty lots of four brands, one of them nameless, with scores of which some are equal."""
    brands = draw(st.lists(st.sampled_from(["", "Acme", "acme", "Bolt", "Cog"]), max_size=20))
    rng = np.random.default_rng(draw(st.integers(0, 1_000)))
    vectors = rng.normal(size=(len(brands), 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lots = [candidate(vector, **({"brand": brand} if brand else {})) for vector, brand in zip(vectors, brands, strict=True)]
    return lots, rng.integers(-3, 4, size=len(lots)).astype(np.float32)


strengths = st.floats(0, 1)
caps = st.one_of(st.none(), st.integers(1, 4))


@given(ranked_lists(), strengths, caps)
def test_no_lot_is_lost_or_doubled_and_the_best_stays_first(ranked: Any, strength: float, cap: int | None) -> None:
    lots, scores = ranked
    order = diversify(lots, scores, Diversity(strength, cap))
    assert sorted(order) == list(range(len(lots)))
    assert not order or order[0] == int(np.argmax(scores))


@given(ranked_lists())
def test_without_diversity_the_order_is_that_of_the_scores_and_ties_keep_their_places(ranked: Any) -> None:
    lots, scores = ranked
    assert diversify(lots, scores, Diversity()) == np.argsort(-scores, kind="stable").tolist()


@given(ranked_lists(), strengths, st.integers(1, 4))
def test_a_label_has_its_places_and_no_more_before_all_that_have_not(ranked: Any, strength: float, cap: int) -> None:
    lots, scores = ranked
    labels = [c.document.get("brand", "").lower() for c in lots]
    within = sum(count if label == "" else min(count, cap) for label, count in Counter(labels).items())
    head = Counter(labels[n] for n in diversify(lots, scores, Diversity(strength, cap))[:within])
    assert all(count <= cap for label, count in head.items() if label)


@given(ranked_lists(), strengths, caps, st.floats(0.1, 50), st.floats(-20, 20))
def test_the_scale_of_the_scores_does_not_matter(ranked: Any, strength: float, cap: int | None, factor: float, more: float) -> None:
    lots, scores = ranked
    scaled = (scores * factor + more).astype(np.float32)
    for wanted in (Diversity(0.0, cap), Diversity(1.0, cap)):
        assert diversify(lots, scaled, wanted) == diversify(lots, scores, wanted)


@given(ranked_lists(), strengths)
def test_every_place_goes_to_the_lot_of_the_highest_marginal_relevance(ranked: Any, strength: float) -> None:
    lots, scores = ranked
    order = diversify(lots, scores, Diversity(strength))
    spread = float(np.ptp(scores)) if len(lots) else 1.0
    relevance = (scores - scores.min()) / (spread or 1.0) if len(lots) else scores

    def value(lot: int, above: list[int]) -> float:
        likest = max(float(lots[lot].vector @ lots[other].vector) for other in above)
        return float((1 - strength) * relevance[lot] - strength * likest)

    for place in range(1, len(order)):
        above, below = order[:place], order[place:]
        assert value(order[place], above) >= max(value(lot, above) for lot in below) - 1e-5


def test_a_lot_like_the_first_gives_way_to_one_that_is_not() -> None:
    lots, scores = [candidate(EAST), candidate(EAST), candidate(NORTH)], np.float32([1.0, 0.9, 0.5])
    assert diversify(lots, scores, Diversity(0.2)) == [0, 1, 2]
    assert diversify(lots, scores, Diversity(0.5)) == [0, 2, 1]


def test_a_lot_past_the_cap_of_its_brand_or_seller_comes_after_the_others() -> None:
    lots = [candidate(brand="Acme", seller="x"), candidate(brand="ACME", seller="y"), candidate(brand="Bolt", seller="x")]
    scores = np.float32([3, 2, 1])
    assert diversify(lots, scores, Diversity(most_per_brand=1)) == [0, 2, 1]
    assert diversify(lots, scores, Diversity(most_per_seller=1)) == [0, 1, 2]
    assert diversify(lots, scores, Diversity(most_per_brand=2)) == [0, 1, 2]
    lots = [candidate(brand="Cafe\u0301"), candidate(brand="CAF\u00c9"), candidate(brand="Ca\u00adfe")]
    assert diversify(lots, scores, Diversity(most_per_brand=1)) == [0, 2, 1], "one brand, composed or not"


def test_both_caps_hold_at_once() -> None:
    pairs = [("Acme", "x"), ("Bolt", "x"), ("Acme", "y"), ("Cog", "z")]
    lots = [candidate(brand=brand, seller=seller) for brand, seller in pairs]
    order = diversify(lots, np.float32([4, 3, 2, 1]), Diversity(most_per_brand=1, most_per_seller=1))
    assert order == [0, 3, 1, 2]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((1.5, None), "0 to 1"),
        ((float("nan"), None), "0 to 1"),
        ((0.5, 0), "one brand are 0; allowed are 1 to 100"),
        ((0, None, 101), "one seller"),
    ],
)
def test_values_out_of_their_limits_are_refused(values: Any, reason: str) -> None:
    with pytest.raises(InvalidQuery, match=reason):
        Diversity(*values)
