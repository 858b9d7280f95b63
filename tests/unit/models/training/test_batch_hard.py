"""The batch-hard loss against its definition, and its place among the negatives of a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_lots import write_painted_catalog
from small_tower import small_config
from torch.nn import functional as F

from models.config.training import Stage, TrainingConfig
from models.data.batches import TrainingBatches
from models.data.tables import read_training_items
from models.towers.tokenizer import make_tokenizer
from models.training.losses import batch_hard
from models.training.step import batch_loss
from retrieval.encoders.query_encoder import prepare_tokenizer
from retrieval.errors import InvalidInput

MINED = Stage("mined", hard_negatives=2, random_negatives=1)


def unit_rows(random: np.random.Generator, rows: int) -> np.ndarray:
    vectors = random.normal(size=(rows, 6))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def reference(queries, items, margin, is_relevant, weights, symmetric):
    """The definition, one pair at a time."""
    total, pairs = 0.0, range(len(queries))
    for i in pairs:
        away = [queries[i] @ items[j] for j in range(len(items)) if j != i and not is_relevant[i, j]]
        back = [queries[j] @ items[i] for j in pairs if j != i and not is_relevant[j, i]]
        terms = [max(0.0, margin + max(side) - queries[i] @ items[i]) if side else 0.0 for side in (away, back)]
        total += weights[i] * (sum(terms) / 2 if symmetric else terms[0])
    return total / sum(weights)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), pairs=st.integers(1, 5), extra=st.integers(0, 3), symmetric=st.booleans())
def test_the_loss_is_its_definition(seed, pairs, extra, symmetric):
    random = np.random.default_rng(seed)
    queries, items = unit_rows(random, pairs), unit_rows(random, pairs + extra)
    is_relevant, weights = random.random((pairs, pairs + extra)) < 0.3, random.uniform(0.1, 3, pairs)
    expected = reference(queries, items, 0.3, is_relevant, weights, symmetric)
    vectors = torch.tensor(queries, requires_grad=True), torch.tensor(items, requires_grad=True)
    loss = batch_hard(
        *vectors, margin=0.3, is_relevant=torch.tensor(is_relevant), weights=torch.tensor(weights), symmetric=symmetric
    )
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in vectors), "also where every negative is masked"


def test_only_the_hardest_negative_is_pushed_away():
    queries = torch.tensor([[1.0, 0.0]])
    items = F.normalize(torch.tensor([[1.0, 0.2], [1.0, 0.1], [1.0, -0.5]]), dim=1).requires_grad_()
    batch_hard(queries, items, symmetric=False).backward()
    assert (items.grad.abs().sum(dim=1) > 0).tolist() == [True, True, False]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A batch with in-batch, mined and random negatives."""
    catalog = write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted")
    items, queries = read_training_items(catalog)
    config = TrainingConfig(tower=small_config(use_image=False), batch_size=8)
    tokenizer = prepare_tokenizer(make_tokenizer(config.tower, queries.texts), 24)
    mined = dict.fromkeys(queries.texts, items.ids)
    batches = TrainingBatches(items, queries, tokenizer, config, tmp_path_factory.mktemp("cache"), stage=MINED, negatives=mined)
    return batches.batch(0, torch.device("cpu"))


def test_the_stage_adds_it_with_its_weight_over_all_negatives_of_the_batch(batch):
    random = np.random.default_rng(0)
    queries, items = torch.tensor(unit_rows(random, 8)), torch.tensor(unit_rows(random, 8 * 4))
    config = TrainingConfig(batch_hard=0.5)

    def loss(stage: Stage) -> float:
        return batch_loss(queries, items, torch.tensor(10.0), batch, stage, config).item()

    plain = loss(replace(MINED, batch_hard=0.0))
    hardest = batch_hard(queries, items, is_relevant=batch.is_relevant).item()
    assert len(batch.item_rows) == len(items), "answers, two mined and one random item for each query"
    assert loss(MINED) == pytest.approx(plain + 0.5 * hardest), "the run's weight"
    assert loss(replace(MINED, batch_hard=2.0)) == pytest.approx(plain + 2.0 * hardest), "the stage's own weight"


def test_a_negative_weight_is_refused():
    with pytest.raises(InvalidInput, match="batch_hard"):
        TrainingConfig(batch_hard=-0.1)
    with pytest.raises(InvalidInput, match="batch_hard"):
        Stage("in-batch", batch_hard=-0.1)
