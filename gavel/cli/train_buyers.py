"""Training of the buyer tower for `gavel train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gavel.cli.train_towers import cut_note
from gavel.workspace import pipeline
from gavel.workspace.console import console, progress, show_table, show_values
from gavel.workspace.entry import EXIT_CUT
from gavel.workspace.folders import Workspace
from gavel.workspace.options import print_json, report
from models.artefacts.run_record import cut_of
from retrieval.errors import InvalidInput

if TYPE_CHECKING:  # imports torch
    from processing.training.buyers import BuyersReport


def train_buyers(
    workspace: Workspace,
    catalog: Path | None,
    events: list[Path],
    *,
    seed: int,
    changes: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Train the buyer tower on the live index's stored vectors, and print its metrics on held-out baskets.

    Args:
        workspace: workspace whose settings name the index.
        catalog: catalogue whose clicks are used if there are no events; None takes the newest.
        events: files or folders of events.
        seed: seed of the run.
        changes: field of BuyerTrainingConfig -> value; None leaves the field as it is.
        as_json: True prints JSON.
    """
    if events and catalog:
        raise InvalidInput("--events and --catalog both say what to learn from; leave one out")
    with progress("train buyers") as step:
        result = pipeline.train_buyers(workspace, catalog, events, seed=seed, changes=changes, progress=step)
    print_json(result.to_dict()) if as_json else _show(result)
    if cut_of(result.steps):
        raise typer.Exit(EXIT_CUT)


def _show(result: "BuyersReport") -> None:
    metrics = {
        "average": result.plain,
        f"average, half-life {result.half_life_days or '∞'}": result.average,
        "attention": result.attention,
    }
    rows = [(name, f"{values.recall_at_50:.3f}", f"{values.hit_rate_at_50:.3f}") for name, values in metrics.items()]
    show_table(
        f"Next baskets of {result.val_baskets:,} buyers from {result.val_from:%Y-%m-%d} on",
        ("system", "recall@50", "hit rate@50"),
        rows,
    )
    set_aside = sum(result.set_aside.values())
    counts = {"stored": result.kind, "file": str(result.path), "events": result.acts, "on unknown lots": result.unknown_items}
    report({**counts, "set aside": set_aside, "lots": result.lots, "baskets trained on": result.train_baskets}, as_json=False)
    show_values(cut_note(cut_of(result.steps)))
    console.print("next: start `gavel serve` anew; nothing is embedded or indexed again", style="dim", highlight=False)
