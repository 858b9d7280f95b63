"""Checkpoints: whole or not there, and what names a run."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from painted_lots import write_painted_catalog
from small_tower import small_config

from models.artefacts.model_card import write_model_card
from models.artefacts.run_record import RECORD_FILE, cut_steps, data_hash, run_key
from models.training.checkpoints import CHECKPOINT_FILE, Checkpoints, defer_signals
from models.training.two_towers import Stage, TrainingConfig, train_towers


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted")


@pytest.fixture
def quick_export(monkeypatch):
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())
    monkeypatch.setattr("models.artefacts.tower_files.export_image_tower", lambda towers, path: path.touch())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", 0.0)
    assert checkpoints.load() is None
    state = {"weights": torch.arange(3.0), "clock": {"steps_run": 3, "seconds": 0.5}, "history": [{"loss": 1.5, "figures": None}]}
    checkpoints.save({"weights": torch.zeros(3)})
    checkpoints.save(state)
    loaded = checkpoints.load()
    assert torch.equal(loaded.pop("weights"), state.pop("weights"))
    assert loaded == state
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CHECKPOINT_FILE]
    other = Checkpoints(tmp_path / "other", 0.0)
    other.save(state)
    checkpoints.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, 0.0)
    checkpoints.save({"step": 1})

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save({"step": 2})
    assert checkpoints.load() == {"step": 1}


def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, 0.0)
    checkpoints.save({"weights": torch.zeros(1_000)})
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:2_000])
    assert checkpoints.load() is None
    assert "begins anew" in caplog.text


def test_processes_other_than_the_first_write_nothing(tmp_path):
    Checkpoints(tmp_path / "run", 0.0, writes=False).save({"step": 1})
    assert not (tmp_path / "run").exists()


def test_the_end_of_an_epoch_brings_a_checkpoint_nearer(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("models.training.checkpoints.time.monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, 60.0)
    now[0] += 11
    assert (checkpoints.due(), checkpoints.due(epoch_ended=True)) == (False, True)
    now[0] += 50
    assert checkpoints.due()


@pytest.fixture
def interruptible():
    """A process that was started in the background ignores Ctrl-C; this one shall not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_step(interruptible, number):
    with defer_signals(True) as interrupt:
        os.kill(os.getpid(), number)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_run_is_named_by_all_that_decides_its_outcome(catalog, tmp_path):
    config = TrainingConfig(tower=small_config())
    data = data_hash(catalog)
    key = run_key(config, 0, data, None, None)
    assert key == run_key(config, 0, data, None, None)
    assert key == run_key(replace(config, max_seconds=5.0), 0, data, None, None), "more time lets a cut run go on"
    others = [
        run_key(replace(config, seed=8), 0, data, None, None),
        run_key(replace(config, stages=(Stage("in-batch", rate=0.5),)), 0, data, None, None),
        run_key(config, 1, data, None, None),
        run_key(config, 0, data[::-1], None, None),
        run_key(config, 0, data, {"red vase": ["a"]}, None),
        run_key(config, 0, data, {"red vase": ["b"]}, None),
        run_key(config, 0, data, None, tmp_path / "0123456789ab"),
    ]
    assert len({key, *others}) == len(others) + 1


def test_a_training_that_the_clock_cut_says_so_and_the_next_one_trains_on(catalog, tmp_path, quick_export, caplog):
    config = TrainingConfig(tower=small_config(use_image=False), epochs=2, batch_size=16)
    seen: list[tuple[int, int]] = []
    cut = train_towers(catalog, replace(config, max_seconds=1e-9), tmp_path, lambda *step: seen.append(step))
    assert (cut.cut_by_clock, cut.steps < cut.planned_steps) == (True, True)
    assert seen[0][1] == cut.planned_steps
    assert seen[-1] == (cut.steps, cut.planned_steps), "the schedule stays that of the whole run"
    assert cut_steps(cut.tower_folder) == (cut.steps, cut.planned_steps)
    assert f"cut the training after {cut.steps} of {cut.planned_steps} steps; the same command again trains on" in caplog.text
    record = json.loads((cut.tower_folder / RECORD_FILE).read_text())
    assert record["steps"] == {"run": cut.steps, "planned": cut.planned_steps, "cut_by_clock": True}
    card = write_model_card(cut.tower_folder).read_text()
    assert f"cut by the clock after {cut.steps} of {cut.planned_steps} steps" in card
    whole = train_towers(catalog, config, tmp_path)
    assert (whole.resumed_at, whole.steps, whole.cut_by_clock) == (cut.steps, cut.planned_steps, False)
    assert cut_steps(whole.tower_folder) is None
    assert not list(tmp_path.rglob(CHECKPOINT_FILE))
    uncut = train_towers(catalog, config, tmp_path / "uncut")
    assert uncut.tower_id == whole.tower_id, "a resumed run ends in the weights of an uncut one, to the last digit"
    assert [(r.epoch, r.loss, r.metrics) for r in whole.history] == [(r.epoch, r.loss, r.metrics) for r in uncut.history]


def test_checkpoints_may_lie_in_a_folder_of_their_own(catalog, tmp_path, quick_export):
    config = TrainingConfig(tower=small_config(use_image=False), epochs=1, batch_size=16, max_seconds=1e-9)
    train_towers(catalog, config, tmp_path / "towers", checkpoint_folder=tmp_path / "checkpoints")
    assert not list((tmp_path / "towers").rglob(CHECKPOINT_FILE))
    whole = train_towers(
        catalog, replace(config, max_seconds=None), tmp_path / "towers", checkpoint_folder=tmp_path / "checkpoints"
    )
    assert whole.resumed_at == 1


def test_sigterm_in_a_step_leaves_a_checkpoint(catalog, tmp_path, quick_export):
    config = TrainingConfig(tower=small_config(use_image=False), epochs=1, batch_size=16)

    def terminate(done: int, of: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train_towers(catalog, config, tmp_path, terminate)
    assert train_towers(catalog, config, tmp_path).resumed_at == 2


def test_a_run_that_patience_ended_is_not_cut_by_the_clock(catalog, tmp_path, quick_export):
    config = TrainingConfig(tower=small_config(use_image=False), epochs=9, batch_size=16, validate_every=1, patience=1)
    made = train_towers(catalog, replace(config, learning_rate=1e-12), tmp_path)
    assert (made.cut_by_clock, made.steps < made.planned_steps, cut_steps(made.tower_folder)) == (False, True, None)


def test_ctrl_c_leaves_a_checkpoint_that_the_next_run_goes_on_from_unless_told_otherwise(catalog, tmp_path, quick_export):
    config = TrainingConfig(tower=small_config(use_image=False), epochs=1, batch_size=16)

    def interrupt(done: int, of: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_towers(catalog, config, tmp_path, interrupt, resume=False)
    assert len(list(tmp_path.rglob(CHECKPOINT_FILE))) == 1
    steps: list[int] = []
    report = train_towers(catalog, config, tmp_path, lambda done, of: steps.append(done))
    assert (report.resumed_at, steps[0]) == (4, 5)
    assert not list(tmp_path.rglob(CHECKPOINT_FILE))
    assert train_towers(catalog, config, tmp_path / "again").tower_id == report.tower_id
