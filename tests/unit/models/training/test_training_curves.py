"""Curves of a run in TensorBoard and in an experiment tracker of Accelerate."""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from painted_lots import write_painted_catalog
from small_tower import small_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from models.config.training import TrainingConfig
from models.training.embedding_statistics import embedding_statistics, record_norms
from models.training.loop import gradient_norms
from models.training.two_towers import train_towers
from retrieval.errors import InvalidInput

STATISTICS = ("norm", "cosine_mean", "uniformity", "std_mean", "std_min")


class MemoryTracker(GeneralTracker):
    """A tracker that stores what it gets."""

    name = "memory"
    requires_logging_directory = False
    runs: list["MemoryTracker"] = []  # noqa: RUF012

    def __init__(self, project: str, **kwargs: object) -> None:
        super().__init__()
        self.project, self.settings, self.points, self.finished = project, {}, {}, False
        MemoryTracker.runs.append(self)

    @property
    def tracker(self) -> "MemoryTracker":
        return self

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int | None = None, **kwargs: object) -> None:
        self.points.setdefault(step, {}).update(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the towers of a short training, and the tracker that followed it."""
    out = tmp_path_factory.mktemp("towers")
    catalog = write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted")
    config = TrainingConfig(tower=small_config(use_image=False), epochs=2, batch_size=8, log_with="memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())
        patch.setitem(LOGGER_TYPE_TO_CLASS, "memory", MemoryTracker)
        report = train_towers(catalog, config, out)
    (tracker,) = MemoryTracker.runs
    return out, report, tracker


def test_tensorboard_has_gradient_norms_and_statistics_of_the_embeddings(run):
    (folder,) = (run[0] / ".runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    names = set(events.Tags()["scalars"])
    assert {f"step/{tower}_{name}" for tower in ("query", "item") for name in STATISTICS} <= names
    parts = {"item_tower.text_encoder", "item_tower.projection", "query_tower.projection"}
    assert {"step/gradient_norm", *(f"step/gradient_norm/{part}" for part in parts)} <= names
    assert all(event.value > 0 for event in events.Scalars("step/gradient_norm"))
    assert "val/recall_at_50" in names


def test_a_tracker_gets_settings_and_the_same_curves_and_is_closed(run):
    _, report, tracker = run
    assert tracker.project == "gavel"
    assert (tracker.settings["batch_size"], tracker.settings["tower.max_length"]) == (8, 24)
    last = tracker.points[report.steps]
    assert last["val/recall_at_50"] == report.history[-1].metrics.recall_at_50
    assert last["train/loss"] == pytest.approx(report.history[-1].loss)
    assert any("step/gradient_norm" in values for values in tracker.points.values())
    assert tracker.finished


@pytest.mark.parametrize(("name", "reason"), [("tensorboard", "always written"), ("abacus", "there is no tracker 'abacus'")])
def test_a_tracker_that_cannot_be_used_is_refused_before_training(tmp_path, name, reason):
    catalog = write_painted_catalog(tmp_path / "painted")
    config = replace(TrainingConfig(tower=small_config(use_image=False)), log_with=name)
    with pytest.raises(InvalidInput, match=reason):
        train_towers(catalog, config, tmp_path / "towers")


def test_wandb_without_its_package_is_refused_with_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("models.training.trackers.get_available_trackers", lambda: [])
    config = TrainingConfig(tower=small_config(use_image=False), log_with="wandb")
    with pytest.raises(InvalidInput, match=r"gavel\[wandb\]"):
        train_towers(write_painted_catalog(tmp_path / "painted"), config, tmp_path / "towers")


def test_statistics_tell_a_spread_space_from_a_collapsed_one():
    spread = torch.cat([torch.eye(4), -torch.eye(4)])
    collapsed = torch.eye(4)[:1].repeat(8, 1)
    found = embedding_statistics(spread)
    assert found["cosine_mean"] == pytest.approx(-1 / 7)
    pairs = torch.tensor([-8.0] + 6 * [-4.0]).exp().mean().log()  # each row has one opposite and six orthogonal rows
    assert found["uniformity"] == pytest.approx(pairs.item())
    assert found["std_mean"] == found["std_min"] == pytest.approx(1 / sqrt(4))
    assert embedding_statistics(collapsed) == {"cosine_mean": 1.0, "uniformity": 0.0, "std_mean": 0.0, "std_min": 0.0}


def test_norms_are_those_before_normalisation_and_only_inside_the_context():
    projection = nn.Linear(2, 2, bias=False)
    nn.init.eye_(projection.weight)
    with record_norms([projection]) as norms:
        projection(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    projection(torch.ones(1, 2))
    assert torch.cat(norms[0]).tolist() == [5.0, 2.0]


@pytest.mark.parametrize("max_norm", [None, 1.0, 100.0])
def test_gradient_norms_are_those_before_clipping(max_norm):
    model = nn.ModuleDict({"tower": nn.ModuleDict({"a": nn.Linear(2, 1, bias=False), "b": nn.Linear(2, 1, bias=False)})})
    model["tower"]["a"].weight.grad = torch.tensor([[3.0, 4.0]])
    model["tower"]["b"].weight.grad = torch.tensor([[12.0, 0.0]])
    total = None if max_norm is None else nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    assert gradient_norms(model, total, max_norm) == {
        "gradient_norm": pytest.approx(13),
        "gradient_norm/tower.a": pytest.approx(5, rel=1e-5),
        "gradient_norm/tower.b": pytest.approx(12, rel=1e-5),
    }
