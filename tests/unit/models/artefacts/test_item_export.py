"""The item tower as ONNX: a server without torch computes the vectors of the embedding job."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_tower import WORDS, save_small_encoder, save_small_item_tower, save_small_joint_encoder, small_config
from transformers import AutoTokenizer

from models.artefacts import tower_files
from models.artefacts.item_encoder import ItemEncoder as TorchEncoder
from models.artefacts.tower_files import add_item_encoder
from models.towers.config import ImageEncoderSpec, TowerConfig
from models.towers.item_features import ITEM_FEATURES, fit_features, unfitted_features
from models.towers.published import published_towers
from models.towers.two_towers import TwoTowers
from retrieval.contracts.items import Item, item_text
from retrieval.contracts.tower_card import ITEM_FUSION_FILE, ITEM_PHOTO_FILE, TowerCard
from retrieval.encoders.item_encoder import ItemEncoder
from retrieval.errors import TowerError

LOTS = [
    Item("a", "Old ring", "a luxury ring of gold", category="jewellery", brand="Lalique", current_price=900.0, bid_count=3),
    Item("b", "New watch, vintage steel", category="watches", brand="Omega", current_price=40.0, seller_rating=4.5),
    Item("c", "blue lamp " * 40, category="lamps", brand="Unheard of"),
    Item("d", "خزانة", category="watches", brand="Omega"),
]


def featured(names: tuple[str, ...]) -> Any:
    return fit_features(replace(small_config(), features=unfitted_features(names)), [*LOTS, *LOTS]).features


@pytest.fixture(autouse=True)
def without_other_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Towers are saved without the files that serve queries, because their exports take seconds."""
    for name in ("export_query_tower", "export_image_tower"):
        monkeypatch.setattr(tower_files, name, lambda tower, path, *bits: path.touch())


def published(out: Path, config: TowerConfig, encoder: Path) -> Path:
    """Save towers of a published encoder with a random projection, so that all of their inputs count."""
    torch.manual_seed(1)
    towers = TwoTowers(config)
    for parameter in towers.item_tower.projection.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower_files.save_towers(towers, AutoTokenizer.from_pretrained(encoder).backend_tokenizer, out)


def adapted(out: Path, *, linear: bool, use_image: bool) -> Path:
    encoder = save_small_encoder(out / "encoder", [WORDS])
    image = ImageEncoderSpec(name="small-resnet", width=8, blocks=(1, 1), colour_bins=2)
    return published(
        out, TowerConfig.of_encoder(str(encoder), linear=linear, use_image=use_image, image=image, image_size=32), encoder
    )


def joint(out: Path, kind: str) -> Path:
    encoder = save_small_joint_encoder(out / "encoder", [WORDS], kind)
    return published(out, published_towers(str(encoder)), encoder)


SHAPES: dict[str, Callable[[Path], Path]] = {
    "text": lambda out: save_small_item_tower(out, use_image=False),
    "text and categories": lambda out: save_small_item_tower(
        out, use_image=False, features=featured(tuple(ITEM_FEATURES.categories))
    ),
    "text, photo and numbers at two lengths": lambda out: save_small_item_tower(
        out, features=featured(tuple(ITEM_FEATURES.numbers)), matryoshka=(8,)
    ),
    "adapted sentence encoder": lambda out: adapted(out, linear=True, use_image=False),
    "adapted sentence encoder with photos and colours": lambda out: adapted(out, linear=False, use_image=True),
    "clip": lambda out: joint(out, "clip"),
    "siglip": lambda out: joint(out, "siglip"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_exported_tower_computes_the_vectors_of_the_embedding_job(shape: str, tmp_path: Path) -> None:
    folder = SHAPES[shape](tmp_path)
    saved_at = (folder / "tower.json").stat().st_mtime_ns
    assert add_item_encoder(folder)
    assert not add_item_encoder(folder)
    card = TowerCard.load(folder, verify=True)
    assert (folder / "tower.json").stat().st_mtime_ns == saved_at  # the newest tower stays the newest
    assert (ITEM_PHOTO_FILE in card.files) == bool(card.image_size)
    texts = [item_text(lot.title, lot.description) for lot in LOTS]
    noise = np.random.default_rng(0).integers(0, 256, (4, card.image_size, card.image_size, 3), dtype=np.uint8)
    for length in card.served:
        torch_encoder, encoder = TorchEncoder.load(folder, "cpu", dimensions=length), ItemEncoder.load(folder, length)
        assert encoder.card == torch_encoder.card
        for photos in ([None] * 4, [noise[0], None, noise[2], None], list(noise)):
            expected, vectors = torch_encoder.encode(texts, photos, LOTS), encoder.encode(LOTS, photos)
            assert vectors.shape == (4, length)
            assert (expected * vectors).sum(axis=1).min() > 0.9999
            alone = np.concatenate([encoder.encode([lot], [photo]) for lot, photo in zip(LOTS, photos, strict=True)])
            np.testing.assert_allclose(alone, vectors, atol=1e-4)  # a batch changes nothing


def test_photos_and_features_count_in_the_vector(tmp_path: Path) -> None:
    folder = save_small_item_tower(tmp_path, features=featured((*ITEM_FEATURES.categories, *ITEM_FEATURES.numbers)))
    add_item_encoder(folder)
    encoder = ItemEncoder.load(folder)
    photo = np.full((32, 32, 3), 200, dtype=np.uint8)
    vectors = encoder.encode([LOTS[0], LOTS[0], replace(LOTS[0], brand="Omega")], [None, photo, None])
    assert (vectors[0] @ vectors[1:].T).max() < 0.9999


def test_a_tower_without_the_export_names_the_command(tmp_path: Path) -> None:
    folder = save_small_item_tower(tmp_path, use_image=False)
    with pytest.raises(TowerError, match=f"gavel export item {folder.name}"):
        ItemEncoder.load(folder)


def test_a_damaged_export_is_refused(tmp_path: Path) -> None:
    folder = save_small_item_tower(tmp_path, use_image=False)
    add_item_encoder(folder)
    (folder / ITEM_FUSION_FILE).write_bytes(b"no model")
    with pytest.raises(TowerError, match=ITEM_FUSION_FILE):
        ItemEncoder.load(folder)


def test_the_serving_side_imports_no_torch() -> None:
    code = "import sys, retrieval.encoders.item_encoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
