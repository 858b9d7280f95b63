"""What benchmark results have in common."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.measurement import Measurement, QualityResult
from benchmarks.quality.seeds import main
from gavel.workspace.console import console


@dataclass(frozen=True)
class Twice(Measurement):
    once: int
    derived: ClassVar = ("twice",)

    @property
    def twice(self) -> int:
        return 2 * self.once


@pytest.fixture
def wide() -> Iterator[None]:
    before, console.width = console.width, 120
    yield
    console.width = before


def test_a_result_says_where_when_and_by_which_command(capsys: pytest.CaptureFixture[str]) -> None:
    result = Twice(3, machine="a laptop")
    assert result.to_dict() == {"once": 3, "twice": 6, "machine": "a laptop", "date": result.date, "command": result.command}
    assert result.command
    result.report(True, lambda: pytest.fail("JSON stands alone"))
    assert json.loads(capsys.readouterr().out) == result.to_dict()
    result.report(False, lambda: None)
    assert "a laptop" in capsys.readouterr().out


def test_values_stand_at_the_top_of_a_quality_result() -> None:
    result = QualityResult(machine="a laptop", values={"bars": {"x": True}})
    assert result.to_dict().keys() == {"bars", "machine", "date", "command"}


@pytest.mark.usefixtures("wide")
def test_a_cell_is_the_mean_with_the_sample_deviation_over_the_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [tmp_path / f"{value}.json" for value in (0.2, 0.3, 0.4)]
    for report in reports:
        report.write_text(json.dumps({"quality": {"hybrid": {"recall@10": float(report.stem)}}}))
    main(reports)
    assert "0.300 ± 0.100" in capsys.readouterr().out
