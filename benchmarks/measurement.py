"""Base classes of benchmark results, with machine, date and command, and functions that print scores."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from statistics import fmean, stdev
from typing import Any, ClassVar

from gavel.workspace.console import console, show_table
from gavel.workspace.options import print_json

Scores = Mapping[str, Mapping[str, float]]  # system -> metric -> value


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Base class of benchmark results. A subclass adds its settings and values as fields.

    Attributes:
        machine: value of describe_machine() before the measurement began.
        date: UTC time at which the result was complete, in ISO format.
        command: command line of the benchmark.
    """

    derived: ClassVar[tuple[str, ...]] = ()  # names of properties that also go into the JSON

    machine: str
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str = field(default_factory=lambda: shlex.join(sys.argv))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and derived values for JSON."""
        return {**asdict(self), **{name: getattr(self, name) for name in self.derived}}

    def report(self, as_json: bool, show: Callable[[], None]) -> None:
        """Print the result as JSON, or call `show` and print a line about the machine below."""
        if as_json:
            print_json(self.to_dict())
            return
        show()
        console.print(f"{self.machine}; {self.date}", style="dim", highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class QualityResult(Measurement):
    """Result of a benchmark that compares systems by their scores.

    Attributes:
        values: key in the JSON -> value.
    """

    values: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the values beside machine, date and command."""
        conditions = super().to_dict()
        return {**conditions.pop("values"), **conditions}


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, which is 0 for a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def format_mean(values: Sequence[float]) -> str:
    """Format the mean as "0.300", or for several values mean and standard deviation as "0.300 ± 0.100"."""
    mean, sd = mean_and_sd(values)
    return f"{mean:.3f} ± {sd:.3f}" if len(values) > 1 else f"{mean:.3f}"


def mean_and_sd_of_runs(runs: Sequence[Scores]) -> dict[str, dict[str, tuple[float, float]]]:
    """Combine the scores of several seeds.

    Args:
        runs: scores of each seed; the first seed has every system, other seeds may lack systems.

    Returns:
        system -> metric -> (mean, sample standard deviation) over the seeds that have it.
    """
    by_system = {system: [run[system] for run in runs if system in run] for system in runs[0]}
    return {
        system: {metric: mean_and_sd([scores[metric] for scores in tables]) for metric in tables[0]}
        for system, tables in by_system.items()
    }


def show_scores(title: str, label: str, table: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Print a table with one row per system and one column per metric, with cells such as "0.300 ± 0.100".

    Args:
        title: title above the table.
        label: header of the column of systems.
        table: system -> metric -> (mean, standard deviation), as mean_and_sd_of_runs() returns it.
    """
    metrics = next(iter(table.values()))
    rows = [(system, *(f"{mean:.3f} ± {sd:.3f}" for mean, sd in scores.values())) for system, scores in table.items()]
    show_table(title, (label, *metrics), rows)


def show_targets(passed: Mapping[str, bool]) -> None:
    """Print for each target if it was reached."""
    for target, reached in passed.items():
        console.print(f"{target}: {'yes' if reached else 'NO'}", highlight=False)
