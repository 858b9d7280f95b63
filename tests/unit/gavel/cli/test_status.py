"""`gavel status`: what a workspace holds, what is live, and the next command."""

from pathlib import Path
from typing import Any

import pytest
from commands_in_process import gavel
from small_releases import lots, write_release
from small_tower import save_small_item_tower
from typer.testing import CliRunner

from gavel.cli.main import app


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def next_command() -> str:
    told: dict[str, Any] = gavel("status")
    return str(told["next"][0])


def test_an_empty_workspace_begins_at_the_start(home: Path) -> None:
    told = gavel("status")
    assert (told["catalogs"], told["towers"], told["releases"]) == ([], [], [])
    assert "gavel index" in told["live"]["error"]
    assert told["next"][0] == "gavel try YOUR-LOTS.csv"


def test_each_step_names_the_one_after_it(home: Path) -> None:
    (home / "catalogs" / "shop").mkdir(parents=True)
    (home / "catalogs" / "shop" / "catalog.json").write_text("{}")
    assert next_command() == "gavel train"
    tower = save_small_item_tower(home / "towers")
    assert next_command() == f"gavel embed --tower {tower.name}"
    write_release(home / "embeddings" / "night", lots(30))
    assert next_command() == "gavel index night"
    gavel("index", "night")
    assert gavel("status")["next"] == ["gavel serve", f"gavel embed --tower {tower.name}"]
    write_release(home / "embeddings" / "next-night", lots(31))
    assert next_command() == "gavel index next-night"


def test_what_is_live_is_told(home: Path) -> None:
    write_release(home / "embeddings" / "night", lots(30))
    gavel("index", "night")
    told = gavel("status")
    assert (told["live"]["lots"], told["live"]["reranker"]) == (30, False)
    (release,) = told["releases"]
    assert (release["release_id"], release["tower_id"], release["lots"]) == ("night", told["live"]["tower_id"], 30)


def test_damaged_files_are_named_beside_the_whole_ones(home: Path) -> None:
    save_small_item_tower(home / "towers")
    (home / "towers" / "torn").mkdir()
    (home / "towers" / "torn" / "tower.json").write_text("{")
    towers = {tower["tower_id"]: tower for tower in gavel("status")["towers"]}
    assert "error" in towers.pop("torn")
    assert ["error" in tower for tower in towers.values()] == [False]
    (home / "embeddings" / "torn").mkdir(parents=True)
    (home / "embeddings" / "torn" / "manifest.json").write_text("{")
    told = gavel("status")
    assert ["error" in release for release in told["releases"]] == [True]
    assert len(told["towers"]) == 2
    printed = CliRunner().invoke(app, ["status"]).stdout.splitlines()
    for damaged in ("towers/torn/tower.json", "embeddings/torn/manifest.json"):
        assert [line for line in printed if line.startswith("torn: ") and damaged in line], f"{damaged} is told on one line"


def test_it_fits_into_80_columns(home: Path) -> None:
    write_release(home / "embeddings" / "night", lots(30))
    printed = CliRunner().invoke(app, ["status"]).stdout
    assert "next: gavel index" in printed
    assert max(len(line) for line in printed.splitlines() if line.startswith(" ─")) <= 80


def test_the_help_lists_the_commands_in_the_order_of_the_journey() -> None:
    printed = CliRunner().invoke(app, ["--help"]).stdout
    panels = [printed.index(f"─ {name} ─") for name in ("Start", "Data", "Models", "Measure", "Operate")]
    assert panels == sorted(panels)
