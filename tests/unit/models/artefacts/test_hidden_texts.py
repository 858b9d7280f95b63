"""Training that hides texts: what a lot is encoded with then is what a photo without a text is encoded with."""

from dataclasses import replace

import pytest
import torch
from small_tower import small_config

from models.artefacts.onnx_export import PhotoTower
from models.towers.config import TowerConfig
from models.towers.two_towers import Photos, Tokens, TwoTowers
from retrieval.errors import InvalidInput

TOKENS = Tokens(torch.arange(32).reshape(8, 4), torch.ones(8, 4, dtype=torch.int64))
SEEN = torch.tensor([True] * 6 + [False] * 2)


@pytest.fixture
def towers():
    torch.manual_seed(0)
    return TwoTowers(replace(small_config(), hidden_text=0.999, dropout=0.0))


def bytes_and_photos(towers):
    pixels = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    branch = PhotoTower(towers.item_tower, towers.config)
    seen = []
    hook = branch.image_encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    vectors = branch(pixels)
    hook.remove()
    return vectors, Photos(seen[0], SEEN)


def test_a_hidden_text_leaves_the_vector_of_the_photo_alone(towers):
    towers.train()
    for module in towers.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    alone, photos = bytes_and_photos(towers)
    torch.testing.assert_close(towers.item_tower(TOKENS, photos)[:6], alone)


def test_texts_of_lots_without_a_photo_are_never_hidden(towers):
    _, photos = bytes_and_photos(towers)
    kept = TwoTowers(replace(towers.config, hidden_text=0.0))
    kept.load_state_dict(towers.state_dict())
    for pair in (towers, kept):
        pair.item_tower.train().image_encoder.eval()
    torch.testing.assert_close(towers.item_tower(TOKENS, photos)[6:], kept.item_tower(TOKENS, photos)[6:])


def test_nothing_is_hidden_when_lots_are_embedded(towers):
    _, photos = bytes_and_photos(towers.eval())
    other = Tokens(TOKENS.input_ids.flip(0), TOKENS.attention_mask)
    assert (towers.item_tower(TOKENS, photos)[0] - towers.item_tower(other, photos)[0]).abs().max() > 1e-4


def test_a_card_of_before_hides_nothing_and_a_share_must_be_one():
    architecture = small_config().to_architecture()
    del architecture["hidden_text"]
    assert TowerConfig.from_architecture(architecture).hidden_text == 0.0
    with pytest.raises(InvalidInput, match="hidden_text is 1"):
        replace(small_config(), hidden_text=1.0)
