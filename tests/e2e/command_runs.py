"""Runs of the `gavel` command as real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

GAVEL = [sys.executable, "-m", "gavel.cli.main"]
DEMO_LOTS = 150
ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path) -> dict[str, str]:
    """Return this process's variables with the GAVEL_* ones of a test workspace in `home`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GAVEL_")}
    own = {"GAVEL_HOME": home, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "PYTHONPATH": ROOT}
    return inherited | {name: str(value) for name, value in own.items()}


def gavel(home: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*GAVEL, *arguments], env=environment(home), input=stdin, capture_output=True, text=True, timeout=600, check=False
    )


def answer(home: Path, *arguments: str) -> Any:
    """Run a command that must succeed, and return its JSON."""
    run = gavel(home, *arguments, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def refusal(home: Path, *arguments: str) -> str:
    """Run a command that must refuse its arguments, and return its message on one line."""
    run = gavel(home, *arguments)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return " ".join(run.stderr.split())
