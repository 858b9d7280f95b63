"""`gavel train --features`: the item tower reads category, brand and numbers, in training as in the embedding job."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands_in_process import gavel, small_workspace
from small_tower import save_small_encoder, small_config

from catalog.folder import CatalogFolder, Qrels, SplitData, TrainingPair, write_catalog, write_items
from models.artefacts.item_encoder import ItemEncoder
from models.artefacts.model_card import write_model_card
from models.config.training import TrainingConfig
from models.training.two_towers import train_towers
from processing.evaluation.corpus import release_items
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item, item_text
from retrieval.errors import InvalidInput

BRANDS = ("Omega", "Seiko", "Casio", "Tissot")
CATEGORIES = ("watch", "ring", "vase", "lamp")


def write_shop(folder: Path) -> CatalogFolder:
    """A catalogue whose queries name brand and category, and whose titles name neither."""
    items, pairs = [], []
    for number in range(120):
        brand, category = BRANDS[number % 4], CATEGORIES[number // 4 % 4]
        lot = Item(f"lot-{number:03}", "old lot", category=category, brand=brand, current_price=10.0 + number, bid_count=number % 7)
        items.append(lot)
        pairs.append(TrainingPair(f"{brand} {category}", lot.item_id))
    write_items(folder / "items" / "lots.parquet", items)
    graded: dict[str, dict[str, int]] = {}
    for pair in pairs:
        graded.setdefault(pair.query, {})[pair.item_id] = 3
    splits = {
        "train": SplitData(["lots.parquet"], pairs),
        "val": SplitData(["lots.parquet"], qrels=Qrels({query: query for query in graded}, graded)),
    }
    write_catalog(folder, name="shop", seed=0, splits=splits, example_queries=["Omega watch"])
    return CatalogFolder(folder)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """A home with the shop; the compact preset is a small one here."""
    home = tmp_path_factory.mktemp("home")
    write_shop(home / "catalogs" / "shop")
    with small_workspace(home):
        yield home


def train(*more: object) -> Any:
    return gavel("train", "--text-only", "--batch-size", 16, "--epochs", 4, "--learning-rate", 0.01, *more)


def lots_of(home: Path) -> list[Item]:
    return [row for row in read_items(home / "catalogs" / "shop" / "items" / "lots.parquet") if isinstance(row, Item)]


def encode(tower: Path, items: list[Item]) -> np.ndarray:
    return ItemEncoder.load(tower, "cpu").encode(
        [item_text(item.title, item.description) for item in items], [None] * len(items), items
    )


@pytest.fixture(scope="module")
def chosen(home: Path) -> Any:
    """What `--features auto` prints on a catalogue where the features say everything."""
    return train("--features", "auto")


def test_features_are_stored_because_they_gain_on_the_val_queries(chosen: Any) -> None:
    compared: Mapping[str, Mapping[str, float]] = chosen["compared_features"]
    names = "category,brand,current_price,bid_count"
    assert list(compared) == ["none", names], "no lot has a seller_rating"
    assert compared[names]["ndcg_at_10"] > compared["none"]["ndcg_at_10"]
    assert chosen["features"] == names.split(",")
    record = json.loads((Path(chosen["tower"]) / "training.json").read_text())
    assert record["compared_features"] == compared
    assert record["settings"]["features"] == names


def test_the_embedding_job_and_a_loaded_tower_give_the_same_vectors(chosen: Any, home: Path) -> None:
    embedded = gavel("embed")
    assert embedded["tower_id"] == chosen["tower_id"]
    stored = {item.item_id: item.vector for item in release_items(Path(embedded["release"]))}
    items = lots_of(home)
    loaded = encode(Path(chosen["tower"]), items)
    np.testing.assert_allclose(np.stack([stored[item.item_id] for item in items]), loaded, atol=1e-5)


def test_each_feature_moves_the_vector_and_missing_and_unseen_values_have_one(chosen: Any) -> None:
    item = Item("a", "old lot", category="watch", brand="Omega", current_price=50.0, bid_count=3)
    changes = ({"brand": "Seiko"}, {"category": "ring"}, {"current_price": 100.0}, {"current_price": None}, {"bid_count": 6})
    vectors = encode(Path(chosen["tower"]), [item, *(replace(item, **change) for change in changes)])
    assert (np.abs(vectors[1:] - vectors[0]).max(axis=1) > 1e-4).all()
    unseen = encode(Path(chosen["tower"]), [replace(item, brand=brand) for brand in ("Rolex", "Swatch", "")])
    np.testing.assert_array_equal(unseen[0], unseen[1])
    np.testing.assert_array_equal(unseen[0], unseen[2])
    np.testing.assert_allclose(np.linalg.norm(unseen, axis=1), 1, atol=1e-5)


def test_some_features_by_name_beside_a_frozen_pretrained_encoder(home: Path, tmp_path: Path) -> None:
    encoder = save_small_encoder(tmp_path / "encoder", ["old lot watch ring vase lamp", *BRANDS])
    options = ["--preset", "multilingual", "--text-model", encoder, "--features", "brand,category", "--max-length", 20]
    made = train(*options)
    card = json.loads((Path(made["tower"]) / "tower.json").read_text())
    assert (made["features"], card["max_length"]) == (["category", "brand"], 20)
    assert card["architecture"]["text"]["trainable"] == "none", "the default of this preset"
    assert "structured features" in write_model_card(Path(made["tower"])).read_text()


def test_a_tower_without_a_gain_is_stored_without_features(home: Path, tmp_path: Path) -> None:
    """Lots of one category and one price: their features tell nothing that their titles do not."""
    items = [
        Item(f"lot-{n}", f"{brand} {category}", category="lot", current_price=5.0) for n, (brand, category) in enumerate(pairs())
    ]
    write_items(tmp_path / "items" / "lots.parquet", items)
    known = [TrainingPair(item.title, item.item_id) for item in items]
    judged = Qrels({pair.query: pair.query for pair in known}, {pair.query: {pair.item_id: 3} for pair in known})
    splits = {"train": SplitData(["lots.parquet"], known), "val": SplitData(["lots.parquet"], qrels=judged)}
    write_catalog(tmp_path, name="plain", seed=0, splits=splits, example_queries=["Omega watch"])
    made = train("--catalog", tmp_path, "--features", "auto", "--epochs", 1)
    without, with_features = made["compared_features"].values()
    gained = sum(with_features[m] for m in ("recall_at_50", "ndcg_at_10")) > sum(without[m] for m in ("recall_at_50", "ndcg_at_10"))
    assert bool(made["features"]) == gained


def pairs() -> list[tuple[str, str]]:
    return [(brand, category) for brand in BRANDS for category in CATEGORIES]


def test_a_comparison_that_was_interrupted_goes_on_and_ends_in_the_same_tower(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())  # takes seconds
    catalog = CatalogFolder.load(home / "catalogs" / "shop")
    config = TrainingConfig(tower=small_config(use_image=False), features="auto", epochs=2, batch_size=16)
    whole = train_towers(catalog, config, tmp_path / "whole")

    def interrupt(done: int, total: int) -> None:
        if done == total * 3 // 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_towers(catalog, config, tmp_path / "cut", interrupt, checkpoint_seconds=0)
    resumed = train_towers(catalog, config, tmp_path / "cut", checkpoint_seconds=0)
    assert resumed.resumed_at == whole.steps * 3 // 4, "the first training is not repeated"
    assert (resumed.tower_id, resumed.compared_features) == (whole.tower_id, whole.compared_features)
    assert not (tmp_path / "cut" / ".checkpoints").exists()


def test_a_later_stage_reads_what_its_start_tower_reads(chosen: Any) -> None:
    later = train("--features", "auto", "--epochs", 1, "--start-from", chosen["tower_id"])
    assert (later["features"], later["compared_features"]) == (chosen["features"], {})


def test_what_cannot_be_is_refused_by_name(home: Path, chosen: Any) -> None:
    with pytest.raises(InvalidInput, match="there is no feature 'colour'"):
        train("--features", "brand,colour")
    with pytest.raises(InvalidInput, match="no item of the catalogue has a value of seller_rating"):
        train("--features", "seller_rating")
    with pytest.raises(InvalidInput, match="reads category, brand"):
        train("--features", "brand", "--start-from", chosen["tower_id"])
    with pytest.raises(InvalidInput, match="set features to all"):
        train("--start-from", chosen["tower_id"])
