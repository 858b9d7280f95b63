"""The image branch of a tower: what is served agrees with the torch item tower, and towers without one say so."""

import os
import subprocess
import sys
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
from colour_tower import save_colour_tower
from hostile_photos import JPEG, encoded, plain
from PIL import Image
from small_tower import WORDS, save_small_item_tower, small_config

from models.artefacts.tower_files import add_image_tower, load_towers, save_towers
from models.data.images import normalise, to_unit
from models.towers.tokenizer import train_wordpiece
from models.towers.two_towers import Addition, Photos, TextEncodings, TwoTowers
from retrieval.contracts.tower_card import CARD_FILE, IMAGE_TOWER_FILE, TowerCard
from retrieval.encoders.feature_spec import FeatureSpec
from retrieval.encoders.image_encoder import ImageEncoder
from retrieval.encoders.photos import read_photo
from retrieval.errors import InvalidPhoto, NoImageBranch, TowerError

ROWS = [{"category": kind, "current_price": price} for kind in ("vase", "ring") for price in (10.0, 20.0, 90.0)]
FEATURES = FeatureSpec.fit(ROWS, categories=["category"], numbers=["current_price"])
PICTURES = [
    encoded(Image.effect_mandelbrot((80, 50 + number), (-2, -1.5, 1, 1.5), 20 + number).convert("RGB"), "PNG")
    for number in range(10)
] + [plain("JPEG", (25 * number, 250 - 25 * number, 128)) for number in range(10)]


def save(out, **changes):
    """Small towers whose image branch is exported; no weight or statistic of it is as it was born."""
    torch.manual_seed(3)
    config = replace(small_config(), matryoshka=(8,), **changes)
    tokenizer = train_wordpiece([WORDS], config.vocabulary)
    text = replace(config.text, config={**config.text.config, "vocab_size": tokenizer.get_vocab_size()})
    towers = TwoTowers(replace(config, text=text))
    for module in towers.item_tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    if isinstance(towers.item_tower.projection, Addition):
        torch.nn.init.normal_(towers.item_tower.projection.others.weight, std=0.1)
    with patch("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch()):
        return save_towers(towers, tokenizer, out)


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"hidden": 0, "dimensions": 32},
        {"features": FEATURES, "image_mean": (0.1, 0.2, 0.3)},
        {"image": replace(small_config().image, colour_bins=4), "image_std": (0.3, 0.2, 0.25)},
    ],
    ids=["projection", "addition", "features", "colours"],
)
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp("towers"), **request.param)


@torch.inference_mode()
def encode_with_torch(folder, pictures):
    """The item tower itself, given the photos, encodings of zeros for texts, and no features."""
    towers, card = load_towers(folder)
    pixels = torch.from_numpy(np.stack([read_photo(picture, card.image_size) for picture in pictures]))
    photos = Photos(normalise(to_unit(pixels), card.image_mean, card.image_std), torch.ones(len(pictures), dtype=torch.bool))
    nothing = TextEncodings(torch.zeros(len(pictures), towers.item_tower.text_encoder.width))
    return towers.item_tower(nothing, photos).numpy()


def test_what_is_served_agrees_with_the_torch_item_tower(folder):
    encoder = ImageEncoder.load(folder)
    served = np.stack([encoder.encode(picture) for picture in PICTURES])
    trained = encode_with_torch(folder, PICTURES)
    assert served.dtype == np.float32
    np.testing.assert_allclose(served, trained, atol=1e-4)
    assert np.median(served @ served.T) < 0.9999, "if all photos were alike, agreement would say nothing"


def test_a_tower_of_before_the_colours_loads_with_its_id_and_reads_none(tmp_path):
    tower = save_small_item_tower(tmp_path)
    assert "colour_bins" not in TowerCard.load(tower).architecture["image"], "a card as older versions wrote it"
    towers, card = load_towers(tower)
    assert (towers.item_tower.image_encoder.colours, card.tower_id) == (None, tower.name)
    coloured = save_small_item_tower(tmp_path, image=replace(small_config().image, colour_bins=2))
    encoder = load_towers(coloured)[0].item_tower.image_encoder
    assert (encoder.colours.bins, encoder.width) == (2, towers.item_tower.image_encoder.width + 8)


