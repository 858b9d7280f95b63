"""A run that is killed at any step goes on and ends with the very same weights; several processes learn what one learns."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from painted_lots import write_painted_catalog

from models.training.checkpoints import CHECKPOINT_FILE

SCRIPT = Path(__file__).parent / "train_small.py"
STEPS = 3 * 10


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted").path


def train(catalog: Path, *runs: dict[str, Any], launcher: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What each run said, or its exit status where it said nothing."""
    command = [sys.executable, *launcher, str(SCRIPT), str(catalog), json.dumps(runs)]
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in (2, 1))
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("photos", [False, True], ids=["text", "photos"])
def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(catalog, tmp_path, photos):
    first, second, third = sorted(random.SystemRandom().sample(range(1, STEPS), 3))
    whole, broken = ({"out": str(tmp_path / name), "photos": photos} for name in ("whole", "broken"))
    runs = [whole, *({**broken, "kill": step} for step in (first, second, third)), broken]
    reference, *killed, resumed = train(catalog, *runs)
    assert killed == [{"status": -signal.SIGKILL}] * 3
    assert resumed["resumed_at"] == third, f"killed at {first}, {second} and {third}"
    assert resumed["losses"] == reference["losses"]
    assert resumed["tower_id"] == reference["tower_id"], "tower_id is a hash of the weights"
    left = [path.name for path in (tmp_path / "broken").iterdir() if not path.name.startswith(".")]
    assert left == [resumed["tower_id"]]
    assert not list(tmp_path.rglob(CHECKPOINT_FILE)), "a finished run keeps no checkpoint"


def test_two_processes_learn_what_one_learns(catalog, tmp_path):
    alone = {"batch_size": 15, "dropout": 0.0}  # 15: the processes' slices differ in size
    plain, cached = ({**alone, "out": str(tmp_path / name)} for name in ("plain", "cached"))
    (one,) = train(catalog, {**alone, "out": str(tmp_path / "one")})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}")
    told = train(catalog, plain, {**cached, "micro_batch": 4}, launcher=launcher)
    for run in ("plain", "cached"):
        first, second = (answer for answer in told if answer["out"] == run)
        assert first == second, "both processes end with the same towers"
        assert first["losses"] == pytest.approx(one["losses"], rel=1e-3)
        assert [p.name for p in (tmp_path / run).iterdir() if not p.name.startswith(".")] == [first["tower_id"]]
