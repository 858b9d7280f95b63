"""Mean and spread of the demo's quality over seeds.

for seed in 7 8 9; do GAVEL_HOME=.gavel-$seed gavel demo --seed $seed --json > demo-$seed.json; done
python -m benchmarks.seeds demo-7.json demo-8.json demo-9.json
"""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

import typer

from local.console import show_table

Quality = dict[str, dict[str, float]]  # way of searching -> measure -> mean over the test queries


def summarise(runs: list[Quality]) -> dict[str, dict[str, str]]:
    """Put the runs of several seeds together.

    Args:
        runs: one quality table a seed, all of the same shape; at least two.

    Returns:
        way of searching -> measure -> "mean ± sample standard deviation".
    """
    return {
        variant: {
            measure: f"{fmean(run[variant][measure] for run in runs):.3f} ± {stdev(run[variant][measure] for run in runs):.3f}"
            for measure in runs[0][variant]
        }
        for variant in runs[0]
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
