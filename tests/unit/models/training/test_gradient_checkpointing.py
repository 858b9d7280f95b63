"""Gradient checkpointing of the text encoder: the same gradients as without, from fewer stored numbers."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from painted_lots import write_painted_catalog
from small_tower import small_config

from models.config.training import TrainingConfig
from models.data.batches import TrainingBatches
from models.data.tables import read_training_items
from models.towers.encoders import TextEncoder
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import TwoTowers
from models.training.step import TwoTowersTask
from models.training.two_towers import fit_vocabulary
from retrieval.encoders.query_encoder import prepare_tokenizer
from retrieval.errors import InvalidInput

LAYERS = 3


@pytest.fixture(scope="module")
def make_task(tmp_path_factory):
    """A function that makes a task of towers with the same weights, and dropout inside the text encoder."""
    items, queries = read_training_items(write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted"))
    cache = tmp_path_factory.mktemp("cache")
    small = small_config(use_image=False)
    text = {**small.text.config, "n_layers": LAYERS, "dropout": 0.2, "attention_dropout": 0.1}
    tower = replace(small, text=replace(small.text, config=text))
    tokenizer = prepare_tokenizer(make_tokenizer(tower, [*items.texts, *queries.texts]), tower.max_length)

    def make(**changes) -> TwoTowersTask:
        torch.manual_seed(0)
        config = TrainingConfig(tower=tower, batch_size=12, **changes)
        towers = TwoTowers(fit_vocabulary(tower, tokenizer.get_vocab_size())).train()
        batches = TrainingBatches(items, queries, tokenizer, config, cache)
        return TwoTowersTask(towers, batches, None, config, config.stages[0], Accelerator())

    return make


def gradients(task: TwoTowersTask) -> dict[str, torch.Tensor]:
    task.backward(0)
    return {name: parameter.grad for name, parameter in task.model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_the_gradients_are_the_same_with_dropout_and_with_micro_batches(make_task, micro_batch):
    plain = gradients(make_task(micro_batch=micro_batch))
    checkpointed = gradients(make_task(micro_batch=micro_batch, gradient_checkpointing=True))
    assert plain.keys() == checkpointed.keys()
    assert any(".transformer." in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=0, atol=0, msg=name)


def test_fewer_numbers_are_stored_for_the_backward_pass(make_task):
    def stored(task: TwoTowersTask) -> int:
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            task.model.item_tower.text_encoder(torch.full((8, 24), 5), torch.ones(8, 24, dtype=torch.int64))
        return count

    assert stored(make_task(gradient_checkpointing=True)) < stored(make_task()) / LAYERS


def test_an_encoder_without_it_is_refused_with_a_remedy():
    encoder = TextEncoder(replace(small_config().text))
    encoder.transformer.supports_gradient_checkpointing = False
    with pytest.raises(InvalidInput, match="micro_batch"):
        encoder.checkpoint_activations()
