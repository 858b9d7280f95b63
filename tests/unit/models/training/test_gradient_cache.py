"""Gradient caching: the gradient of a large batch from small pieces."""

from functools import partial

import pytest
import torch
from torch import nn

from models.training.gradient_cache import backward_in_chunks
from models.training.losses import info_nce


def encoders(dropout: float) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            name: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 8)).double()
            for name in ("query", "item")
        }
    )


def unit_loss(queries: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    return info_nce(nn.functional.normalize(queries, dim=1), nn.functional.normalize(items, dim=1), 10.0)


def gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


def chunks(module: nn.Module, rows: torch.Tensor, size: int):
    return [partial(module, part) for part in rows.split(size)]


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_chunks_give_the_gradient_of_the_whole_batch(size):
    queries, items = torch.randn(10, 6).double(), torch.randn(14, 6).double()
    whole, parts = encoders(0.0), encoders(0.0)
    loss = unit_loss(whole["query"](queries), whole["item"](items))
    loss.backward()
    groups = [chunks(parts["query"], queries, size), chunks(parts["item"], items, size)]
    cached = backward_in_chunks(groups, unit_loss, torch.Tensor.backward, parts)
    assert cached.item() == pytest.approx(loss.item(), abs=1e-12)
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=0, atol=1e-12)


def test_dropout_falls_alike_in_both_passes():
    queries, items = torch.randn(6, 6).double(), torch.randn(6, 6).double()
    whole, parts = encoders(0.5), encoders(0.5)
    torch.manual_seed(3)
    made = [torch.cat([chunk() for chunk in chunks(whole[name], rows, 2)]) for name, rows in (("query", queries), ("item", items))]
    unit_loss(*made).backward()
    after = torch.rand(1)
    torch.manual_seed(3)
    groups = [chunks(parts["query"], queries, 2), chunks(parts["item"], items, 2)]
    backward_in_chunks(groups, unit_loss, torch.Tensor.backward, parts)
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=0, atol=1e-12)
    assert torch.equal(torch.rand(1), after), "the stream of random numbers goes on where one pass leaves it"


def test_running_statistics_move_once():
    rows = torch.randn(8, 4)
    whole, parts = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    whole(rows)
    backward_in_chunks([[partial(parts, rows)]], lambda vectors: vectors.square().sum(), torch.Tensor.backward, parts)
    torch.testing.assert_close(parts.running_mean, whole.running_mean)
    torch.testing.assert_close(parts.running_var, whole.running_var)
    assert parts.num_batches_tracked == whole.num_batches_tracked == 1
    assert parts.momentum == whole.momentum
