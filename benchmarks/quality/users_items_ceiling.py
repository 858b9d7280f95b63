"""The greatest recall that any model can reach on generated users and items: that of the tastes from which they were drawn.

python -m benchmarks.quality.users_items_ceiling .gavel/users-items/synthetic --users 1000

`true tastes` ranks by the probability from which the interactions were drawn, so no model has a greater expected recall.
`tables alone` ranks by what the columns say of these tastes, without learning from interactions.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult
from catalog.interactions import InteractionFolder, TrueTastes
from gavel.workspace.console import progress, show_metrics
from models.data.pair_table import PairTable
from models.training.held_out_ranks import held_out_recall
from processing.training.users_items import CUTOFFS
from retrieval.progress import Progress, ignore_progress

SYSTEMS = {"true tastes": False, "tables alone": True}  # system -> only_tables


def measure(folder: InteractionFolder, users: int, progress: Progress = ignore_progress) -> dict[str, dict[str, float]]:
    """Return system -> "recall@10" and so on of the test interactions.

    Args:
        folder: generated users, items and interactions.
        users: users to measure, evenly spaced; their number at most.
        progress: called with (users done, users) for each system.
    """
    shape = (len(folder.users), len(folder.items))
    before = PairTable(np.concatenate([folder.interactions(split) for split in ("train", "val")]), *shape)
    test, tastes = PairTable(folder.interactions("test"), *shape), TrueTastes(folder)
    chosen = torch.arange(0, shape[0], max(1, shape[0] // users))
    values = {}
    for system, only_tables in SYSTEMS.items():

        def score(block: Tensor, only_tables: bool = only_tables) -> Tensor:
            return torch.from_numpy(tastes.score(block.numpy(), only_tables=only_tables))

        recall = held_out_recall(score, before, test, CUTOFFS, users=chosen, progress=progress).mean(dim=0).tolist()
        values[system] = {f"recall@{cutoff}": value for cutoff, value in zip(CUTOFFS, recall, strict=True)}
    return values


def main(
    tables: Annotated[Path, typer.Argument(help="Folder that `gavel catalog generate users-items` wrote.")],
    users: Annotated[int, typer.Option(min=1, help="Users to measure, evenly spaced.")] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Print the recall of the true tastes, which no model can exceed, and of what the tables say of them."""
    machine = describe_machine()
    with progress("users") as step:
        values = measure(InteractionFolder(tables), users, step)
    QualityResult(machine=machine, values=values).report(as_json, lambda: show_metrics(f"Test interactions of {tables}", values))


if __name__ == "__main__":
    typer.run(main)
