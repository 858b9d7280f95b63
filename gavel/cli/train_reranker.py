"""Training of the re-ranker for `gavel train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.folder import CatalogFolder
from gavel.workspace import pipeline
from gavel.workspace.console import Stages, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import print_json, report

if TYPE_CHECKING:
    from processing.ranking.train_job import Labels


def train_reranker(workspace: Workspace, catalog: CatalogFolder, labels: "Labels | None", *, seed: int, as_json: bool) -> None:
    """Train the re-ranker on a catalogue's clicks or judgments and print its report."""
    with progress("train re-ranker") as step:
        result = pipeline.train_reranker(workspace, catalog, seed=seed, progress=step, labels=labels)
    report(result.to_dict(), as_json)


def train_on_events(workspace: Workspace, places: list[Path], as_json: bool, **given: Any) -> None:
    """Train the re-ranker on events, and show what held-out sources say of it; `given` as pipeline.train_on_events() takes it."""
    with Stages() as stages:
        made = pipeline.train_on_events(workspace, places, stages=stages, **given)
    if as_json:
        print_json(made.to_dict())
        return
    report({name: value for name, value in made.to_dict().items() if name not in ("held_out", "judged")}, as_json=False)
    header = ("queries", "", f"nDCG@10, {made.before}", "nDCG@10, new", "difference", "95 % interval", "p")
    rows = []
    for name, found in (("held-out queries", made.held_out), ("judged queries", made.judged)):
        if found:
            cells = (f"{found.base:.3f}", f"{found.new:.3f}", f"{found.difference:+.3f}")
            rows.append((name, f"{found.queries:,}", *cells, f"{found.low:+.3f} to {found.high:+.3f}", f"{found.p_value:.3f}"))
    show_table("", header, rows)
