"""The re-ranking features and the booster that is trained on them."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained_booster import trained_booster

from retrieval.errors import FeatureMismatch, RankerUnavailable
from retrieval.index.base import Candidate
from retrieval.items import epoch_ms
from retrieval.ranker import xgboost as adapter
from retrieval.ranker.features import FEATURES, feature_matrix
from retrieval.ranker.xgboost import BoosterRanker

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
EAST, NORTH = np.eye(2, dtype=np.float32)


def candidate(item_id: str = "a", vector: np.ndarray = EAST, **document: Any) -> Candidate:
    return Candidate(item_id, 0.5, document, vector)


def feature(name: str, *candidates: Candidate, query: str = "red vase") -> list[float]:
    return feature_matrix(query, EAST, candidates, NOW)[:, FEATURES.index(name)].tolist()


def test_similarity_is_the_cosine_of_query_and_lot() -> None:
    assert feature("similarity", candidate(vector=EAST), candidate(vector=NORTH), candidate(vector=-EAST)) == [1, 0, -1]


def test_reciprocal_rank_follows_the_order_of_the_first_stage() -> None:
    assert feature("reciprocal_rank", candidate(), candidate(), candidate()) == pytest.approx([1, 1 / 2, 1 / 3])


def test_overlap_is_the_share_of_the_query_that_the_lot_says() -> None:
    lot = candidate(title="Vase, blue", text="Vase, blue. A red mark below.")
    assert feature("title_overlap", lot) == [0.5]
    assert feature("text_overlap", lot) == [1.0]


def test_category_and_brand_match_when_the_query_names_them() -> None:
    lot = candidate(category="Vases", brand="Red Kiln")
    assert feature("category_match", lot) == [0.0]
    assert feature("brand_match", lot) == [0.5]
    assert feature("category_match", lot, query="old VASES") == [1.0]


def test_price_is_held_against_the_median_of_its_category() -> None:
    lots = [candidate(category="vases", current_price=p) for p in (10.0, 20.0, 40.0)]
    assert feature("price_to_category_median", *lots)[1] == 0.0
    assert feature("price_to_category_median", *lots)[0] == pytest.approx(math.log(11 / 21))


def test_what_a_lot_does_not_say_is_missing_rather_than_zero() -> None:
    row = feature_matrix("vase", EAST, [candidate()], NOW)[0]
    missing = {name for name, value in zip(FEATURES, row, strict=True) if np.isnan(value)}
    assert missing == {"log_price", "price_to_category_median", "seller_rating", "hours_to_end", "hours_since_listed"}


def test_hours_are_counted_from_the_moment_of_the_search() -> None:
    lot = candidate(ends_at=epoch_ms(NOW + timedelta(hours=3)), listed_at=epoch_ms(NOW - timedelta(hours=30)))
    assert feature("hours_to_end", lot) == [3.0]
    assert feature("hours_since_listed", lot) == [30.0]


def test_no_candidates_make_an_empty_matrix_of_the_right_width() -> None:
    assert feature_matrix("vase", EAST, [], NOW).shape == (0, len(FEATURES))


@pytest.fixture(scope="module")
def booster() -> BoosterRanker:
    return trained_booster()


def test_lambdamart_learns_what_buyers_want(booster: BoosterRanker) -> None:
    features = np.full((2, len(FEATURES)), 0.5, dtype=np.float32)
    features[:, FEATURES.index("log_price")] = (0.9, 0.1)
    dear, cheap = booster.score(features)
    assert cheap > dear


def test_a_saved_booster_scores_as_before(booster: BoosterRanker, tmp_path: Path) -> None:
    booster.save(tmp_path / "rankers" / "r.ubj")
    features = np.random.default_rng(3).random((5, len(FEATURES)), dtype=np.float32)
    np.testing.assert_array_equal(BoosterRanker.load(tmp_path / "rankers" / "r.ubj").score(features), booster.score(features))


def test_a_booster_of_other_features_is_refused_at_load(
    booster: BoosterRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(adapter, "FEATURES", (*FEATURES[:-1], "colour"))
        older.setattr(adapter, "FEATURES_HASH", "0" * 12)
        booster.save(tmp_path / "r.ubj")
    with pytest.raises(FeatureMismatch, match="colour, has_image"):
        BoosterRanker.load(tmp_path / "r.ubj")


@pytest.mark.parametrize("content", [b"", b"not a booster", json.dumps({"learner": 1}).encode()])
def test_a_damaged_booster_is_refused_with_the_remedy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.ubj").write_bytes(content)
    with pytest.raises(RankerUnavailable, match="gavel train"):
        BoosterRanker.load(tmp_path / "r.ubj")


def test_a_matrix_of_the_wrong_width_is_an_error_and_no_score(booster: BoosterRanker) -> None:
    with pytest.raises(RankerUnavailable):
        booster.score(np.zeros((3, 2), dtype=np.float32))
