"""Training from scratch: lots whose colour only the photo tells are found by their colour."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from painted_lots import paint, write_painted_catalog
from small_tower import small_config

from models.artefacts.item_encoder import ItemEncoder
from models.data.images import Augmentation
from models.training.two_towers import TrainingConfig, TrainingReport, train_towers
from processing.command_line import EXIT_USAGE
from processing.training import towers_job as job
from retrieval.encoders.photos import read_photo
from retrieval.encoders.query_encoder import QueryEncoder


def train(folder: Path, *, use_image: bool) -> TrainingReport:
    catalog = write_painted_catalog(folder / "catalog")
    tower = small_config(use_image=use_image)
    light = Augmentation(crop=0.8, light=0.05)
    config = TrainingConfig(
        tower=tower, photos="always", epochs=24, batch_size=16, learning_rate=3e-3, augmentation=light, validate_every=10
    )
    return train_towers(catalog, config, folder / "towers")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return train(tmp_path_factory.mktemp("seeing"), use_image=True)


def test_text_and_photo_find_more_than_text_alone(seeing, tmp_path):
    blind = train(tmp_path, use_image=False)
    assert blind.best.metrics.recall_at_10 < 0.4, "titles name the kind alone: a colour in four is right by chance"
    assert seeing.best.metrics.recall_at_10 > blind.best.metrics.recall_at_10 + 0.3


def test_a_new_lot_is_found_by_what_its_photo_shows(seeing, tmp_path):
    items, queries = ItemEncoder.load(seeing.tower_folder), QueryEncoder.load(seeing.tower_folder)
    colours = ("red", "blue", "green", "yellow")
    photos = [read_photo(paint(tmp_path / f"{c}.png", c, 1_000), items.card.image_size) for c in colours]
    lots = items.encode(["Vase"] * 4, photos)
    scores = queries.encode([f"{c} vase" for c in colours]) @ lots.T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]
    without = items.encode(["Vase"], [None])
    np.testing.assert_allclose(np.linalg.norm(np.vstack([lots, without]), axis=1), 1, atol=1e-5)


def test_a_lots_vector_does_not_depend_on_its_batch(seeing, tmp_path):
    items = ItemEncoder.load(seeing.tower_folder)
    photo = read_photo(paint(tmp_path / "red.png", "red", 5), items.card.image_size)
    texts, photos = ["Vase", "Lamp", "Vase"], [photo, None, None]
    together, alone = items.encode(texts, photos), items.encode(texts, photos, batch_size=1)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_job_trains_by_its_flags_and_prints_what_it_made(tmp_path, capsys, monkeypatch):
    write_painted_catalog(tmp_path / "input")
    monkeypatch.setattr(
        job, "training_config", lambda name, make=job.training_config, **flags: replace(make(name, **flags), tower=small_config())
    )
    flags = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "out"), "--epochs", "1", "--batch-size", "16"]
    assert job.main(flags) == 0
    report = json.loads(capsys.readouterr().out)
    assert (tmp_path / "out" / report["tower_id"] / "tower.json").is_file()
    assert report["epochs"] == 1
    assert QueryEncoder.load(Path(report["tower_folder"])).encode(["red vase"]).shape == (1, 16)


def test_the_job_says_what_is_wrong_and_fails(tmp_path, capsys):
    assert job.main(["--input", str(tmp_path), "--output", str(tmp_path)]) == EXIT_USAGE
    assert "gavel catalog generate" in capsys.readouterr().err
