"""InfoNCE against a plain float64 reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses import info_nce


def unit_rows(random: np.random.Generator, rows: int, width: int = 8) -> np.ndarray:
    vectors = random.normal(size=(rows, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def reference(queries, items, scale, known, weights, symmetric):
    """The definition, one pair at a time."""
    total = 0.0
    for i in range(len(queries)):
        answer = np.exp(scale * queries[i] @ items[i])
        lots = [j for j in range(len(items)) if j == i or not known[i, j]]
        loss = -np.log(answer / sum(np.exp(scale * queries[i] @ items[j]) for j in lots))
        if symmetric:
            askers = [j for j in range(len(queries)) if j == i or not known[j, i]]
            back = -np.log(answer / sum(np.exp(scale * queries[j] @ items[i]) for j in askers))
            loss = (loss + back) / 2
        total += weights[i] * loss
    return total / sum(weights)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), pairs=st.integers(1, 6), extra=st.integers(0, 3), symmetric=st.booleans())
def test_the_loss_is_its_definition_to_a_millionth(seed, pairs, extra, symmetric):
    random = np.random.default_rng(seed)
    queries, items = unit_rows(random, pairs), unit_rows(random, pairs + extra)
    known, weights, scale = random.random((pairs, pairs + extra)) < 0.3, random.uniform(0.1, 3, pairs), random.uniform(1, 30)
    expected = reference(queries, items, scale, known, weights, symmetric)
    for dtype in (torch.float64, torch.float32):
        found = info_nce(
            torch.tensor(queries, dtype=dtype),
            torch.tensor(items, dtype=dtype),
            scale,
            known=torch.tensor(known),
            weights=torch.tensor(weights),
            symmetric=symmetric,
        )
        assert found.item() == pytest.approx(expected, rel=1e-6 if dtype == torch.float64 else 1e-5, abs=1e-6)


def test_half_precision_is_summed_in_single():
    random = np.random.default_rng(0)
    queries, items = (torch.tensor(unit_rows(random, 4), dtype=torch.bfloat16) for _ in range(2))
    loss = info_nce(queries, items, 20.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(info_nce(queries.double(), items.double(), 20.0).item(), rel=1e-5)


def test_a_known_answer_of_another_pair_is_not_pushed_away():
    queries = torch.eye(3)[:2]
    items = torch.eye(3)[[0, 0]].requires_grad_()  # the second pair's lot answers the first query as well
    known = torch.tensor([[True, True], [False, True]])
    info_nce(queries, items, 5.0, known=known, symmetric=False).backward()
    assert items.grad[1, 0] == 0, "the first query must not move the second lot"
    info_nce(queries, items, 5.0, symmetric=False).backward()
    assert items.grad[1, 0] > 0, "without the mask it would"


def test_a_pair_of_weight_zero_does_not_count():
    random = np.random.default_rng(1)
    queries, items = torch.tensor(unit_rows(random, 2)), torch.tensor(unit_rows(random, 2))
    only_first = info_nce(queries[:1], items, 10.0, symmetric=False)
    weighted = info_nce(queries, items, 10.0, weights=torch.tensor([1.0, 0.0]), symmetric=False)
    assert weighted.item() == pytest.approx(only_first.item(), abs=1e-9)


def test_perfect_towers_lose_almost_nothing_and_random_ones_the_logarithm_of_the_batch():
    assert info_nce(torch.eye(16), torch.eye(16), 100.0).item() < 1e-6
    same = torch.ones(16, 4) / 2
    assert info_nce(same, same, 100.0).item() == pytest.approx(np.log(16), rel=1e-6)
