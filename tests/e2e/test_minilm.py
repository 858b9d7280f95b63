"""A published sentence encoder as a tower: untrained it is that encoder, and what serves it says the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from minilm import minilm_folder
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from models.artefacts.tower_files import load_towers, save_towers
from models.towers.config import TowerConfig, preset
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import Tokens, TwoTowers
from retrieval.contracts.tower_card import QUERY_TOWER_FILE
from retrieval.encoders.query_encoder import QueryEncoder, tokenize
from retrieval.errors import InvalidInput

COLOURS = ("red", "blue", "emerald", "golden", "Off-White")
KINDS = ("vase", "watch", "armless chair", "toy car with a crack", "film camera", "ring", "teapot", "mirror")
MAKERS = ("by Okada", "signed Lindqvist", "", "1950s", "luxury vintage")
TEXTS = [f"{colour} {kind} {maker}".strip() for colour in COLOURS for kind in KINDS for maker in MAKERS]


@pytest.fixture(scope="module")
def config() -> TowerConfig:
    minilm = preset("minilm")
    return replace(minilm, text=replace(minilm.text, model=str(minilm_folder())))


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    """The untrained towers, saved as training saves them."""
    return save_towers(TwoTowers(config), make_tokenizer(config, []), tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def published() -> np.ndarray:
    """The texts as the encoder's authors compute them: mean over tokens, unit length."""
    model, tokenizer = AutoModel.from_pretrained(minilm_folder()).eval(), AutoTokenizer.from_pretrained(minilm_folder())
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.inference_mode():
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()


def test_untrained_towers_are_the_published_encoder(folder, published):
    towers, card = load_towers(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    ids, mask = (torch.from_numpy(array) for array in tokenize(tokenizer, TEXTS, card.max_length))
    with torch.inference_mode():
        for vectors in (towers.query_tower(ids, mask), towers.item_tower(Tokens(ids, mask))):
            np.testing.assert_allclose(vectors.numpy(), published, atol=1e-5)
    assert (card.dimensions, card.image_size) == (384, 0)


def test_the_int8_graph_agrees_with_the_published_encoder_and_keeps_its_neighbours(folder, published):
    served = QueryEncoder.load(folder).encode(TEXTS)
    assert (served * published).sum(axis=1).min() >= 0.99
    nearest = np.argsort(-(published @ published.T), axis=1)[:, :10]
    found = np.argsort(-(served @ published.T), axis=1)[:, :10]
    kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(nearest, found, strict=True)])
    assert kept >= 0.85
    assert (folder / QUERY_TOWER_FILE).stat().st_size < 25e6


def test_the_tokenizer_in_the_artefact_is_the_published_one_without_its_lengths(folder):
    kept = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    assert theirs.truncation["max_length"] == theirs.padding["length"] == 128, "else this test says nothing"
    assert kept.truncation is None
    assert kept.padding is None
    theirs.no_truncation()
    theirs.no_padding()
    assert kept.to_str() == theirs.to_str()
    assert kept.encode("RED Vase").tokens == ["[CLS]", "red", "vase", "[SEP]"]


def test_an_encoder_given_by_its_folder_brings_its_own_width():
    towers = TwoTowers(TowerConfig.of_encoder(str(minilm_folder()), trainable="last-2", pooling="cls"))
    assert towers.config.dimensions == 384
    assert towers.config.text.pooling == "cls"
    assert towers.config.text.trainable == "last-2"


def test_the_4_bit_graph_is_a_quarter_smaller_and_agrees_with_the_published_encoder(config, folder, published, tmp_path):
    config = replace(config, query_bits=4)
    small = save_towers(TwoTowers(config), make_tokenizer(config, []), tmp_path)
    cosines = (QueryEncoder.load(small).encode(TEXTS) * published).sum(axis=1)
    assert cosines.mean() >= 0.985
    assert cosines.min() >= 0.97
    assert (small / QUERY_TOWER_FILE).stat().st_size <= 0.75 * (folder / QUERY_TOWER_FILE).stat().st_size
    assert load_towers(small)[0].config.query_bits == 4
    with pytest.raises(InvalidInput, match="8 or 4"):
        replace(config, query_bits=6)
