"""Mean and spread of the demo's quality over seeds.

for seed in 7 8 9; do GAVEL_HOME=.gavel-$seed gavel demo --seed $seed --json > demo-$seed.json; done
python -m benchmarks.quality.seeds demo-7.json demo-8.json demo-9.json
"""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

import typer

from gavel.workspace.console import show_table

Quality = dict[str, dict[str, float]]  # way of searching -> measure -> mean over the test queries


def mean_and_spread(runs: list[Quality]) -> dict[str, dict[str, tuple[float, float]]]:
    """Put the runs of several seeds together.

    Args:
        runs: one quality table a seed; the first has every way of searching, the others may lack some.

    Returns:
        way of searching -> measure -> (mean, sample standard deviation) over the seeds that have it; 0 for a single one.
    """
    found = {variant: [run[variant] for run in runs if variant in run] for variant in runs[0]}
    return {
        variant: {measure: _spread([table[measure] for table in tables]) for measure in tables[0]}
        for variant, tables in found.items()
    }


def _spread(values: list[float]) -> tuple[float, float]:
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def summarise(runs: list[Quality]) -> dict[str, dict[str, str]]:
    """As mean_and_spread(), in words: "0.300 ± 0.100"."""
    return {
        variant: {measure: f"{mean:.3f} ± {spread:.3f}" for measure, (mean, spread) in cells.items()}
        for variant, cells in mean_and_spread(runs).items()
    }


def main(reports: Annotated[list[Path], typer.Argument(help="What `gavel demo --json` printed, one file a seed.")]) -> None:
    """Print mean ± standard deviation over the seeds."""
    if len(reports) < 2:
        raise typer.BadParameter("a spread needs the reports of at least two seeds")
    table = summarise([json.loads(path.read_text())["quality"] for path in reports])
    measures = list(next(iter(table.values())))
    rows = [(variant, *cells.values()) for variant, cells in table.items()]
    show_table(f"Test queries, mean ± standard deviation over {len(reports)} seeds", ("way of searching", *measures), rows)


if __name__ == "__main__":
    typer.run(main)
