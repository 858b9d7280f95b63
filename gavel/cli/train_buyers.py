"""Training of the buyer tower for `gavel train`."""

from pathlib import Path

from gavel.workspace import pipeline
from gavel.workspace.console import console, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import print_json, report
from retrieval.errors import InvalidInput


def train_buyers(
    workspace: Workspace,
    catalog: Path | None,
    events: list[Path],
    *,
    heads: int | None,
    epochs: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train the buyer tower over the stored vectors of the live index's tower, and show what held-out baskets say of it."""
    if events and catalog:
        raise InvalidInput("--events and --catalog both say what to learn from; leave one out")
    with progress("train buyers") as step:
        made = pipeline.train_buyers(workspace, catalog, events, heads=heads, epochs=epochs, seed=seed, progress=step)
    if as_json:
        print_json(made.to_dict())
        return
    found = {"average": made.plain, f"average, half-life {made.half_life_days or '∞'}": made.average, "attention": made.attention}
    rows = [(name, f"{figures.recall_at_50:.3f}", f"{figures.hit_rate_at_50:.3f}") for name, figures in found.items()]
    show_table(
        f"Next baskets of {made.val_baskets:,} buyers from {made.val_from:%Y-%m-%d} on", ("way", "recall@50", "hit rate@50"), rows
    )
    set_aside = sum(made.set_aside.values())
    counts = {"kept": made.kind, "file": str(made.path), "events": made.acts, "on unknown lots": made.unknown_items}
    report({**counts, "set aside": set_aside, "lots": made.lots, "baskets trained on": made.train_baskets}, as_json=False)
    console.print("next: start `gavel serve` anew; nothing is embedded or indexed again", style="dim", highlight=False)
