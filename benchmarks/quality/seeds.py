"""Mean and spread of the demo's quality over seeds.

for seed in 7 8 9; do GAVEL_HOME=.gavel-$seed gavel demo --seed $seed --json > demo-$seed.json; done
python -m benchmarks.quality.seeds demo-7.json demo-8.json demo-9.json
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.measurement import mean_and_sd_of_runs, show_scores


def main(reports: Annotated[list[Path], typer.Argument(help="Output of `gavel demo --json`, one file per seed.")]) -> None:
    """Print mean ± standard deviation of the demo's quality over the seeds."""
    if len(reports) < 2:
        raise typer.BadParameter("a spread needs the reports of at least two seeds")
    table = mean_and_sd_of_runs([json.loads(path.read_text())["quality"] for path in reports])
    show_scores(f"Test queries, mean ± standard deviation over {len(reports)} seeds", "system", table)


if __name__ == "__main__":
    typer.run(main)
