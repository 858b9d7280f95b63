"""Published encoders by name or folder: their pooling, their space of words and pictures, and their artefact."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_tower import save_small_encoder, save_small_joint_encoder
from torch.nn import functional as F
from transformers import AutoModel

from catalog.folder import CatalogFolder, Qrels, SplitData, TrainingPair, write_catalog, write_items
from models.artefacts.item_encoder import ItemEncoder
from models.artefacts.model_card import MODEL_CARD_FILE
from models.artefacts.published import save_published_towers
from models.artefacts.run_record import read_record
from models.config.distillation import DistillationConfig
from models.towers.config import TextEncoderSpec
from models.towers.encoders import TextEncoder
from models.towers.published import published_towers, stated_pooling
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import Photos, Tokens, TwoTowers
from models.training.adaptation import distil_towers
from processing.evaluation.zero_shot import SentenceEncoder
from retrieval.contracts.items import Item
from retrieval.contracts.tower_card import ITEM_TOWER_FILE, TowerCard
from retrieval.encoders.image_encoder import ImageEncoder
from retrieval.encoders.query_encoder import QueryEncoder, prepare_tokenizer, tokenize
from retrieval.errors import InvalidInput, TowerError

TEXTS = ["red vase", "blue ring of gold", "a chair"]
SIDE = 16


@pytest.fixture(scope="module", params=["clip", "siglip"])
def joint(request, tmp_path_factory) -> tuple[str, Path]:
    """Kind and folder of a small model for words and pictures."""
    return request.param, save_small_joint_encoder(tmp_path_factory.mktemp("encoders") / "my-model", TEXTS, request.param, SIDE)


@pytest.fixture
def without_export(monkeypatch):
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())
    monkeypatch.setattr("models.artefacts.tower_files.export_image_tower", lambda towers, path: path.touch())


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@torch.inference_mode()
def published_vectors(kind: str, folder: Path, towers: TwoTowers, photos: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the unit vectors of TEXTS and of photos as transformers computes them."""
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = prepare_tokenizer(make_tokenizer(published_towers(str(folder)), ()), towers.config.max_length)
    ids, mask = tokenize(tokenizer, TEXTS, towers.config.max_length)
    if kind == "siglip":  # trained on texts padded to all positions, without a mask
        padded = np.zeros((len(TEXTS), towers.config.max_length), np.int64)
        padded[:, : ids.shape[1]] = ids
        texts = model.get_text_features(input_ids=torch.from_numpy(padded))
    else:
        texts = model.get_text_features(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    pixels = ((torch.from_numpy(np.stack(photos)) / 255 - mean) / std).permute(0, 3, 1, 2).float()
    pictures = model.get_image_features(pixel_values=pixels)
    return F.normalize(texts.pooler_output, dim=1), F.normalize(pictures.pooler_output, dim=1)


def test_an_untrained_item_is_the_sum_of_its_text_and_its_photo(joint):
    kind, folder = joint
    config = published_towers(str(folder))
    assert (config.preset, config.image_size, config.image_mean) == ("my-model", SIDE, (0.4, 0.5, 0.6))
    towers = TwoTowers(config).eval()
    texts, pictures = published_vectors(kind, folder, towers, [photo(0), photo(1)])
    tokenizer = prepare_tokenizer(make_tokenizer(config, ()), towers.config.max_length)
    tokens = Tokens(*map(torch.from_numpy, tokenize(tokenizer, TEXTS, towers.config.max_length)))
    mean, std = torch.tensor(config.image_mean), torch.tensor(config.image_std)
    pixels = ((torch.from_numpy(np.stack([photo(0), photo(1)])) / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        queries = towers.query_tower.encode(tokens)
        items = towers.item_tower(tokens, Photos(pixels, torch.tensor([True, False, True])))
    torch.testing.assert_close(queries, texts)
    sums = torch.stack([texts[0] + pictures[0], texts[1], texts[2] + pictures[1]])
    torch.testing.assert_close(items, F.normalize(sums, dim=1))
    assert not [name for name, parameter in towers.named_parameters() if "encoder" in name and parameter.requires_grad]


def test_a_published_model_is_stored_and_served_as_a_tower_and_a_second_call_finds_it(joint, tmp_path, monkeypatch):
    kind, folder = joint
    tower = save_published_towers(str(folder), tmp_path)
    texts, pictures = published_vectors(kind, folder, TwoTowers(published_towers(str(folder))), [photo(0)])
    served = QueryEncoder.load(tower).encode(TEXTS)
    assert (served * texts.numpy()).sum(axis=1).min() > 0.99, "int8"
    items = ItemEncoder.load(tower, "cpu").encode(TEXTS, [photo(0), None, None])
    np.testing.assert_allclose(items[1:], texts[1:].numpy(), atol=1e-5)
    np.testing.assert_allclose(items[0], F.normalize(texts[:1] + pictures, dim=1)[0].numpy(), atol=1e-5)
    assert ImageEncoder.load(tower).card.has_image_encoder
    record = read_record(tower)
    assert (record["stage"], record["start_from"]) == ("published", str(folder))
    assert f"the vectors of {folder} as published" in (tower / MODEL_CARD_FILE).read_text()
    monkeypatch.setattr("models.artefacts.published.save_towers", pytest.fail)
    assert save_published_towers(str(folder), tmp_path) == tower


def write_shop(catalog: Path, *, grade: int) -> None:
    """Lots with titles that say what queries ask for, half of them with photos of noise."""
    titles = [f"{text} number {number}" for number in range(4) for text in TEXTS]
    items = [Item(f"lot-{n:02}", title, image=f"{n}.png" if n % 2 else "") for n, title in enumerate(titles)]
    write_items(catalog / "items" / "lots.parquet", items)
    for n in range(1, len(items), 2):
        Image.fromarray(photo(n)).save(catalog / "items" / f"{n}.png")
    qrels = Qrels({text: text for text in TEXTS}, {text: {f"lot-{n:02}": grade} for n, text in enumerate(TEXTS)})
    splits = {
        "train": SplitData(["lots.parquet"], [TrainingPair(text, "lot-00") for text in TEXTS]),
        "val": SplitData(["lots.parquet"], qrels=qrels),
    }
    write_catalog(catalog, name="plain", seed=0, splits=splits, example_queries=["red vase"])


def test_photos_that_say_nothing_are_left_out_of_an_adapted_joint_model(joint, tmp_path, without_export):
    write_shop(tmp_path / "catalog", grade=3)
    phases: list[str] = []

    def progress(label: str):
        phases.append(label)
        return lambda done, total: None

    config = DistillationConfig(steps=20, queries=3, learning_rate=3e-3)
    towers = published_towers(str(joint[1]))
    made = distil_towers(CatalogFolder(tmp_path / "catalog"), towers, config, tmp_path / "towers", progress)
    assert phases == ["encode lots", "encode queries", "learn to rank", "encode photos", "learn to rank with photos"]
    assert (made.steps, made.planned_steps, made.cut_by_clock) == (40, 40, False)
    assert list(made.choice.metrics) == ["keyword", "text", "text + photo", "hybrid"]
    assert not made.choice.reads_photos
    assert TowerCard.load(made.tower_folder).image_size == 0
    assert made.after == made.choice.metrics["text"]
    assert made.choice.lines[1] in (made.tower_folder / MODEL_CARD_FILE).read_text()


def test_photos_of_a_sentence_encoder_cannot_be_asked_for(tmp_path):
    write_shop(tmp_path / "catalog", grade=3)
    towers = published_towers(str(save_small_encoder(tmp_path / "encoder", TEXTS)))
    with pytest.raises(InvalidInput, match="'encoder' read no photos; leave --use-photos always out"):
        distil_towers(CatalogFolder(tmp_path / "catalog"), towers, DistillationConfig(photos="always"), tmp_path / "towers")


def test_a_joint_model_is_adapted_with_its_photos_and_stays_frozen(joint, tmp_path, without_export):
    _, folder = joint
    catalog = tmp_path / "catalog"
    write_shop(catalog, grade=1)
    phases: list[str] = []

    def progress(label: str):
        phases.append(label)
        return lambda done, total: None

    config = DistillationConfig(steps=20, queries=3, learning_rate=3e-3, photos="always")
    made = distil_towers(CatalogFolder(catalog), published_towers(str(folder)), config, tmp_path / "towers", progress)
    assert phases == ["encode lots", "encode queries", "encode photos", "learn to rank"]
    assert made.losses[1] < made.losses[0]
    weights, untrained = load_file(made.tower_folder / ITEM_TOWER_FILE), TwoTowers(published_towers(str(folder))).state_dict()
    frozen = {name for name in weights if "encoder" in name}
    assert {name.split(".")[1] for name in frozen} == {"text_encoder", "image_encoder"}
    assert all(torch.equal(weights[name], untrained[name]) for name in frozen)
    others = weights["item_tower.projection.others.weight"]
    assert not torch.equal(others, torch.eye(len(others))), "the photo's head is trained"


def write_modules(folder: Path, kinds: list[str], pooling: dict[str, object]) -> None:
    """Write the files by which sentence-transformers describes a model."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("stated", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"embedding_dimension": 24, "pooling_mode": "cls"}, "cls"),
        ({"embedding_dimension": 24, "pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_a_sentence_encoder_is_pooled_as_its_files_say(tmp_path, stated, pooling):
    folder = save_small_encoder(tmp_path, TEXTS)
    assert stated_pooling(str(folder)) is None
    assert published_towers(str(folder)).text.pooling == "mean"
    write_modules(folder, ["Transformer", "Pooling", "Normalize"], stated)
    assert published_towers(str(folder)).text.pooling == pooling
    encoder = SentenceEncoder(str(folder))
    untrained = TwoTowers(published_towers(str(folder))).eval()
    tokenizer = prepare_tokenizer(make_tokenizer(published_towers(str(folder)), ()), 32)
    with torch.inference_mode():
        vectors = untrained.query_tower(*map(torch.from_numpy, tokenize(tokenizer, TEXTS, 32)))
    np.testing.assert_allclose(encoder.encode(TEXTS), vectors.numpy(), atol=1e-6)


def test_what_the_towers_cannot_compute_is_refused_by_name(tmp_path, joint):
    folder = save_small_encoder(tmp_path / "encoder", TEXTS)
    write_modules(folder, ["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True})
    with pytest.raises(InvalidInput, match="Dense"):
        published_towers(str(folder))
    write_modules(folder, ["Transformer", "Pooling"], {"pooling_mode_lasttoken": True})
    with pytest.raises(InvalidInput, match="lasttoken"):
        published_towers(str(folder))
    with pytest.raises(TowerError, match="neither a readable local path"):
        published_towers(str(tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match="compact"):
        save_published_towers("compact", tmp_path)
    with pytest.raises(TowerError, match="words and pictures"):
        TextEncoder(TextEncoderSpec(model=str(joint[1])))
