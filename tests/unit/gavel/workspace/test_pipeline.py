"""Steps of a workspace: one process at a time does the same work."""

import os
import re
from pathlib import Path

import pytest
from judged_lots import write_release

from gavel.workspace.pipeline import index
from retrieval.config.settings import Settings
from retrieval.errors import AlreadyRunning


def test_a_second_index_command_is_told_who_writes_the_index(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    release = write_release(tmp_path / "release")
    refusals = []

    def index_again(done: int, total: int) -> None:
        with pytest.raises(AlreadyRunning) as refusal:
            index(settings, release, progress=lambda done, total: None)
        refusals.append(str(refusal.value))

    index(settings, release, progress=index_again)
    assert refusals
    assert re.match(rf"process {os.getpid()} \(.*\) writes the index in {settings.home} since .*; run the same", refusals[0])
    assert index(settings, release, progress=lambda done, total: None).lots == 10, "the first has released its lock"
