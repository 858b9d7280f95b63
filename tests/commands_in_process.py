"""`gavel` in the process of the test, in a workspace whose compact towers are small."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_tower import small_config
from typer.testing import CliRunner

from gavel.cli.main import app
from models.towers.config import PRESETS


def gavel(*arguments: object) -> Any:
    """Run a command with --json and return what it printed; its exception, or a status other than 0, is raised."""
    run = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if run.exception:
        raise run.exception
    return json.loads(run.stdout)


@contextmanager
def small_workspace(home: Path) -> Iterator[None]:
    """Let commands use a workspace for the length of the block; the compact preset is a small one there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAVEL_HOME", str(home))
        patch.delenv("GAVEL_TOWERS_URI", raising=False)
        patch.setitem(PRESETS, "compact", small_config())
        yield
