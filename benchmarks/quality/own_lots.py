"""A shop's own file, from nothing to a search page: quality and time of `gavel try` on the products of the chorus electronics shop.

python -m benchmarks.quality.own_lots CHORUS

The products are written to a CSV of id, name, description, brand and price, as a shop would export them. `gavel try` makes a page
of it in a process of its own, and sees no judgment and no attribute. All 74 judged queries then compare its searches.
With --demo-tower, the same lots are also embedded with another tower, and the warning about it is shown. A second call resumes.
"""

import csv
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from ir_measures import Bpref

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult, show_targets
from catalog import chorus
from catalog.judgment_files import read_judgments
from gavel.workspace.console import show_metrics, show_values
from gavel.workspace.wiring import search_service
from processing.evaluation.runs import System, search_run
from processing.training.step_cache import StepCache
from retrieval.config.settings import Settings
from retrieval.evaluation.metrics import MEASURES, RELEVANT_GRADE, evaluate
from retrieval.index.filters import utc_now
from retrieval.search.service import Mode

KEYWORD, SEMANTIC, HYBRID = "BM25", "semantic", "hybrid"
SYSTEMS: Mapping[str, Mode] = {KEYWORD: "keyword", SEMANTIC: "semantic", HYBRID: "hybrid"}
DEPTH = 1_000
MAX_NDCG_LOSS = 0.02  # below BM25, whose results are what was judged
MAX_MINUTES = 15


def write_lots(data: Path, path: Path) -> int:
    """Write the products of the shop as a CSV without attributes; return their number."""
    products = chorus.read_products(data)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "name", "description", "brand", "price"])
        for item in (product.item for product in products):
            rows.writerow([item.item_id, item.title, item.description, item.brand, f"{item.current_price:.2f}"])
    return len(products)


def run_gavel(home: Path, *arguments: str, **variables: str) -> tuple[dict[str, Any], float, float, str]:
    """Run a command in a workspace; return its JSON, seconds, processor seconds, and what it wrote to stderr."""
    environment = {**os.environ, "GAVEL_HOME": str(home), **variables}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "gavel.cli.main", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise typer.BadParameter(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-2_000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout), time.monotonic() - started, processor, done.stderr


def measure_searches(home: Path, grades: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """Search every judged query with a relevant lot in the live index of a workspace; return system -> measure -> mean."""
    service = search_service(replace(Settings.from_env(), home=home, towers_uri=""))
    queries = {query: query for query, graded in grades.items() if max(graded.values()) >= RELEVANT_GRADE}
    measures = {**MEASURES, "bpref": Bpref(rel=RELEVANT_GRADE)}
    now = utc_now()
    return {
        name: evaluate(grades, search_run(System(name, service, mode), queries, now, depth=DEPTH), measures)
        for name, mode in SYSTEMS.items()
    }


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the shop's data, as chorus publishes it.")],
    work: Annotated[Path, typer.Option(help="Folder for the file and the workspace.")] = Path(".gavel/own-lots"),
    demo_tower: Annotated[Path | None, typer.Option(help="Folder of a tower of other lots, such as the demo's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Print quality, time and targets of `gavel try` on the shop's products; exit 1 if a target is missed."""
    work.mkdir(parents=True, exist_ok=True)
    lots, home = work / "lots.csv", work / "home"
    if not lots.is_file():
        write_lots(data, lots)
    tried = StepCache(work / "try.json").step(
        "try", str(data.resolve()), lambda: run_gavel(home, "try", str(lots), "--no-serve")[:3]
    )
    report, seconds, processor = tried.value
    ids = {product.item.item_id for product in chorus.read_products(data)}
    quality = measure_searches(home, read_judgments(data / chorus.JUDGMENTS_FILE, ids).grades)
    base, hybrid = quality[KEYWORD], quality[HYBRID]
    passed = {
        "hybrid bpref > BM25": hybrid["bpref"] > base["bpref"],
        "hybrid recall@50 > BM25": hybrid["recall@50"] > base["recall@50"],
        f"hybrid ndcg@10 >= BM25 - {MAX_NDCG_LOSS}": hybrid["ndcg@10"] >= base["ndcg@10"] - MAX_NDCG_LOSS,
    }
    if not any(reused for _, reused in report["steps"].values()):
        passed[f"at most {MAX_MINUTES} min of two cores"] = processor <= MAX_MINUTES * 60 * 2
    fits = {"adapted tower": report["tower_fit"]}
    values: dict[str, Any] = {"quality": quality, "steps": report["steps"], "seconds": seconds, "processor_seconds": processor}
    if demo_tower is not None:
        variables = {"GAVEL_TOWERS_URI": str(demo_tower.parent)}
        embedded, _, _, stderr = run_gavel(work / "demo-home", "embed", str(lots), "--tower", demo_tower.name, **variables)
        passed["the demo's tower is warned about"] = "does not fit" in stderr
        fits["demo's tower"] = embedded["tower_fit"]

    def show() -> None:
        show_metrics("chorus products alone, all judged queries", quality)
        steps = {name: f"{took:.0f} s{' (earlier)' if reused else ''}" for name, (took, reused) in report["steps"].items()}
        show_values({**steps, "gavel try": f"{seconds:.0f} s", "processor time": f"{processor:.0f} s"})
        show_values(fits)
        show_targets(passed)

    QualityResult(machine=describe_machine(), values={**values, "tower_fit": fits, "bars": passed}).report(as_json, show)
    raise typer.Exit(0 if all(passed.values()) else 1)


if __name__ == "__main__":
    typer.run(main)
