"""Structured features: how they are learned, encoded and embedded."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.towers.features import Features, FeatureTower
from retrieval.encoders.feature_spec import FURTHEST, FeatureSpec, Scale
from retrieval.errors import InvalidInput

ROWS = [
    {"category": "watch", "brand": "Omega", "price": 900.0, "rating": 4.5},
    {"category": "watch", "brand": None, "price": 30.0, "rating": 4.0},
    {"category": "ring", "brand": "Omega", "price": 45.0, "rating": None},
    {"category": "watch", "brand": "Seiko", "price": 25.0, "rating": 3.5},
]


def fitted() -> FeatureSpec:
    return FeatureSpec.fit(ROWS, categories=["category", "brand"], numbers=["price", "rating"])


def test_vocabularies_are_by_count_and_unknown_values_get_id_zero() -> None:
    spec = fitted()
    assert spec.categories == {"category": ("watch", "ring"), "brand": ("Omega", "Seiko")}
    ids = Features.of(spec, [*ROWS, {"category": "lamp", "brand": ""}, {}]).categories
    assert ids.tolist() == [[1, 1], [1, 0], [2, 1], [1, 2], [0, 0], [0, 0]]


def test_rare_values_stay_unknown() -> None:
    spec = FeatureSpec.fit(ROWS, categories=["category", "brand"], min_count=2)
    assert spec.categories == {"category": ("watch",), "brand": ("Omega",)}


def test_numbers_are_standardised_and_prices_go_by_their_logarithm() -> None:
    spec = fitted()
    assert spec.numbers["price"].log
    assert not spec.numbers["rating"].log
    logs = np.log1p([900, 30, 45, 25])
    expected = (logs - logs.mean()) / logs.std()
    assert Features.of(spec, ROWS).numbers[:, 0].numpy() == pytest.approx(expected, abs=1e-6)


def test_a_missing_number_is_the_mean_with_a_flag() -> None:
    numbers = Features.of(fitted(), [{"price": None, "rating": math.nan}, {"price": math.inf, "rating": 4.0}]).numbers
    assert numbers.tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]  # two values, then their two flags; 4.0 is the mean rating


def test_an_odd_number_is_cut() -> None:
    numbers = Features.of(fitted(), [{"price": 1e30, "rating": -1e30}, {"price": -5.0, "rating": 4.0}]).numbers
    assert numbers[0, :2].tolist() == [FURTHEST, -FURTHEST]
    assert torch.isfinite(numbers).all()


def test_a_constant_and_an_empty_column_do_not_divide_by_zero() -> None:
    spec = FeatureSpec.fit([{"a": 3.3}, {"a": 3.3}], numbers=["a", "b"])
    assert spec.numbers == {"a": Scale(pytest.approx(3.3), 1.0), "b": Scale(0.0, 1.0)}
    assert Features.of(spec, [{"a": 3.3}]).numbers.tolist() == [[pytest.approx(0, abs=1e-6), 0, 0, 1]]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {}, optional={"c": st.none() | st.text(max_size=3) | st.integers(), "n": st.none() | st.floats(width=32)}
        ),
        max_size=12,
    )
)
def test_a_spec_comes_back_from_json_and_encodes_alike_whatever_the_rows(rows: list[dict[str, object]]) -> None:
    spec = FeatureSpec.fit(rows, categories=["c"], numbers=["n"])
    again = FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    found, repeated = Features.of(spec, rows), Features.of(again, rows)
    assert torch.equal(found.categories, repeated.categories)
    assert torch.equal(found.numbers, repeated.numbers)
    assert torch.isfinite(found.numbers).all()


def test_what_is_no_spec_is_refused() -> None:
    with pytest.raises(InvalidInput, match="feature spec"):
        FeatureSpec.from_json({"categories": {}})


@pytest.mark.parametrize("hidden", [0, 16])
def test_a_tower_gives_unit_vectors_and_its_encoding_has_the_width_it_names(hidden: int) -> None:
    spec = fitted()
    tower = FeatureTower(spec, hidden, 8, widths={"brand": 5})
    features = Features.of(spec, ROWS)
    assert tower.encode(*features).shape == (4, tower.width)
    assert tower.width == 5 + tower.embeddings[0].embedding_dim + 4
    assert torch.linalg.norm(tower(*features), dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-6)


def test_numbers_alone_and_categories_alone_make_a_tower() -> None:
    for spec in (FeatureSpec.fit(ROWS, numbers=["price"]), FeatureSpec.fit(ROWS, categories=["brand"])):
        assert FeatureTower(spec, 4, 3)(*Features.of(spec, ROWS)).shape == (4, 3)


def test_hidden_ids_train_the_unknown_embedding_in_training_alone() -> None:
    spec = FeatureSpec.fit(ROWS, categories=["brand"])
    tower = FeatureTower(spec, 0, 3, unknown_rate=1.0)
    features = Features.of(spec, [ROWS[0]])
    tower(*features).sum().backward()
    touched = tower.embeddings[0].weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [True, False, False]
    tower.eval()
    assert torch.equal(tower.encode(*features)[0], tower.embeddings[0].weight[1])


def test_an_empty_spec_and_a_width_for_nothing_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no features"):
        FeatureTower(FeatureSpec(), 4, 4)
    with pytest.raises(InvalidInput, match="no colour"):
        FeatureTower(fitted(), 4, 4, widths={"colour": 3})


def test_a_batch_is_taken_by_rows() -> None:
    features = Features.of(fitted(), ROWS)
    taken = features.take(torch.tensor([2, 0]))
    assert taken.categories.tolist() == [[2, 1], [1, 1]]
    assert torch.equal(taken.numbers, features.numbers[[2, 0]])
