"""The re-ranking features and the booster that is trained on them."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trained_booster import feature_rows, ranking_data, trained_booster

from retrieval.contracts.buyer_habits import BuyerHabits, LabelHabit, summarise_habits
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import epoch_ms
from retrieval.errors import FeatureMismatch, RankerUnavailable
from retrieval.index.port import Candidate
from retrieval.ranker import xgboost_ranker as adapter
from retrieval.ranker.features import FEATURES, feature_matrix
from retrieval.ranker.parameters import FewQueries
from retrieval.ranker.port import ExplainingRanker
from retrieval.ranker.xgboost_ranker import BoosterRanker, RankingData, fit_few_queries

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
EAST, NORTH = np.eye(2, dtype=np.float32)


def candidate(item_id: str = "a", vector: np.ndarray = EAST, **document: Any) -> Candidate:
    return Candidate(item_id, 0.5, document, vector)


def ranked(bm25: float | None = None, keyword_rank: int | None = None, semantic_rank: int | None = None) -> Candidate:
    return replace(candidate(), bm25=bm25, keyword_rank=keyword_rank, semantic_rank=semantic_rank)


def feature(name: str, *candidates: Candidate, query: str = "red vase", buyer: np.ndarray | None = None) -> list[float]:
    return feature_matrix(query, EAST, candidates, NOW, buyer)[:, FEATURES.index(name)].tolist()


def test_similarity_is_the_cosine_of_query_and_lot() -> None:
    assert feature("similarity", candidate(vector=EAST), candidate(vector=NORTH), candidate(vector=-EAST)) == [1, 0, -1]


@pytest.mark.parametrize(
    ("title", "query"),
    [
        ("घड़ी", "घड\u093cी"),
        ("นาฬิกา", "นาฬิกา"),
        ("Cafe\u0301", "CAFÉ"),
        ("Ro\u200blex", "ro\u00adlex"),
        ("ＣＡＮＯＮ", "canon"),
        ("İPEK", "ipek"),
        ("מְנוֹרָה", "מְנוֹרָה"),
    ],
)
def test_overlaps_count_the_words_that_the_index_finds(title: str, query: str) -> None:
    for name, field in (("title_overlap", "title"), ("text_overlap", "text"), ("brand_match", "brand")):
        assert feature(name, candidate(**{field: title}), query=query) == [1.0]
    assert feature("query_words", candidate(), query=query) == [1]


def test_reciprocal_rank_follows_the_order_of_the_first_stage() -> None:
    assert feature("reciprocal_rank", candidate(), candidate(), candidate()) == pytest.approx([1, 1 / 2, 1 / 3])


def test_ranks_are_those_of_the_lists_and_missing_for_a_lot_that_a_list_lacks() -> None:
    both, by_words, by_meaning = ranked(7.5, 2, 1), ranked(10.0, 1, None), ranked(None, None, 2)
    lots = (both, by_words, by_meaning)
    assert feature("keyword_rank", *lots) == pytest.approx([2, 1, math.nan], nan_ok=True)
    assert feature("semantic_rank", *lots) == pytest.approx([1, math.nan, 2], nan_ok=True)
    assert feature("fused_score", *lots) == pytest.approx([1 / 61 + 1 / 62, 1 / 61, 1 / 62])
    assert feature("bm25_to_best", *lots) == pytest.approx([0.75, 1, math.nan], nan_ok=True)


def test_bm25_is_told_as_a_share_because_engines_scale_it_each_in_their_own_way() -> None:
    lots = [ranked(score, 1, None) for score in (3.0, 1.5)]
    legacy = [replace(c, bm25=c.bm25 * 2.2) for c in lots]
    assert feature("bm25_to_best", *lots) == feature("bm25_to_best", *legacy) == [1.0, 0.5]


def test_affinity_is_the_cosine_of_buyer_and_lot_and_missing_without_a_buyer() -> None:
    lots = (candidate(vector=EAST), candidate(vector=NORTH))
    assert feature("buyer_affinity", *lots, buyer=NORTH) == [0, 1]
    assert np.isnan(feature("buyer_affinity", *lots)).all()


def test_the_length_of_the_query_counts_every_word_that_was_typed() -> None:
    assert feature("query_words", candidate(), candidate(), query="Red red vase") == [3, 3]


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
    of_the_lot = {"log_price", "price_to_category_median", "seller_rating", "hours_to_end", "hours_since_listed"}
    of_the_buyer = {name for name in FEATURES if "buyer" in name}
    assert len(of_the_buyer) == 6
    assert missing == of_the_lot | of_the_buyer | {"bm25_to_best", "keyword_rank", "semantic_rank"}


HABITS = BuyerHabits(
    {"category": {"vases": LabelHabit(3, 0.0), "lamps": LabelHabit(1, 4.5)}, "brand": {"Acme": LabelHabit(2, 1.0)}},
    median_price=20.0,
)


def of_buyer(name: str, *candidates: Candidate) -> list[float]:
    return feature_matrix("", EAST, candidates, NOW, EAST, HABITS)[:, FEATURES.index(name)].tolist()


def test_a_lot_is_held_against_what_the_buyer_did_in_its_category_and_with_its_brand() -> None:
    lots = [candidate(category="vases", brand="Acme"), candidate(category="lamps"), candidate(category="rings", brand="Other")]
    assert of_buyer("buyer_category_count", *lots) == pytest.approx([math.log(4), math.log(2), 0])
    assert of_buyer("buyer_category_days", *lots) == pytest.approx([0, 4.5, math.nan], nan_ok=True)
    assert of_buyer("buyer_brand_count", *lots) == pytest.approx([math.log(3), 0, 0])
    assert of_buyer("buyer_brand_days", *lots) == pytest.approx([1, math.nan, math.nan], nan_ok=True)


def test_a_price_is_held_against_the_prices_that_the_buyer_is_used_to() -> None:
    prices = [candidate(current_price=20.0), candidate(current_price=41.0), candidate()]
    assert of_buyer("price_to_buyer_median", *prices) == pytest.approx([0, math.log(2), math.nan], nan_ok=True)
    unpriced = feature_matrix("", EAST, prices, NOW, EAST, replace(HABITS, median_price=None))
    assert np.isnan(unpriced[:, FEATURES.index("price_to_buyer_median")]).all()


def test_habits_are_counts_and_ages_of_labels_and_the_median_price_of_the_items() -> None:
    acts = [Interaction("ann", item, "view", NOW - timedelta(days=days)) for item, days in (("a", 4), ("a", 3), ("b", 1), ("c", 0))]
    documents = {
        "a": {"category": "vases", "brand": "Acme", "current_price": 10.0},
        "b": {"category": "lamps", "current_price": 30.0},
        "c": {"category": "vases"},
    }
    habits = summarise_habits(acts, documents)
    assert habits.by_label == {
        "category": {"vases": LabelHabit(3, 0.0), "lamps": LabelHabit(1, 1.0)},
        "brand": {"Acme": LabelHabit(2, 3.0)},
    }
    assert habits.median_price == 20.0


def test_a_price_without_others_of_its_kind_is_its_own_median_and_one_that_is_not_known_counts_in_none() -> None:
    lots = [candidate(category="vases"), candidate(category="vases", current_price=9.0), candidate(current_price=5.0)]
    assert feature("price_to_category_median", *lots) == pytest.approx([math.nan, 0, 0], nan_ok=True)


@given(st.permutations(range(12)))
def test_a_lot_has_the_same_features_wherever_it_stands_but_for_its_place(order: list[int]) -> None:
    lots = [
        replace(
            candidate(
                str(n), EAST if n % 2 else NORTH, title="red vase" if n % 3 else "lamp", category="ab"[n % 2], current_price=n
            ),
            bm25=n or None,
            keyword_rank=n or None,
            semantic_rank=12 - n,
        )
        for n in range(12)
    ]
    place = FEATURES.index("reciprocal_rank")
    straight = np.delete(feature_matrix("red vase", EAST, lots, NOW), place, axis=1)
    shuffled = np.delete(feature_matrix("red vase", EAST, [lots[n] for n in order], NOW), place, axis=1)
    np.testing.assert_array_equal(shuffled, straight[order])


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


def test_contributions_add_up_to_the_score_and_name_what_it_is_made_of(booster: BoosterRanker) -> None:
    features = feature_rows(40)
    contributions = booster.explain(features)
    assert contributions.shape == (40, len(FEATURES) + 1)
    assert contributions.dtype == np.float32
    np.testing.assert_allclose(contributions.sum(axis=1), booster.score(features), atol=1e-5)
    assert np.ptp(contributions[:, -1]) == 0, "the last column is what every candidate has alike"
    weight = np.abs(contributions[:, :-1]).mean(axis=0)
    assert FEATURES[int(weight.argmax())] == "log_price", "what these buyers go by"
    assert isinstance(booster, ExplainingRanker)


def test_nothing_to_explain_is_an_empty_matrix_and_a_wrong_width_an_error(booster: BoosterRanker) -> None:
    assert booster.explain(np.empty((0, len(FEATURES)), dtype=np.float32)).shape == (0, len(FEATURES) + 1)
    with pytest.raises(RankerUnavailable, match="cannot explain"):
        booster.explain(np.zeros((3, 2), dtype=np.float32))


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


def test_a_booster_with_flipped_bits_or_of_another_tower_is_refused(booster: BoosterRanker, tmp_path: Path) -> None:
    path = tmp_path / "r.ubj"
    booster.save(path, "1a2b3c4d5e6f")
    whole = path.read_bytes()
    for place in range(0, whole.rindex(b"sha256"), 197):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(RankerUnavailable, match="train it again with `gavel train reranker`"):
            BoosterRanker.load(path)
    path.write_bytes(whole)
    BoosterRanker.load(path, "1a2b3c4d5e6f")
    with pytest.raises(RankerUnavailable, match="was trained on candidates of tower 1a2b3c4d5e6f, not of 0123456789ab"):
        BoosterRanker.load(path, "0123456789ab")
    model = adapter.xgboost.Booster()
    model.load_model(path)  # as any program with XGBoost reads it
    model.save_model(path)  # without a checksum, as an older version wrote it
    BoosterRanker.load(path, "1a2b3c4d5e6f")


def test_a_matrix_of_the_wrong_width_is_an_error_and_no_score(booster: BoosterRanker) -> None:
    with pytest.raises(RankerUnavailable):
        booster.score(np.zeros((3, 2), dtype=np.float32))


def ranking_data_of(queries: int, seed: int = 0) -> RankingData:
    data = ranking_data(seed)
    return data.take(range(queries))


def test_few_queries_choose_depth_and_steps_among_themselves_and_all_of_them_train() -> None:
    booster, choice = fit_few_queries(ranking_data_of(12), seed=1)
    assert choice.max_depth in FewQueries().depths
    assert choice.rounds in range(adapter.STEP_GRID, FewQueries().most_steps + 1, adapter.STEP_GRID)
    assert 0.5 < choice.ndcg_at_10 <= 1
    features = np.full((2, len(FEATURES)), 0.5, dtype=np.float32)
    features[:, FEATURES.index("log_price")] = (0.9, 0.1)
    dear, cheap = booster.score(features)
    assert cheap > dear


def test_two_queries_are_enough_to_choose_with() -> None:
    assert fit_few_queries(ranking_data_of(2))[1].rounds >= adapter.STEP_GRID


def test_queries_that_are_taken_or_put_together_keep_their_rows() -> None:
    data = ranking_data(0)
    assert (len(data), data.rows) == (30, 600)
    both = data.take([3, 7]) + data.take([1])
    assert (len(both), both.rows) == (3, 60)
    assert both.matrix().get_uint_info("group_ptr").tolist() == [0, 20, 40, 60]
