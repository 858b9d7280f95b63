"""Every preset: shapes, unit lengths, and what the item tower makes of lots with and without photos."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from models.presets import PRESETS, TowerConfig, preset
from models.towers import Photos, Tokens, TwoTowers
from retrieval.errors import InvalidInput, TowerError


@cache
def fresh(name: str) -> TwoTowers:
    """A preset with random weights and with eyes, built once: the big one takes seconds."""
    torch.manual_seed(0)
    return TwoTowers(replace(PRESETS[name].fresh(), use_image=True)).eval()


@pytest.fixture(params=list(PRESETS))
def towers(request) -> TwoTowers:
    return fresh(request.param)


def tokens(rows: int, length: int = 6) -> Tokens:
    ids = torch.randint(5, 1_000, (rows, length), generator=torch.Generator().manual_seed(rows))
    return Tokens(ids, torch.ones_like(ids))


def pixels(towers: TwoTowers, rows: int) -> torch.Tensor:
    side = towers.config.image_size
    return torch.rand(rows, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_lots_and_queries_become_unit_vectors_of_one_length(towers):
    lots = towers.item_tower(tokens(2), Photos(pixels(towers, 2), torch.tensor([True, True])))
    queries = towers.query_tower(*tokens(3))
    assert lots.shape == (2, towers.config.dimensions)
    assert queries.shape == (3, towers.config.dimensions)
    for vectors in (lots, queries):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_the_big_preset_has_the_widths_of_the_design():
    towers = fresh("distilbert-resnet50")
    item, query = towers.item_tower.projection, towers.query_tower.projection
    assert (item[0].in_features, item[0].out_features, item[3].out_features) == (768 + 2048, 512, 128)
    assert (query[0].in_features, query[0].out_features, query[3].out_features) == (768, 512, 128)
    assert item[2].p == query[2].p == 0.2
    assert towers.item_tower.text_encoder.pooling == "cls"
    assert towers.item_tower.text_encoder is not towers.query_tower.text_encoder


@torch.inference_mode()
def test_a_photo_changes_its_own_lot_and_no_other(towers):
    if towers.config.hidden == 0:  # as after the first steps of training
        torch.nn.init.normal_(towers.item_tower.projection.others.weight, generator=torch.Generator().manual_seed(0))
    text = tokens(3)
    blind = towers.item_tower(text)
    seen = towers.item_tower(text, Photos(pixels(towers, 1), torch.tensor([False, True, False])))
    torch.testing.assert_close(seen[[0, 2]], blind[[0, 2]])
    assert not torch.allclose(seen[1], blind[1], atol=1e-4)


@torch.inference_mode()
def test_padding_changes_no_vector(towers):
    text = tokens(2)
    padded = Tokens(torch.cat([text.input_ids, torch.zeros(2, 5, dtype=torch.long)], 1), torch.tensor([[1] * 6 + [0] * 5] * 2))
    torch.testing.assert_close(towers.query_tower(*padded), towers.query_tower(*text), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(towers.item_tower(padded), towers.item_tower(text), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_tower_of_text_alone_ignores_photos():
    towers = TwoTowers(replace(preset("compact"), use_image=False)).eval()
    seen = towers.item_tower(tokens(2), Photos(torch.rand(2, 3, 64, 64), torch.tensor([True, True])))
    torch.testing.assert_close(seen, towers.item_tower(tokens(2)))


def test_the_temperature_never_falls_below_a_hundredth():
    towers = TwoTowers(replace(preset("compact"), use_image=False))
    assert towers.scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        towers.logit_scale.fill_(50.0)
    assert towers.scale.item() == pytest.approx(100.0)


@pytest.mark.parametrize("name", list(PRESETS))
def test_an_architecture_survives_its_card(name):
    config = PRESETS[name]
    assert TowerConfig.from_architecture(json.loads(json.dumps(config.to_architecture()))) == config


def test_an_architecture_of_another_version_is_refused_with_the_way_out():
    with pytest.raises(TowerError, match="train again"):
        TowerConfig.from_architecture({**preset("compact").to_architecture(), "moon_phase": 3})
    with pytest.raises(TowerError, match="image"):
        TowerConfig.from_architecture({"preset": "compact"})


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(InvalidInput, match=r"'huge'.*compact"):
        preset("huge")


def test_a_fresh_configuration_names_nothing_to_download():
    config = preset("distilbert-resnet50").fresh()
    assert (config.text.model, config.image.weights) == ("", "")
