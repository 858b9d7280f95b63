"""Training: what a batch holds, what the schedule does, and what a run leaves behind."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from painted_lots import paint, write_painted_catalog
from safetensors.torch import load_file
from small_tower import small_config

from catalog.folder import TrainingPair
from models.artefacts.tower_files import load_towers
from models.data.batches import TrainingBatches
from models.data.tables import ItemTable, PhotoTable, Queries, TokenTable, read_training_items
from models.towers.tokenizer import make_tokenizer
from models.training.loop import learning_rate_factor
from models.training.two_towers import TrainingConfig, train_towers
from models.training.validation import ranking_metrics
from retrieval.contracts.tower_card import ITEM_TOWER_FILE, TowerCard
from retrieval.encoders.query_encoder import prepare_tokenizer
from retrieval.errors import InvalidInput, TowerError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted")


@pytest.fixture
def quick_export(monkeypatch):
    """The export to ONNX takes seconds and has tests of its own."""
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())
    monkeypatch.setattr("models.artefacts.tower_files.export_image_tower", lambda towers, path: path.touch())


def batches(catalog, cache: Path, **changes) -> tuple[TrainingBatches, ItemTable]:
    config = replace(TrainingConfig(tower=small_config(), batch_size=12), **changes)
    lots, queries = read_training_items(catalog)
    tokenizer = prepare_tokenizer(make_tokenizer(config.tower, [*lots.texts, *queries.texts]), config.tower.max_length)
    return TrainingBatches(lots, queries, tokenizer, config, cache), lots


def test_a_batch_holds_each_query_once_and_knows_the_other_answers(catalog, tmp_path):
    source, _ = batches(catalog, tmp_path)
    batch = source.batch(0, CPU)
    rows = {tuple(row.tolist()) for row in batch.queries.ids}
    assert len(rows) == len(batch.queries.ids) == 12
    assert batch.is_relevant.diagonal().all()
    assert torch.equal(batch.is_relevant, torch.eye(12, dtype=torch.bool)), "no painted lot answers two queries"


def test_a_lot_that_answers_two_queries_of_a_batch_is_no_negative_of_either(tmp_path):
    lots = ItemTable(["a", "b"], ["vase", "watch"], [None, None])
    pairs = [TrainingPair("red vase", "a"), TrainingPair("round vase", "a"), TrainingPair("watch", "b")]
    queries = Queries.group(pairs, lots)
    config = TrainingConfig(tower=small_config(use_image=False), batch_size=3)
    tokenizer = prepare_tokenizer(make_tokenizer(config.tower, queries.texts), 24)
    batch = TrainingBatches(lots, queries, tokenizer, config, tmp_path).batch(0, CPU)
    assert batch.photos is None
    assert batch.is_relevant.sum() == 3 + 2


def test_photo_dropout_hides_photos(catalog, tmp_path):
    shown, _ = batches(catalog, tmp_path, photo_dropout=0.0)
    blind, _ = batches(catalog, tmp_path, photo_dropout=1.0)
    seen, hidden = (source.batch(0, CPU) for source in (shown, blind))
    assert seen.photos.has_image.all()
    assert seen.photos.pixels.shape == (12, 3, 32, 32)
    assert not hidden.photos.has_image.any()


def test_pairs_met_twice_add_their_weights_and_unknown_lots_are_left_out():
    lots = ItemTable(["a", "b"], ["a", "b"], [None, None])
    pairs = [
        TrainingPair("Vase ", "a", 1.0),
        TrainingPair("Vase", "a", 2.0),
        TrainingPair("Vase", "gone"),
        TrainingPair("ring", "b"),
    ]
    queries = Queries.group(pairs, lots)
    assert queries.texts == ["Vase", "ring"]
    assert queries.weights.tolist() == [3.0, 1.0]
    assert queries.starts.tolist() == [0, 1, 2]


def test_too_few_pairs_are_refused():
    with pytest.raises(InvalidInput, match="two different queries"):
        Queries.group([TrainingPair("vase", "a")], ItemTable(["a"], ["a"], [None]))


def test_photos_are_decoded_once_until_one_changes(tmp_path):
    paths = [paint(tmp_path / "a.png", "red", 0), None, tmp_path / "absent.png", tmp_path / "broken.jpg"]
    paths[3].write_bytes(b"\xff\xd8\xff broken")
    first = PhotoTable.load(paths, 16, tmp_path / "cache")
    assert first.has_image.tolist() == [True, False, False, False]
    assert not first.pixels[1:].any()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    np.testing.assert_array_equal(PhotoTable.load(paths, 16, tmp_path / "cache").pixels, first.pixels)
    paint(paths[0], "blue", 1)
    os.utime(paths[0], ns=(1, 1))
    assert PhotoTable.load(paths, 16, tmp_path / "cache").pixels[0, 0, 0, 2] > 150


def test_tokens_are_cut_to_the_longest_of_a_batch():
    tokenizer = prepare_tokenizer(make_tokenizer(small_config(), ["red vase by hand"]), 24)
    ids, mask = TokenTable.build(tokenizer, ["red", "red vase by hand", "vase red"], 24).take(np.array([0, 2]))
    assert ids.shape == mask.shape == (2, 4)
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_figures_are_those_counted_by_hand():
    scores = np.zeros((3, 60), np.float32)
    grades = np.zeros((3, 60), np.int64)
    scores[0, :3], grades[0, [0, 2, 59]] = (3, 2, 1), (2, 3, 2)  # found at 1 and 3 of three, the third is last of 60
    scores[1, 20], grades[1, 40] = 1, 3  # its only lot at rank 41: ties keep the order of the lots
    grades[2, 5] = 1  # has nothing relevant: not counted
    figures = ranking_metrics(scores, grades)
    assert figures.recall_at_10 == pytest.approx((2 / 3 + 0) / 2)
    assert figures.recall_at_50 == pytest.approx((2 / 3 + 1) / 2)
    ideal = 3 + 2 / np.log2(3) + 2 / 2
    assert figures.ndcg_at_10 == pytest.approx((2 + 3 / 2) / ideal / 2)


def test_the_learning_rate_rises_and_falls_to_zero():
    shares = np.linspace(0, 1, 101)
    factors = [learning_rate_factor(share, 0.1) for share in shares]
    assert factors[0] > 0
    assert max(factors) == factors[10] == 1.0
    assert np.all(np.diff(factors[:11]) > 0)
    assert np.all(np.diff(factors[10:]) < 0)
    assert factors[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 1}, {"validate_every": 0}, {"max_seconds": 0.0}])
def test_a_schedule_that_cannot_run_is_refused(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_every_catalogue_has_a_schedule():
    assert TrainingConfig.for_catalog("synthetic").tower.preset == "compact"
    assert not TrainingConfig.for_catalog("anything", use_image=False).tower.use_image
    assert TrainingConfig.for_catalog("synthetic", preset="distilbert-resnet50", seed=3).seed == 3


def test_a_run_leaves_one_whole_artefact_that_builds_the_same_towers_again(catalog, tmp_path, quick_export):
    config = TrainingConfig(tower=small_config(), photos="always", epochs=2, batch_size=16, validate_every=1)
    steps = []
    report = train_towers(catalog, config, tmp_path, lambda done, of: steps.append((done, of)))
    assert report.tower_folder == tmp_path / report.tower_id
    assert {p.name for p in tmp_path.iterdir()} == {report.tower_id, ".photos", ".runs"}
    assert steps == [(n, 20) for n in range(1, 21)]
    assert (report.items, report.photos, report.queries, len(report.history)) == (160, 160, 16, 2)
    assert report.best.metrics == max((h.metrics for h in report.history), key=lambda f: f.recall_at_50 + f.ndcg_at_10)
    towers, card = load_towers(report.tower_folder)
    assert card.image_size == 32
    assert not towers.training
    saved = load_file(report.tower_folder / ITEM_TOWER_FILE)
    assert not any(name.startswith("query_tower.text_encoder") for name in saved), "the shared encoder is kept once"
    assert "query_tower.projection.0.weight" in saved
    again = train_towers(catalog, config, tmp_path)
    assert again.tower_id == report.tower_id, "the same seed makes the same towers"
    assert train_towers(catalog, replace(config, seed=8), tmp_path).tower_id != report.tower_id


def test_an_interrupted_run_leaves_no_artefact(catalog, tmp_path, quick_export):
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    config = TrainingConfig(tower=small_config(use_image=False), epochs=1, batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        train_towers(catalog, config, tmp_path, interrupt)
    assert [p for p in tmp_path.iterdir() if not p.name.startswith(".")] == []


def test_an_interrupted_save_leaves_no_artefact(catalog, tmp_path, monkeypatch):
    def interrupt(tower, path, bits):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_towers(catalog, TrainingConfig(tower=small_config(use_image=False), epochs=1, batch_size=16), tmp_path)
    assert [p for p in tmp_path.iterdir() if not p.name.startswith(".")] == []


def test_a_damaged_artefact_is_refused_with_the_way_out(catalog, tmp_path, quick_export):
    config = TrainingConfig(tower=small_config(use_image=False), epochs=1, batch_size=16)
    folder = train_towers(catalog, config, tmp_path).tower_folder
    weights = folder / ITEM_TOWER_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TowerError, match="copy it again"):
        load_towers(folder)
    weights.unlink()
    with pytest.raises(TowerError, match="missing"):
        load_towers(folder)
    weights.write_bytes(whole)
    card = TowerCard.load(folder)
    replace(card, architecture={**card.architecture, "hidden": 64}).save(folder)
    with pytest.raises(TowerError, match="is not a tower card"):
        load_towers(folder)
