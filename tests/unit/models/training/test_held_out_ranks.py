"""Recall of held-out items among all items, and the sparse table behind it."""

import numpy as np
import pytest
import torch

from models.data.pair_table import PairTable
from models.training.held_out_ranks import held_out_recall


def test_recall_leaves_out_what_was_taken_before_and_users_without_held_out_items() -> None:
    scores = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]])
    hidden = PairTable(np.array([[0, 0], [1, 0]]), 3, 4)
    held_out = PairTable(np.array([[0, 1], [0, 3], [2, 0]]), 3, 4)
    recall = held_out_recall(lambda users: scores[users], hidden, held_out, [1, 2, 4])
    assert recall.tolist() == [[0.5, 0.5, 1.0], [0.0, 0.0, 1.0]]


def test_of_equal_scores_the_lower_index_ranks_first() -> None:
    none, held_out = PairTable(np.empty((0, 2), np.int64), 1, 4), PairTable(np.array([[0, 2]]), 1, 4)
    assert held_out_recall(lambda users: torch.zeros(1, 4), none, held_out, [2, 3]).tolist() == [[0.0, 1.0]]


def test_ranks_agree_with_sorted_lists() -> None:
    random = np.random.default_rng(0)
    pairs = np.unique(random.integers([300, 50], size=(2000, 2)), axis=0)
    chosen = random.random(len(pairs)) < 0.5
    hidden, held_out = PairTable(pairs[chosen], 300, 50), PairTable(pairs[~chosen], 300, 50)
    scores = torch.from_numpy(random.random((300, 50)))
    lists = scores.masked_fill(hidden.table(), -1).argsort(dim=1, descending=True)[:, :10]
    expected = held_out.table().gather(1, lists).sum(1) / held_out.counts
    recall = held_out_recall(lambda users: scores[users], hidden, held_out, [10])[:, 0]
    assert recall.tolist() == pytest.approx(expected[held_out.counts > 0].tolist())


def test_a_part_of_the_table_is_that_of_the_dense_table() -> None:
    random = np.random.default_rng(1)
    table = PairTable(np.unique(random.integers([40, 60], size=(300, 2)), axis=0), 40, 60)
    users, items = torch.tensor([3, 3, 39, 0]), torch.tensor([5, 1, 5, 59, 20])
    assert torch.equal(table.among(users, items), table.table()[users][:, items])
    assert torch.equal(table.item_counts(), table.table().sum(0))
    assert table.items_of(3).sort().values.tolist() == table.table()[3].nonzero().flatten().tolist()
