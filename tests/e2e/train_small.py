"""Trains small towers for tests that kill it, resume it, or run it on several processes.

python tests/e2e/train_small.py CATALOG '[{"out": FOLDER, "kill": STEP, name: value ...}, ...]'

Each run has a process of its own, forked when everything is imported, and leaves one line of JSON on stdout.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from small_tower import small_config

from catalog.folder import CatalogFolder
from models.training.two_towers import Stage, TrainingConfig, train_towers


def train(catalog: Path, out: str, kill: int = 0, photos: bool = False, dropout: float = 0.2, **options: Any) -> dict[str, Any]:
    """Train; `kill` is the step after which the process dies as by kill -9, `photos` lets the towers see."""
    stage = Stage("mined", random_negatives=1, hard_negatives=1)
    settings = {"epochs": 3, "batch_size": 16, "stages": (stage,), "log_q": True, "checkpoint_seconds": 0.0} | options
    seconds = settings.pop("checkpoint_seconds")
    config = TrainingConfig(tower=replace(small_config(use_image=photos), dropout=dropout), photos="always", **settings)
    folder = CatalogFolder(catalog)
    ids = sorted({pair.item_id for pair in folder.pairs("train")})
    negatives = {pair.query: ids[:9] for pair in folder.pairs("train")}

    def after_step(done: int, of: int) -> None:
        if done == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    with patch(
        "models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch()
    ):  # the export takes seconds
        report = train_towers(folder, config, Path(out), after_step, negatives=negatives, checkpoint_seconds=seconds)
    losses = [record.loss for record in report.history]
    return {"out": Path(out).name, "tower_id": report.tower_id, "resumed_at": report.resumed_at, "losses": losses}


def say(value: dict[str, Any]) -> None:
    """Write a line of JSON in one piece: print may write its line break apart, and another process's line in between."""
    os.write(sys.stdout.fileno(), (json.dumps(value) + "\n").encode())


def main() -> None:
    """Run what the command line asks for, one after the other; a launcher's process runs them itself."""
    torch.set_num_threads(1)  # a fork takes no threads along
    catalog, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    if "WORLD_SIZE" in os.environ:
        for run in runs:
            say(train(catalog, **run))
        return
    for run in runs:
        child = os.fork()
        if not child:
            say(train(catalog, **run))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            say({"status": status})


if __name__ == "__main__":
    main()
