"""Base classes of benchmark results: machine, date and command of a measurement, its JSON and its printed tables."""

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
    """Base class of results: a subclass adds its settings and values as fields.

    Attributes:
        machine: describe_machine() before the measurement began.
        date: UTC time at which the result was complete.
        command: the command line that measured it.
    """

    derived: ClassVar[tuple[str, ...]] = ()  # properties that belong to the JSON, too

    machine: str
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str = field(default_factory=lambda: shlex.join(sys.argv))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and derived values for JSON."""
        return {**asdict(self), **{name: getattr(self, name) for name in self.derived}}

    def report(self, as_json: bool, show: Callable[[], None]) -> None:
        """Print the result as JSON, or by `show` with a line about the machine below."""
        if as_json:
            print_json(self.to_dict())
            return
        show()
        console.print(f"{self.machine}; {self.date}", style="dim", highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class QualityResult(Measurement):
    """Result of a benchmark that compares systems by their scores.

    Attributes:
        values: key of the JSON -> value.
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
    """Format the mean as "0.300", with several values as "0.300 ± 0.100"."""
    mean, sd = mean_and_sd(values)
    return f"{mean:.3f} ± {sd:.3f}" if len(values) > 1 else f"{mean:.3f}"


def mean_and_sd_of_runs(runs: Sequence[Scores]) -> dict[str, dict[str, tuple[float, float]]]:
    """Combine the scores of several seeds.

    Args:
        runs: scores of each seed; the first has every system, the others may lack some.

    Returns:
        system -> metric -> (mean, sample standard deviation) over the seeds that have it.
    """
    by_system = {system: [run[system] for run in runs if system in run] for system in runs[0]}
    return {
        system: {metric: mean_and_sd([scores[metric] for scores in tables]) for metric in tables[0]}
        for system, tables in by_system.items()
    }


def show_scores(title: str, label: str, table: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Print a row a system and a column a metric, as "0.300 ± 0.100".

    Args:
        title: above the table.
        label: of the column of systems.
        table: as mean_and_sd_of_runs() returns it.
    """
    metrics = next(iter(table.values()))
    rows = [(system, *(f"{mean:.3f} ± {sd:.3f}" for mean, sd in scores.values())) for system, scores in table.items()]
    show_table(title, (label, *metrics), rows)


def show_targets(passed: Mapping[str, bool]) -> None:
    """Print which targets were reached."""
    for target, reached in passed.items():
        console.print(f"{target}: {'yes' if reached else 'NO'}", highlight=False)
