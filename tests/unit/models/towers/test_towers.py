"""Every preset: shapes, unit lengths, and what the item tower makes of lots with and without photos."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from small_tower import small_config

from models.config.training import TrainingConfig
from models.data.batches import Batch
from models.towers.config import PRESETS, TowerConfig, preset
from models.towers.features import Features
from models.towers.item_features import ITEM_FEATURES, fit_features, item_row
from models.towers.two_towers import Photos, TextEncodings, Tokens, TwoTowers
from models.training.losses import info_nce, prefixes
from models.training.step import batch_loss
from retrieval.contracts.items import Item
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


LOTS = [
    Item("a", "Art Deco vase", category="glass", brand="Lalique", current_price=900.0, seller_rating=4.5, bid_count=3),
    Item("b", "Glass vase", category="glass", brand="Lalique", current_price=40.0, bid_count=0),
    Item("c", "Steel watch", category="watches", brand="Omega", current_price=300.0, seller_rating=3.0, bid_count=9),
    Item("d", "Old watch", category="watches", brand="Omega"),
]


def with_features(**changes) -> TwoTowers:
    """Small towers of text alone that also read all features of the four lots."""
    torch.manual_seed(0)
    return TwoTowers(fit_features(replace(small_config(use_image=False), features=ITEM_FEATURES, **changes), LOTS)).eval()


@torch.inference_mode()
def test_features_move_their_own_lot_and_missing_ones_are_a_normal_case():
    towers = with_features()
    spec, text = towers.config.features, tokens(1)
    same_text = Tokens(text.input_ids.repeat(3, 1), text.attention_mask.repeat(3, 1))
    lots = towers.item_tower(
        same_text, features=Features.of(spec, [item_row(LOTS[0]), item_row(LOTS[2]), item_row(Item("e", "Bare"))])
    )
    assert lots.shape == (3, towers.config.dimensions)
    torch.testing.assert_close(lots.norm(dim=1), torch.ones(3))
    assert not torch.allclose(lots[0], lots[1], atol=1e-3)
    assert torch.isfinite(lots[2]).all()
    torch.testing.assert_close(towers.item_tower(text, features=Features.of(spec, [{}])), towers.item_tower(text))


def test_features_are_learnt_from_the_lots_and_go_with_the_card():
    config = with_features().config
    assert config.features.categories == {"category": ("glass", "watches"), "brand": ("Lalique", "Omega")}
    assert set(config.features.numbers) == {"current_price", "seller_rating", "bid_count"}
    again = TowerConfig.from_architecture(json.loads(json.dumps(config.to_architecture())))
    assert again == config
    assert {n: p.shape for n, p in TwoTowers(again).state_dict().items()} == {
        n: p.shape for n, p in TwoTowers(config).state_dict().items()
    }
    assert fit_features(small_config(), LOTS) == small_config(), "a tower without features stays without"


def test_every_weight_of_a_tower_with_features_is_trained():
    towers = with_features().train()
    queries, lots, scale = towers(tokens(4), tokens(4), None, Features.of(towers.config.features, [item_row(lot) for lot in LOTS]))
    ((queries @ lots.T) * scale).square().sum().backward()
    without = [name for name, parameter in towers.named_parameters() if parameter.grad is None]
    assert without in ([], ["item_tower.no_image"])


@torch.inference_mode()
def test_without_a_hidden_layer_an_untrained_lot_is_its_text_whatever_its_photo_and_features():
    config = small_config()
    direct = replace(config, hidden=0, dimensions=0, features=ITEM_FEATURES)
    towers = TwoTowers(fit_features(direct, LOTS)).eval()
    assert towers.config.dimensions == towers.item_tower.text_encoder.width == 32
    text, spec = tokens(2), towers.config.features
    lots = towers.item_tower(
        text, Photos(pixels(towers, 1), torch.tensor([True, False])), Features.of(spec, [item_row(LOTS[0]), {}])
    )
    torch.testing.assert_close(lots, towers.query_tower(*text), atol=0, rtol=0)


def test_the_first_step_of_training_reaches_the_photo_that_an_untrained_tower_ignores():
    towers = TwoTowers(replace(small_config(), hidden=0, dimensions=0)).train()
    target = torch.nn.functional.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    lots = towers.item_tower(tokens(2), Photos(pixels(towers, 1), torch.tensor([True, False])))
    (lots * target).sum().backward()
    assert towers.item_tower.projection.others.weight.grad.abs().sum() > 0


@torch.inference_mode()
def test_another_length_than_the_encoders_is_reached_by_one_layer_that_both_towers_start_with():
    towers = TwoTowers(replace(small_config(use_image=False), hidden=0, dimensions=8)).eval()
    lots, queries = towers.item_tower(tokens(3)), towers.query_tower(*tokens(3))
    assert lots.shape == (3, 8)
    torch.testing.assert_close(lots, queries)


@torch.inference_mode()
def test_towers_go_on_from_encodings_as_from_what_was_encoded():
    torch.manual_seed(0)
    towers = TwoTowers(small_config()).eval()
    text, seen = tokens(3), torch.tensor([True, False, True])
    photos = Photos(pixels(towers, 2), seen)
    whole = towers(text, text, photos)
    encoded = TextEncodings(towers.item_tower.text_encoder(*text))
    later = towers(encoded, encoded, Photos(towers.item_tower.image_encoder(photos.pixels), seen))
    for found, expected in zip(later, whole, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("text", "image", "frozen"),
    [("none", "none", ("text_encoder", "image_encoder")), ("none", "all", ("text_encoder",)), ("all", "none", ("image_encoder",))],
)
def test_a_frozen_encoder_takes_no_gradient_and_the_heads_do(text, image, frozen):
    config = small_config()
    config = replace(config, text=replace(config.text, trainable=text), image=replace(config.image, trainable=image))
    towers = TwoTowers(config).train()
    queries, lots, _ = towers(tokens(2), tokens(2), Photos(pixels(towers, 2), torch.tensor([True, True])))
    (queries * lots).sum().backward()
    for name, parameter in towers.named_parameters():
        if any(f".{part}." in name for part in frozen):
            assert parameter.grad is None, name
        elif "projection" in name or "_encoder." in name:
            assert parameter.grad is not None, name


def test_matryoshka_prefixes_have_unit_length_and_begin_with_the_whole():
    vectors = torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    whole, *shorter = prefixes(vectors, (8, 4))
    assert whole is vectors
    assert [part.shape for part in shorter] == [(5, 8), (5, 4)]
    for part in shorter:
        torch.testing.assert_close(part.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(torch.nn.functional.cosine_similarity(part, vectors[:, : part.shape[1]]), torch.ones(5))
    assert len(list(prefixes(vectors))) == 1


def test_the_matryoshka_loss_is_the_mean_of_the_losses_at_every_length():
    random = torch.Generator().manual_seed(0)
    queries, lots = (torch.nn.functional.normalize(torch.randn(6, 16, generator=random), dim=1) for _ in range(2))
    is_relevant, scale = torch.eye(6, dtype=torch.bool), torch.tensor(10.0)
    batch = Batch(None, None, None, None, np.arange(6), is_relevant, None, None, (6,), (6,))
    config = TrainingConfig(tower=replace(small_config(), matryoshka=(8, 4)))
    found = batch_loss(queries, lots, scale, batch, config.stages[0], config)
    heads = [[torch.nn.functional.normalize(v[:, :n], dim=1) for v in (queries, lots)] for n in (16, 8, 4)]
    expected = torch.stack([info_nce(q, i, scale, is_relevant=is_relevant) for q, i in heads]).mean()
    torch.testing.assert_close(found, expected)


def test_a_matryoshka_length_must_be_shorter_than_the_vector():
    for lengths in ((128,), (0,), (64, 200)):
        with pytest.raises(InvalidInput, match="matryoshka"):
            replace(preset("compact"), matryoshka=lengths)


def test_an_architecture_from_before_there_were_features_still_loads():
    values = preset("compact").to_architecture()
    old = {name: value for name, value in values.items() if name not in ("features", "matryoshka")}
    old["text"] = {name: value for name, value in values["text"].items() if name != "trainable"}
    old["image"] = {name: value for name, value in values["image"].items() if name != "trainable"}
    assert TowerConfig.from_architecture(json.loads(json.dumps(old))) == preset("compact")


def test_the_big_preset_reads_256_tokens_and_the_multilingual_one_keeps_its_text_encoder_frozen():
    assert PRESETS["distilbert-resnet50"].max_length == 256
    multilingual = PRESETS["multilingual"]
    assert (multilingual.text.trainable, multilingual.linear) == ("none", True), "linear maps are what is trained"
