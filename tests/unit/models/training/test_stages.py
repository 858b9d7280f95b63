"""Stages, losses and the epoch that is kept."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from painted_lots import write_painted_catalog
from small_tower import small_config

from models.artefacts.tower_files import load_towers
from models.data.batches import TrainingBatches
from models.data.tables import read_training_items
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import TwoTowers
from models.training.checkpoints import Checkpoints
from models.training.loop import EpochRecord, TrainingLoop
from models.training.step import TwoTowersTask, in_batch_metrics, saves_padding
from models.training.two_towers import Stage, TrainingConfig, fit_vocabulary, loop_settings, three_stages, train_towers
from models.training.validation import ValidationMetrics
from retrieval.encoders.query_encoder import prepare_tokenizer
from retrieval.errors import InvalidInput, TowerError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted")


@pytest.fixture
def quick_export(monkeypatch):
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())
    monkeypatch.setattr("models.artefacts.tower_files.export_image_tower", lambda towers, path: path.touch())


def step_of(catalog, cache, **changes) -> tuple[TwoTowers, TrainingBatches, TwoTowersTask]:
    tower = replace(small_config(use_image=False), dropout=0.0, matryoshka=changes.pop("matryoshka", ()))
    config = TrainingConfig(**{"tower": tower, "batch_size": 12, "stages": (Stage("random", random_negatives=1),), **changes})
    lots, queries = read_training_items(catalog)
    tokenizer = prepare_tokenizer(make_tokenizer(tower, [*lots.texts, *queries.texts]), tower.max_length)
    torch.manual_seed(0)
    towers = TwoTowers(fit_vocabulary(tower, tokenizer.get_vocab_size()))
    batches = TrainingBatches(lots, queries, tokenizer, config, cache)
    return towers, batches, TwoTowersTask(towers, batches, None, config, config.stages[0], Accelerator())


def gradient_of(catalog, cache, count=1, **changes) -> torch.Tensor:
    towers, batches, step = step_of(catalog, cache, **changes)
    step.backward_batches([batches.batch(number, CPU) for number in range(count)])
    return torch.cat([p.grad.flatten() for p in towers.parameters() if p.grad is not None])


@pytest.mark.parametrize("loss", ["info_nce", "contrastive", "triplet"])
def test_small_pieces_of_a_batch_give_its_gradient(catalog, tmp_path, loss):
    changes = {"stages": (Stage("any", random_negatives=1, loss=loss, margin=0.5),), "matryoshka": (8,), "max_grad_norm": 1e9}
    whole = gradient_of(catalog, tmp_path, **changes)
    assert whole.abs().max() > 1e-4
    for size in (1, 5):
        pieces = gradient_of(catalog, tmp_path, micro_batch=size, **changes)
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)


def test_accumulated_batches_give_the_mean_of_their_gradients(catalog, tmp_path):
    towers, batches, step = step_of(catalog, tmp_path, max_grad_norm=1e9)
    single = []
    for number in range(2):
        towers.zero_grad()
        step.backward_batches([batches.batch(number, CPU)])
        single.append(torch.cat([p.grad.flatten() for p in towers.parameters() if p.grad is not None]))
    together = gradient_of(catalog, tmp_path, count=2, max_grad_norm=1e9)
    torch.testing.assert_close(together, (single[0] + single[1]) / 2, rtol=0, atol=1e-6)


def test_in_batch_figures_are_those_counted_by_hand():
    queries = torch.eye(3, 4)
    items = torch.cat([torch.eye(3, 4), torch.eye(3, 4)[:1].repeat(11, 1)])  # eleven copies of the first query's answer
    items[1], items[2] = torch.tensor([0.0, 0.5, 0.0, 0.5]), torch.tensor([0.0, 1.0, 0.0, 0.0])
    is_relevant = torch.zeros(3, 14, dtype=torch.bool)
    accuracy, recall = in_batch_metrics(queries, items, is_relevant)
    # the first ties with its copies, the second stands behind lot 2, the third's own lot has nothing of it, and ties
    assert (accuracy.item(), recall.item()) == (pytest.approx(2 / 3), 1.0)
    is_relevant[1, 2] = True
    assert in_batch_metrics(queries, items, is_relevant)[0].item() == 1.0


def test_texts_are_sorted_by_length_only_where_it_saves_work():
    lengths = torch.randint(3, 120, (128,)).numpy()
    assert saves_padding(lengths)
    assert not saves_padding(lengths * 0 + 20)


def test_three_stages_sharpen_and_then_let_weak_pairs_in():
    first, second, third = three_stages((4, 2, 1), hard_negatives=3)
    assert (first.hard_negatives, second.hard_negatives, third.hard_negatives) == (0, 3, 3)
    assert first.random_negatives > 0
    assert (first.rate, third.rate) == (1.0, 0.1)
    assert first.min_weight == second.min_weight > third.min_weight == 0.0
    assert [TrainingConfig(stages=(first, second, third)).stage_epochs(stage) for stage in (first, third)] == [4, 1]


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"rate": 0.0}, {"hard_negatives": -1}, {"min_weight": -0.1}])
def test_a_stage_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidInput, match="stage 'odd'"):
        Stage("odd", **wrong)


def test_a_stage_goes_on_from_the_weights_of_a_tower(catalog, tmp_path, quick_export):
    config = TrainingConfig(
        tower=small_config(use_image=False), epochs=1, batch_size=16, stages=(Stage("a"), Stage("b", rate=1e-9))
    )
    first = train_towers(catalog, config, tmp_path)
    second = train_towers(catalog, config, tmp_path, stage=1, start_from=first.tower_folder)
    assert second.best.metrics.ndcg_at_10 == pytest.approx(first.best.metrics.ndcg_at_10, abs=1e-3), "at no rate nothing is learnt"
    record = json.loads((second.tower_folder / "training.json").read_text())
    assert (record["stage"], record["start_from"]) == ("b", first.tower_id)
    with pytest.raises(InvalidInput, match="has hidden 32, the configuration asks for 48"):
        train_towers(catalog, replace(config, tower=replace(config.tower, hidden=48)), tmp_path, start_from=first.tower_folder)
    with pytest.raises(TowerError, match="nowhere"):
        train_towers(catalog, config, tmp_path, start_from=tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="no stage 2"):
        train_towers(catalog, config, tmp_path, stage=2)


class NoBetter:
    """Measures worse and worse towers."""

    def __init__(self) -> None:
        self.asked = 0

    def measure(self, towers: TwoTowers) -> ValidationMetrics:
        self.asked += 1
        return ValidationMetrics(0.5, 0.5 - self.asked / 100, 0.5 + self.asked / 10)


@pytest.mark.parametrize(("judge", "best"), [("recall_at_50", 1), ("quality", 3)])
def test_training_stops_when_patience_is_gone_and_keeps_the_best_epoch(catalog, tmp_path, judge, best):
    changes = {"epochs": 6 if judge == "recall_at_50" else 3, "validate_every": 1, "patience": 2, "judge": judge}
    towers, batches, _ = step_of(catalog, tmp_path, **changes)
    config = TrainingConfig(tower=towers.config, batch_size=12, **changes)
    accelerator, stage = Accelerator(), Stage("one")
    task = TwoTowersTask(towers, batches, NoBetter(), config, stage, accelerator)
    settings = loop_settings(config, stage, batches.per_epoch, measured=True)
    run = TrainingLoop(task, settings, Checkpoints(tmp_path / "run", 1e9), accelerator=accelerator)
    run.run()
    assert [record.epoch for record in run.history] == [1, 2, 3]
    assert run.best.epoch == best
    assert all(0 <= record.in_batch_accuracy <= record.in_batch_recall_at_10 <= 1 for record in run.history)


def test_a_fixed_temperature_stays(catalog, tmp_path, quick_export):
    config = TrainingConfig(tower=small_config(use_image=False), epochs=1, batch_size=16, temperature=0.05, learn_temperature=False)
    towers, _ = load_towers(train_towers(catalog, config, tmp_path).tower_folder)
    assert 1 / towers.scale.item() == pytest.approx(0.05)


def test_an_epoch_record_comes_back_from_json():
    record = EpochRecord(1, 2.0, 3.0, ValidationMetrics(0.1, 0.2, 0.3), 0.4, 0.5)
    assert EpochRecord.from_dict(json.loads(json.dumps(record.to_dict())), ValidationMetrics) == record