def test_a_shorter_vector_is_the_head_of_the_longer_at_unit_length(folder):
    head = ImageEncoder.load(folder).encode(JPEG)[:8]
    short = ImageEncoder.load(folder, 8)
    np.testing.assert_allclose(short.encode(JPEG), head / np.linalg.norm(head), atol=1e-6)
    assert short.tower_id == f"{folder.name}.8"


def test_the_artefact_does_not_say_where_it_was_made(folder):
    written = (folder / IMAGE_TOWER_FILE).read_bytes()
    assert b"site-packages" not in written
    assert [node.name for node in onnx.load(folder / IMAGE_TOWER_FILE).graph.input] == ["pixels"]


def test_a_photo_that_cannot_be_read_is_refused(folder):
    with pytest.raises(InvalidPhoto, match="no readable picture"):
        ImageEncoder.load(folder).encode(b"<svg/>")


def test_an_older_artefact_says_which_command_adds_the_branch_and_keeps_its_id(tmp_path):
    folder = save_small_item_tower(tmp_path)
    (folder / IMAGE_TOWER_FILE).unlink()
    card = TowerCard.load(folder)
    replace(card, files={name: digest for name, digest in card.files.items() if name != IMAGE_TOWER_FILE}).save(folder)
    with pytest.raises(NoImageBranch, match=f"gavel export image {folder.name}"):
        ImageEncoder.load(folder)
    os.utime(folder / CARD_FILE, (1_000, 1_000))
    assert add_image_tower(folder)
    assert (folder / CARD_FILE).stat().st_mtime == 1_000, "it would pass for the newest tower"
    assert not add_image_tower(folder)
    encoder = ImageEncoder.load(folder)
    assert (encoder.tower_id, TowerCard.load(folder, verify=True).tower_id) == (folder.name, folder.name)
    np.testing.assert_allclose(encoder.encode(JPEG), encode_with_torch(folder, [JPEG])[0], atol=1e-5)


def test_a_tower_of_text_alone_says_that_it_reads_no_photos(tmp_path):
    folder = save_small_item_tower(tmp_path, use_image=False)
    assert not (folder / IMAGE_TOWER_FILE).exists()
    for use in (ImageEncoder.load, add_image_tower):
        with pytest.raises(NoImageBranch, match="reads text alone"):
            use(folder)


def test_a_branch_that_was_never_trained_says_so(tmp_path):
    save_colour_tower(tmp_path, {"red": np.zeros(4, dtype=np.float32)})
    with pytest.raises(NoImageBranch, match="never trained"):
        ImageEncoder.load(tmp_path).encode(JPEG)


def test_a_missing_damaged_or_wrong_branch_is_the_towers_fault(tmp_path):
    directions = {"red": np.eye(4, dtype=np.float32)[0], "blue": np.eye(4, dtype=np.float32)[1]}
    card = save_colour_tower(tmp_path, directions)
    replace(card, dimensions=5).save(tmp_path)
    with pytest.raises(TowerError, match="its fields are not those that"):
        ImageEncoder.load(tmp_path)
    card.save(tmp_path)
    (tmp_path / IMAGE_TOWER_FILE).write_bytes((tmp_path / IMAGE_TOWER_FILE).read_bytes()[:200])
    with pytest.raises(TowerError, match="copy it again"):
        ImageEncoder.load(tmp_path)
    with pytest.raises(TowerError, match="is not the file"):
        TowerCard.load(tmp_path, verify=True)
    (tmp_path / IMAGE_TOWER_FILE).unlink()
    with pytest.raises(TowerError, match="is missing"):
        ImageEncoder.load(tmp_path)


def test_serving_photos_needs_neither_torch_nor_transformers_and_serving_words_no_pillow(tmp_path):
    save_colour_tower(tmp_path, {"red": np.eye(4, dtype=np.float32)[0]})
    code = (
        "import sys; from pathlib import Path; "
        "import lambdas.query_api.app, retrieval.search.service, retrieval.encoders.query_encoder; "
        "before = 'PIL' in sys.modules; from retrieval.encoders.image_encoder import ImageEncoder; "
        f"ImageEncoder.load(Path({str(tmp_path)!r})).encode(bytes.fromhex({JPEG.hex()!r})); "
        "print(before, sorted({'torch', 'transformers', 'faiss', 'pandas', 'xgboost'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"
