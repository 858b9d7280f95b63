"""Every loss against a plain float64 reference, and what its options are for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training.losses import contrastive, info_nce, triplet

OPTIONS = ("is_relevant", "weights", "log_q", "symmetric")


def unit_rows(random: np.random.Generator, rows: int, width: int = 8) -> np.ndarray:
    vectors = random.normal(size=(rows, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def reference(queries, items, scale, is_relevant, weights, log_q, symmetric):
    """The definition, one pair at a time."""
    total = 0.0
    for i in range(len(queries)):
        lots = [j for j in range(len(items)) if j == i or not is_relevant[i, j]]
        corrected = {j: np.exp(scale * queries[i] @ items[j] - log_q[j]) for j in lots}
        loss = -np.log(corrected[i] / sum(corrected.values()))
        if symmetric:
            askers = [j for j in range(len(queries)) if j == i or not is_relevant[j, i]]
            answers = {j: np.exp(scale * queries[j] @ items[i]) for j in askers}
            loss = (loss - np.log(answers[i] / sum(answers.values()))) / 2
        total += weights[i] * loss
    return total / sum(weights)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), pairs=st.integers(1, 6), extra=st.integers(0, 3), options=st.sets(st.sampled_from(OPTIONS)))
def test_the_loss_is_its_definition_to_a_millionth_with_every_option(seed, pairs, extra, options):
    random = np.random.default_rng(seed)
    rows, scale = pairs + extra, random.uniform(1, 30)
    queries, items = unit_rows(random, pairs), unit_rows(random, rows)
    is_relevant = random.random((pairs, rows)) < (0.3 if "is_relevant" in options else 0)
    weights = random.uniform(0.1, 3, pairs) if "weights" in options else np.ones(pairs)
    log_q = np.log(random.uniform(0.001, 1, rows)) if "log_q" in options else np.zeros(rows)
    expected = reference(queries, items, scale, is_relevant, weights, log_q, "symmetric" in options)
    given_options = {
        name: torch.tensor(value)
        for name, value in {"is_relevant": is_relevant, "weights": weights, "log_q": log_q}.items()
        if name in options  # an option left out is None
    }
    for dtype in (torch.float64, torch.float32):
        vectors = torch.tensor(queries, dtype=dtype), torch.tensor(items, dtype=dtype)
        found = info_nce(*vectors, scale, symmetric="symmetric" in options, **given_options)
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
    is_relevant = torch.tensor([[True, True], [False, True]])
    info_nce(queries, items, 5.0, is_relevant=is_relevant, symmetric=False).backward()
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


def test_items_that_come_often_are_pushed_less_with_the_correction():
    random = np.random.default_rng(2)
    queries = torch.tensor(unit_rows(random, 3))
    pushes = []
    for log_q in (None, torch.log(torch.tensor([0.01, 0.01, 0.5]))):
        items = torch.tensor(unit_rows(np.random.default_rng(3), 3)).requires_grad_()
        loss = info_nce(queries[:1], items, 5.0, log_q=log_q, symmetric=False)
        pushes.append(torch.autograd.grad(loss, items)[0][2].norm().item())
    assert pushes[1] < pushes[0] / 5


def test_a_constant_on_all_of_log_q_changes_nothing():
    random = np.random.default_rng(4)
    queries, items, log_q = torch.tensor(unit_rows(random, 4)), torch.tensor(unit_rows(random, 6)), torch.rand(6)
    losses = [info_nce(queries, items, 9.0, log_q=log_q + constant).item() for constant in (0, -7.5)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_are_finite_when_every_negative_is_masked(symmetric):
    random = np.random.default_rng(5)
    queries = torch.tensor(unit_rows(random, 3)).requires_grad_()
    items = torch.tensor(unit_rows(random, 5)).requires_grad_()
    scale = torch.tensor(20.0, requires_grad=True)
    is_relevant = torch.ones(3, 5, dtype=torch.bool)
    loss = info_nce(queries, items, scale, is_relevant=is_relevant, log_q=torch.randn(5), symmetric=symmetric)
    loss.backward()
    assert loss.item() == 0
    for gradient in (queries.grad, items.grad, scale.grad):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def contrastive_reference(pairs, labels, weights, margin):
    total = 0.0
    for (query, item), label, weight in zip(pairs, labels, weights, strict=True):
        distance = 1 - query @ item
        total += weight * 0.5 * (label * distance**2 + (1 - label) * max(0.0, margin - distance) ** 2)
    return total / sum(weights)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), rows=st.integers(1, 6), lots=st.integers(1, 6), margin=st.floats(0.1, 2), weighted=st.booleans()
)
def test_the_contrastive_loss_is_its_definition_by_rows_and_for_all_pairs(seed, rows, lots, margin, weighted):
    random = np.random.default_rng(seed)
    queries, items, partners = unit_rows(random, rows), unit_rows(random, lots), unit_rows(random, rows)
    by_row = [(queries[i], partners[i]) for i in range(rows)]
    by_pair = [(queries[i], items[j]) for i in range(rows) for j in range(lots)]
    for pairs, others, shape in ((by_row, partners, (rows,)), (by_pair, items, (rows, lots))):
        labels = random.choice([0, 0.6, 0.9, 1.0], shape)
        weights = random.uniform(0.1, 2, shape) if weighted else np.ones(shape)
        found = contrastive(
            torch.tensor(queries),
            torch.tensor(others),
            torch.tensor(labels),
            margin=margin,
            weights=torch.tensor(weights) if weighted else None,
        )
        expected = contrastive_reference(pairs, labels.ravel(), weights.ravel(), margin)
        assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_stranger_beyond_the_margin_is_left_alone():
    items = torch.eye(2)[1:].requires_grad_()
    contrastive(torch.eye(2)[:1], items, torch.zeros(1), margin=0.9).backward()
    assert torch.equal(items.grad, torch.zeros(1, 2))


def triplet_reference(queries, positives, negatives, is_relevant, weights, margin):
    total = 0.0
    for i, (query, positive) in enumerate(zip(queries, positives, strict=True)):
        squares = [
            max(0.0, np.sum((query - positive) ** 2) - np.sum((query - negatives[i][j]) ** 2) + 2 * margin) / 2
            for j in range(len(negatives[i]))
            if not is_relevant[i, j]
        ]
        total += weights[i] * (sum(squares) / len(squares) if squares else 0.0)
    return total / sum(weights)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    count=st.integers(1, 5),
    margin=st.floats(0, 1),
    options=st.sets(st.sampled_from(["is_relevant", "weights", "shared"])),
)
def test_the_triplet_loss_is_its_definition_in_squared_distances(seed, rows, count, margin, options):
    random = np.random.default_rng(seed)
    queries, positives = unit_rows(random, rows), unit_rows(random, rows)
    shared = unit_rows(random, count)
    negatives = np.stack([shared if "shared" in options else unit_rows(random, count) for _ in range(rows)])
    is_relevant = random.random((rows, count)) < (0.5 if "is_relevant" in options else 0)
    weights = random.uniform(0.1, 2, rows) if "weights" in options else np.ones(rows)
    found = triplet(
        torch.tensor(queries),
        torch.tensor(positives),
        torch.tensor(shared if "shared" in options else negatives),
        margin=margin,
        is_relevant=torch.tensor(is_relevant) if "is_relevant" in options else None,
        weights=torch.tensor(weights) if "weights" in options else None,
    )
    expected = triplet_reference(queries, positives, negatives, is_relevant, weights, margin)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_triplets_that_are_all_masked_have_finite_gradients():
    queries = torch.eye(2).requires_grad_()
    triplet(queries, torch.eye(2).flip(0), torch.eye(2), is_relevant=torch.ones(2, 2, dtype=torch.bool)).backward()
    assert torch.equal(queries.grad, torch.zeros(2, 2))
