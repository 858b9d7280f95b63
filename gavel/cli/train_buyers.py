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
    """Train the buyer tower on the live index's stored vectors, and print its metrics on held-out baskets."""
    if events and catalog:
        raise InvalidInput("--events and --catalog both say what to learn from; leave one out")
    with progress("train buyers") as step:
        result = pipeline.train_buyers(workspace, catalog, events, heads=heads, epochs=epochs, seed=seed, progress=step)
    if as_json:
        print_json(result.to_dict())
        return
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
    console.print("next: start `gavel serve` anew; nothing is embedded or indexed again", style="dim", highlight=False)
