"""docs/coverage.md: every described feature has a door that exists and a test that exists."""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gavel.cli.main import app
from lambdas.query_api.app import create_app
from retrieval.config.settings import ScoringParameters, Settings
from retrieval.search.service import SearchService

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8").splitlines()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in LINES if line.startswith("| ") and "| described |" not in line
]
FEATURES = [row[0] for row in ROWS]


def no_service() -> SearchService:
    raise AssertionError("a description asks for no search")


def test_every_row_of_the_first_documents_is_there() -> None:
    assert len(ROWS) >= 81
    assert len(set(FEATURES)) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=FEATURES)
def test_a_row_has_no_empty_cell_and_its_test_exists(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    assert (ROOT / row[2].strip("`")).is_file()


@pytest.mark.parametrize("door", [row[1].strip("`") for row in ROWS], ids=FEATURES)
def test_its_door_exists(door: str) -> None:
    if door.startswith("GAVEL_"):
        assert door.removeprefix("GAVEL_").lower() in {field.name for field in (*fields(Settings), *fields(ScoringParameters))}
    elif door.startswith("make "):
        assert re.search(rf"^{door.removeprefix('make ')}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif door.startswith(("GET ", "POST ")):
        method, path = door.split()
        assert method.lower() in create_app(no_service).openapi()["paths"][path]
    else:
        check_command(door)


def check_command(line: str) -> None:
    """Check that a command, its subcommand and its options exist."""
    program, *words = shlex.split(line)
    assert program == "gavel"
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands") or command.invoke_without_command, f"{line} names no command"
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options
