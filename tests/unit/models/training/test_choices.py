"""What earns its place on the val queries: the photos, and the vectors beside the words."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from painted_lots import COLOURS, KINDS, write_painted_catalog
from PIL import Image
from small_tower import small_config

from catalog.folder import CatalogFolder, Qrels, SplitData, TrainingPair, write_catalog, write_items
from models.artefacts.model_card import MODEL_CARD_FILE
from models.artefacts.run_record import read_record
from models.data.images import Augmentation
from models.towers.tokenizer import make_tokenizer
from models.training.choices import Gain, search_keywords
from models.training.two_towers import TrainingConfig, train_towers
from models.training.validation import Validation, query_metrics
from retrieval.contracts.items import Item
from retrieval.contracts.tower_card import TowerCard
from retrieval.encoders.query_encoder import prepare_tokenizer

COLOURFUL = replace(small_config(), image=replace(small_config().image, colour_bins=4))
CONFIG = TrainingConfig(
    tower=COLOURFUL,
    epochs=8,
    batch_size=16,
    learning_rate=3e-3,
    validate_every=8,
    augmentation=Augmentation(crop=0.8, light=0.05),
)
ONE_EPOCH = replace(CONFIG, epochs=1, validate_every=1)


@pytest.fixture(autouse=True)
def without_export(monkeypatch):
    """The exports take seconds and have tests of their own."""
    for name in ("export_query_tower", "export_image_tower"):
        monkeypatch.setattr(f"models.artefacts.tower_files.{name}", lambda towers, path, *bits: path.touch())


def write_told_catalog(folder: Path, *, photos: bool = True) -> CatalogFolder:
    """A catalogue whose titles say all that is asked for; its photos are noise, or missing."""
    items, pairs = [], []
    for number in range(64):
        colour, kind = list(COLOURS)[number % 4], KINDS[number // 4 % 4]
        item_id = f"lot-{number:02}"
        path = folder / "items" / "photos" / f"{item_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if photos:
            pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        items.append(Item(item_id, f"{colour} {kind}", image=f"photos/{path.name}", category=kind))
        pairs.append(TrainingPair(f"{colour} {kind}", item_id))
    write_items(folder / "items" / "lots.parquet", items)
    graded = {query: {p.item_id: 3 for p in pairs if p.query == query} for query in {p.query for p in pairs}}
    val = SplitData(["lots.parquet"], qrels=Qrels({query: query for query in graded}, graded))
    splits = {"train": SplitData(["lots.parquet"], pairs), "val": val}
    write_catalog(folder, name="told", seed=0, splits=splits, example_queries=["red vase"])
    return CatalogFolder(folder)


def write_coded_catalog(folder: Path, *, pseudo: bool) -> CatalogFolder:
    """A catalogue whose queries ask for a kind and a rare code: words find what towers that learnt nothing do not."""
    random = np.random.default_rng(0)
    others = [f"word{number}" for number in range(40)]
    items = [
        Item(f"lot-{number:02}", f"{' '.join(random.choice(others, 12))} {KINDS[number % 4]} code{number}") for number in range(64)
    ]
    write_items(folder / "items" / "lots.parquet", items)
    queries = {f"{KINDS[number % 4]} code{number}": f"lot-{number:02}" for number in range(0, 64, 3)}
    qrels = Qrels({query: query for query in queries}, {query: {item_id: 3} for query, item_id in queries.items()})
    splits = {
        "train": SplitData(["lots.parquet"], [TrainingPair(query, item_id) for query, item_id in queries.items()]),
        "val": SplitData(["lots.parquet"], qrels=qrels, pseudo_queries=pseudo),
    }
    write_catalog(folder, name="coded", seed=0, splits=splits, example_queries=["vase"])
    return CatalogFolder(folder)


def test_photos_that_matter_are_read_and_card_and_record_say_why(tmp_path):
    report = train_towers(write_painted_catalog(tmp_path / "catalog"), CONFIG, tmp_path / "towers")
    choice = report.choice
    assert choice.reads_photos
    assert TowerCard.load(report.tower_folder).image_size == 32
    assert choice.metrics["text + photo"].quality > choice.metrics["text"].quality + 0.1
    assert choice.metrics["text + photo"] == report.best.metrics
    assert list(choice.metrics) == ["keyword", "text", "text + photo", "hybrid"]
    assert (choice.queries, choice.pseudo_queries, choice.mode) == (16, False, "hybrid")
    assert choice.lines[0].startswith("on 16 val queries, mean of Recall@50 and nDCG@10: keyword ")
    assert choice.lines[1].startswith("photos are read: text + photo gains over text (+")
    card = (report.tower_folder / MODEL_CARD_FILE).read_text()
    assert all(line in card for line in choice.lines)
    assert read_record(report.tower_folder)["choice"] == json.loads(json.dumps(choice.to_dict()))
    assert (report.steps, report.planned_steps) == (160, 160), "both trainings count"


def test_photos_that_say_nothing_are_not_read(tmp_path):
    report = train_towers(write_told_catalog(tmp_path / "catalog"), CONFIG, tmp_path / "towers")
    assert not report.choice.reads_photos
    assert TowerCard.load(report.tower_folder).image_size == 0
    assert report.photos == 0
    assert "photos are not read: text + photo does not gain over text" in report.choice.lines[1]
    assert {"text", "text + photo"} < set(report.choice.metrics)
    assert "| photo encoder | none |" in (report.tower_folder / MODEL_CARD_FILE).read_text()


@pytest.mark.parametrize(("photos", "reads"), [("always", True), ("never", False)])
def test_what_is_asked_for_is_trained_alone_and_still_compared_with_words(tmp_path, photos, reads):
    catalog, steps = write_told_catalog(tmp_path / "catalog"), []
    config = replace(ONE_EPOCH, photos=photos)
    choice = train_towers(catalog, config, tmp_path / "towers", lambda done, total: steps.append(total)).choice
    assert choice.reads_photos == reads
    assert list(choice.metrics) == ["keyword", "text + photo" if reads else "text", "hybrid"]
    assert choice.lines[1] == f"photos are {'' if reads else 'not '}read: as asked by photos = {photos}"
    assert set(steps) == {4}


def test_features_are_compared_on_the_towers_that_photos_left(tmp_path):
    catalog, totals = write_told_catalog(tmp_path / "catalog"), set()
    config = replace(ONE_EPOCH, features="auto")
    report = train_towers(catalog, config, tmp_path / "towers", lambda done, total: totals.add(total))
    assert totals == {12}, "three trainings of four steps"
    assert list(report.compared_features) == ["none", "category,bid_count"]
    assert list(report.choice.metrics) == ["keyword", "text", "text + photo", "hybrid"]
    kind = "text + photo" if report.choice.reads_photos else "text"
    assert report.choice.metrics[kind] == report.best.metrics, "of the stored towers"


def test_without_a_readable_photo_there_is_nothing_to_compare(tmp_path):
    choice = train_towers(write_told_catalog(tmp_path / "catalog", photos=False), ONE_EPOCH, tmp_path / "towers").choice
    assert not choice.reads_photos
    assert choice.lines[1] == "photos are not read: no lot of the catalogue has a readable photo"


def test_a_later_stage_reads_what_its_start_tower_reads(tmp_path):
    catalog = write_told_catalog(tmp_path / "catalog")
    for photos in ("always", "never"):
        first = train_towers(catalog, replace(ONE_EPOCH, photos=photos), tmp_path / "towers")
        later = train_towers(catalog, ONE_EPOCH, tmp_path / "towers", start_from=first.tower_folder)
        assert later.choice.reads_photos == (photos == "always")
        assert later.choice.lines[1].endswith(f"as the start tower {first.tower_id} does")


@pytest.mark.parametrize(("pseudo", "mode"), [(False, "keyword"), (True, "hybrid")])
def test_towers_that_lose_to_words_are_told_and_judged_queries_decide(tmp_path, pseudo, mode):
    catalog = write_coded_catalog(tmp_path / "catalog", pseudo=pseudo)
    config = replace(ONE_EPOCH, photos="never", learning_rate=1e-9)  # learns nothing
    choice = train_towers(catalog, config, tmp_path / "towers").choice
    assert choice.metrics["keyword"].quality == 1.0
    assert choice.metrics["hybrid"].quality < 0.9
    assert choice.mode == mode
    assert ("search: --mode keyword" in choice.lines[-1]) == (mode == "keyword")
    assert "keywords alone gain over hybrid" in choice.lines[-1]


def test_without_a_val_split_nothing_is_compared_and_photos_are_read(tmp_path):
    catalog = write_told_catalog(tmp_path / "catalog")
    card = json.loads((catalog.path / "catalog.json").read_text())
    del card["splits"]["val"]
    (catalog.path / "catalog.json").write_text(json.dumps(card))
    report = train_towers(CatalogFolder(catalog.path), ONE_EPOCH, tmp_path / "towers")
    assert report.choice is None
    assert TowerCard.load(report.tower_folder).image_size == 32


def test_a_gain_counts_if_it_is_above_its_standard_error():
    grades = [{row: 2} for row in range(4)]
    base = query_metrics([[9, row] for row in range(4)], grades)  # each lot at rank 2
    mixed = query_metrics([[0], [1], [9, 8, 7, 2], [9, 8, 7, 6, 3]], grades)
    better = query_metrics([[row] for row in range(4)], grades)
    assert Gain.of(better, base, "quality") == Gain(pytest.approx((1 - 1 / np.log2(3)) / 2), 0.0)
    assert Gain.of(better, base, "quality").is_certain
    assert not Gain.of(base, base, "quality").is_certain
    assert 0 < Gain.of(mixed, base, "quality").mean < Gain.of(mixed, base, "quality").standard_error
    assert not Gain.of(query_metrics([[0]], grades[:1]), query_metrics([[9, 0]], grades[:1]), "quality").is_certain, "one query"


def test_words_are_searched_as_an_index_does_with_attributes_and_without_lots_that_lack_them(tmp_path, monkeypatch):
    items = [
        Item("a", "Vase", attributes={"colour": "red"}),
        Item("b", "Red vase"),
        Item("c", "Vases and more vases"),
        Item("d", "Clock"),
    ]
    write_items(tmp_path / "items" / "lots.parquet", items)
    qrels = Qrels({"q": "red vase", "none": "piano"}, {"q": {"b": 3}, "none": {"d": 3}})
    write_catalog(
        tmp_path, name="x", seed=0, splits={"val": SplitData(["lots.parquet"], qrels=qrels)}, example_queries=["red vase"]
    )
    config = small_config(use_image=False)
    tokenizer = prepare_tokenizer(make_tokenizer(config, [item.title for item in items]), config.max_length)
    validation = Validation(CatalogFolder(tmp_path), tokenizer, config, tmp_path / "cache")
    assert search_keywords(validation) == [[1, 0, 2], []]
