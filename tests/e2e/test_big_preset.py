"""The big preset with random weights, through its whole artefact: DistilBERT and ResNet50 at their real size."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from models.artefacts.item_encoder import ItemEncoder
from models.artefacts.tower_files import load_towers, save_towers
from models.towers.config import preset
from models.towers.tokenizer import train_wordpiece
from models.towers.two_towers import TwoTowers
from retrieval.contracts.tower_card import ITEM_TOWER_FILE, QUERY_TOWER_FILE
from retrieval.encoders.query_encoder import QueryEncoder, load_tokenizer, tokenize

TEXTS = [f"{colour} {kind} of the {year}s" for colour in ("red", "blue") for kind in ("vase", "watch") for year in (1920, 1950)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    towers = TwoTowers(preset("distilbert-resnet50").fresh())
    return save_towers(towers, train_wordpiece(TEXTS, 1_000), tmp_path_factory.mktemp("towers"))


@torch.inference_mode()
def test_the_served_query_tower_agrees_with_torch(folder):
    encoder = QueryEncoder.load(folder)
    towers, card = load_towers(folder)
    ids, mask = tokenize(load_tokenizer(folder, card), TEXTS, card.max_length)
    trained = towers.query_tower(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    served = encoder.encode(TEXTS)
    assert served.shape == (len(TEXTS), 128)
    assert (served * trained).sum(axis=1).min() >= 0.99


def test_lots_come_out_of_the_artefact_as_unit_vectors(folder):
    encoder = ItemEncoder.load(folder)
    photo = np.full((224, 224, 3), 128, np.uint8)
    vectors = encoder.encode(["red vase", "blue watch"], [photo, None])
    assert vectors.shape == (2, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_matrices_that_serve_are_int8_and_both_text_encoders_are_kept(folder):
    with safe_open(folder / ITEM_TOWER_FILE, "pt") as weights:
        names = set(weights.keys())
    assert {"item_tower", "query_tower"} <= {name.split(".")[0] for name in names if ".text_encoder." in name}
    assert (folder / QUERY_TOWER_FILE).stat().st_size < 69e6  # 67 M numbers in int8; with a tokenizer.json below 70 MB
