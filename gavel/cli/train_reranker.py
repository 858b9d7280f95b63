"""Training of the re-ranker for `gavel train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.folder import CatalogFolder
from gavel.workspace import pipeline
from gavel.workspace.console import Stages, console, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import print_json, report

if TYPE_CHECKING:
    from processing.ranking.train_job import Labels


def train_reranker(
    workspace: Workspace, catalog: CatalogFolder, labels: "Labels | None", *, seed: int, force: bool, as_json: bool
) -> None:
    """Train the re-ranker on a catalogue's clicks or judgments; print the report, and whether it was saved and why."""
    with progress("train re-ranker") as step:
        result = pipeline.train_reranker(workspace, catalog, seed=seed, progress=step, labels=labels, force=force)
    values = result.to_dict()
    if as_json:
        print_json(values)
        return
    reason = values.pop("reason")
    report(values, as_json=False)
    console.print(f"re-ranker {'saved' if result.saved else 'not saved'}: {reason}", markup=False, highlight=False, soft_wrap=True)


def train_on_events(workspace: Workspace, places: list[Path], as_json: bool, **given: Any) -> None:
    """Train the re-ranker on events, and print its metrics on held-out and judged queries.

    Args:
        workspace: workspace of the live index.
        places: files or folders of events.
        as_json: True prints JSON.
        given: further arguments of pipeline.train_on_events().
    """
    with Stages() as stages:
        result = pipeline.train_on_events(workspace, places, stages=stages, **given)
    if as_json:
        print_json(result.to_dict())
        return
    report({name: value for name, value in result.to_dict().items() if name not in ("held_out", "judged")}, as_json=False)
    header = ("queries", "", f"nDCG@10, {result.before}", "nDCG@10, new", "difference", "95 % interval", "p")
    rows = []
    for name, comparison in (("held-out queries", result.held_out), ("judged queries", result.judged)):
        if comparison:
            metrics = (f"{comparison.base:.3f}", f"{comparison.new:.3f}", f"{comparison.difference:+.3f}")
            interval = f"{comparison.low:+.3f} to {comparison.high:+.3f}"
            rows.append((name, f"{comparison.queries:,}", *metrics, interval, f"{comparison.p_value:.3f}"))
    show_table("", header, rows)
