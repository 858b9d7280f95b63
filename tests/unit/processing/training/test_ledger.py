"""A second run does only what is left to do."""

from pathlib import Path

import pytest

from processing.training.step_cache import StepCache


def fail() -> None:
    raise AssertionError("the step ran again")


def test_a_finished_step_is_not_run_again(tmp_path: Path) -> None:
    first = StepCache(tmp_path / "l.json").step("train", "seed 7", lambda: "tower")
    again = StepCache(tmp_path / "l.json").step("train", "seed 7", fail)
    assert (first.value, first.reused) == ("tower", False)
    assert (again.value, again.reused, again.seconds) == ("tower", True, first.seconds)


def test_other_input_runs_the_step_again(tmp_path: Path) -> None:
    StepCache(tmp_path / "l.json").step("train", "seed 7", lambda: "tower")
    assert StepCache(tmp_path / "l.json").step("train", "seed 8", lambda: "other").value == "other"


def test_a_result_that_was_removed_is_made_again(tmp_path: Path) -> None:
    StepCache(tmp_path / "l.json").step("train", "seed 7", lambda: "gone")
    assert not StepCache(tmp_path / "l.json").step("train", "seed 7", lambda: "new", lambda value: value != "gone").reused


def test_an_interrupted_step_leaves_no_trace(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StepCache(tmp_path / "l.json").step("train", "seed 7", interrupted)
    assert not StepCache(tmp_path / "l.json").step("train", "seed 7", lambda: "tower").reused


def test_a_damaged_ledger_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"train": {"ke')
    assert StepCache(tmp_path / "l.json").step("train", "seed 7", lambda: "tower").value == "tower"
