"""A run that is killed at any step goes on and ends with the very same weights; several processes learn what one learns."""

import json
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from painted_lots import write_painted_catalog

from models.checkpoints import CHECKPOINT_FILE

SCRIPT = Path(__file__).parent / "train_small.py"
STEPS = 3 * 10


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_painted_catalog(tmp_path_factory.mktemp("catalog") / "painted").path


def train(catalog: Path, *runs: dict[str, Any], launcher: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What each run said, or its exit status where it said nothing."""
    command = [sys.executable, *launcher, str(SCRIPT), str(catalog), json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
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
    alone = {"out": str(tmp_path / "one"), "batch_size": 15}  # 15: the processes' slices differ in size
    (one,) = train(catalog, alone)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no")
    launcher += ("--dynamo_backend=no", f"--main_process_port={port}", "--main_process_ip=127.0.0.1")
    for name, more in (("plain", {}), ("cached", {"micro_batch": 4})):
        told = train(catalog, {**alone, "out": str(tmp_path / name), **more}, launcher=launcher)
        assert len(told) == 2
        assert told[0] == told[1], "all processes end with the same towers"
        assert told[0]["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert [p.name for p in (tmp_path / name).iterdir() if not p.name.startswith(".")] == [told[0]["tower_id"]]
