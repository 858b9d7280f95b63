"""The training job: flags, what it prints, and how it refuses."""

import json
import logging
from dataclasses import replace

import pytest
from painted_lots import write_painted_catalog
from small_tower import small_config

from models.data.hard_negatives import HardNegatives
from processing.command_line import EXIT_USAGE
from processing.training import towers_job as job
from retrieval.contracts.tower_card import TowerCard


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted").path


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())
    monkeypatch.setattr("models.artefacts.tower_files.export_image_tower", lambda towers, path: path.touch())
    monkeypatch.setattr("models.config.training.find_preset", lambda name: small_config())


def arguments(catalog, out, *more: str) -> list[str]:
    return ["--input", str(catalog), "--output", str(out), "--text-only", "--epochs", "1", "--batch-size", "16", *more]


@pytest.mark.parametrize(
    ("trainable", "given", "photos"),
    [
        ("none", None, "auto"),
        ("all", None, "always"),
        ("last-1", None, "always"),
        ("all", "auto", "auto"),
        ("none", "never", "never"),
    ],
)
def test_photos_are_compared_by_default_only_where_both_encoders_are_frozen(monkeypatch, trainable, given, photos):
    frozen = replace(small_config(), image=replace(small_config().image, trainable="none"))
    monkeypatch.setattr("models.config.training.find_preset", lambda name: frozen)
    config = job.training_config(
        "painted",
        preset="compact",
        text_only=False,
        seed=7,
        three_stages=False,
        weights=job.Weights(train_text=trainable),
        schedule={"photos": given},
    )
    assert config.photos == photos


def test_a_job_that_compares_says_what_it_chose_and_a_later_stage_follows(catalog, tmp_path, small, capsys):
    flags = ["--input", str(catalog), "--output", str(tmp_path), "--epochs", "1", "--batch-size", "16"]
    assert job.main([*flags, "--use-photos", "auto"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert {"text", "text + photo"} < set(first["choice"]["metrics"])
    assert first["steps"] == 20
    assert job.main([*flags, "--start-from", first["tower_folder"]]) == 0
    later = json.loads(capsys.readouterr().out)
    assert later["choice"]["reads_photos"] == first["choice"]["reads_photos"]
    assert later["steps"] == 10


def test_two_stages_follow_one_another_and_leave_their_records(catalog, tmp_path, small, capsys, caplog):
    caplog.set_level(logging.INFO)
    assert job.main(arguments(catalog, tmp_path)) == 0
    first = json.loads(capsys.readouterr().out)
    assert "step 10 of 10" in caplog.text
    negatives = tmp_path / "negatives.parquet"
    HardNegatives({"red vase": ["lot-001", "lot-002"]}, {"red vase": [0.9, 0.8]}).save(negatives)
    more = ("--stage", "1", "--start-from", first["tower_folder"], "--negatives", str(negatives), "--micro-batch", "8", "--log-q")
    assert job.main(arguments(catalog, tmp_path, *more)) == 0
    second = json.loads(capsys.readouterr().out)
    record = json.loads((tmp_path / second["tower_id"] / "training.json").read_text())
    assert (record["stage"], record["start_from"]) == ("hard-negatives", first["tower_id"])
    assert record["settings"]["micro_batch"] == 8
    assert record["data"] == {**record["data"], "catalog": "painted", "lots": 160, "queries": 16, "pairs": 160}
    assert {"loss", "in_batch_accuracy", "in_batch_recall_at_10", "recall_at_50"} <= set(record["history"][0])
    assert len(record["data"]["sha256"]) == 64
    assert list((tmp_path / ".runs").glob("*/events.out.tfevents.*")), "TensorBoard's files"


def test_flags_reach_the_training_and_its_record(catalog, tmp_path, small, capsys):
    memory = ("--gradient-checkpointing", "--micro-batch", "8")
    more = ("--batch-hard", "0.5", "--max-length", "200", "--train-text", "last-1", *memory)
    assert job.main(arguments(catalog, tmp_path, *more)) == 0
    printed = json.loads(capsys.readouterr().out)
    settings = json.loads((tmp_path / printed["tower_id"] / "training.json").read_text())["settings"]
    assert (settings["batch_hard"], settings["gradient_checkpointing"], settings["micro_batch"]) == (0.5, True, 8)
    assert settings["tower"]["text"]["trainable"] == "last-1"
    card = TowerCard.load(tmp_path / printed["tower_id"])
    assert card.max_length == 200, "a fresh encoder gets as many positions"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--stage", "7"), "there is no stage 7"),
        (("--stage", "1"), "none were mined"),
        (("--negatives", "/nowhere.parquet"), "there is no file of negatives"),
        (("--start-from", "/nowhere"), "nowhere"),
        (("--batch-size", "1"), "batch_size"),
        (("--train-text", "half"), "trainable"),
        (("--features", "colour"), "there is no feature 'colour'"),
        (("--features", "brand"), "no item of the catalogue has a value of brand"),
        (("--batch-hard", "-1"), "batch_hard"),
        (("--log-with", "abacus"), "there is no tracker 'abacus'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(catalog, tmp_path, small, capsys, more, reason):
    assert job.main(arguments(catalog, tmp_path, *more)) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.startswith("gavel: ")
    assert reason in error
    assert error.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(catalog, tmp_path, small, capsys, monkeypatch):
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_log_progress", lambda: interrupt)
    assert job.main(arguments(catalog, tmp_path)) == job.EXIT_INTERRUPTED
    assert "run the same command again to go on" in capsys.readouterr().err
