"""The bill of a stage: one line per charge, and the resources without a price."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from gavel.cost.charges import NIGHTS, Charge, Meter, Usage, When
from gavel.cost.machines import MACHINE
from gavel.cost.price_table import PriceTable, Unpriced
from gavel.cost.stage_templates import Resource


@dataclass(frozen=True, slots=True)
class Line:
    """A charge and the resource that causes it."""

    resource: Resource
    charge: Charge

    def to_dict(self) -> dict[str, Any]:
        """Return the line for JSON."""
        price = self.charge.price
        return {
            "stack": self.resource.stack,
            "resource": self.resource.logical_id,
            "type": self.resource.kind,
            "what": self.charge.what,
            "when": self.charge.when,
            "quantity": self.charge.quantity,
            "unit": price.unit,
            "unit_usd": price.usd,
            "usd_month": self.charge.usd,
            "price": price.name,
            "source": price.source,
            "seen": price.seen,
        }


@dataclass(frozen=True)
class Bill:
    """Costs of a stage.

    Attributes:
        usage: assumed use of the stage.
        region: AWS region of the prices.
        lines: every charge, in the order of stack and resource.
        unpriced: (resource, reason) of each resource without a price.
        free: number of resources of free types.
        rungs: instance type -> dollars of one night's job, for every type of the ladder.
    """

    usage: Usage
    region: str
    lines: Sequence[Line]
    unpriced: Sequence[tuple[Resource, str]]
    free: int
    rungs: dict[str, float]

    def usd(self, *when: When) -> float:
        """Return the dollars per month of the given causes."""
        return sum(line.charge.usd for line in self.lines if line.charge.when in when)

    @property
    def night_usd(self) -> float:
        """Dollars of one nightly run."""
        return self.usd("night") / NIGHTS

    def to_dict(self) -> dict[str, Any]:
        """Return the bill for JSON."""
        causes = get_args(When)
        return {
            "region": self.region,
            "items_per_night": self.usage.items_per_night,
            "queries_per_month": self.usage.queries_per_month,
            "usd_month": {**{when: self.usd(when) for when in causes}, "total": self.usd(*causes)},
            "usd_night": self.night_usd,
            "usd_night_by_instance": self.rungs,
            "free_resources": self.free,
            "unpriced": [{"resource": r.logical_id, "type": r.kind, "why": why} for r, why in self.unpriced],
            "lines": [line.to_dict() for line in self.lines],
        }


def make_bill(resources: Sequence[Resource], table: PriceTable, usage: Usage) -> Bill:
    """Compute every charge of a stage.

    Args:
        resources: resources of all templates of the stage.
        table: prices and assumptions about use.
        usage: items per night and queries per month.
    """
    meter = Meter(table, usage, resources)
    lines: list[Line] = []
    unpriced: list[tuple[Resource, str]] = []
    rungs: dict[str, float] = {}
    for resource in resources:
        try:
            lines += [Line(resource, charge) for charge in meter.charges(resource)]
            if resource.kind == MACHINE and meter.machines.runs(resource):
                rungs |= _rungs(meter, resource)
        except Unpriced as missing:
            unpriced.append((resource, str(missing)))
    free = sum(table.is_free(resource.kind) for resource in resources)
    return Bill(usage, table.region, lines, unpriced, free, rungs)


def _rungs(meter: Meter, machine: Resource) -> dict[str, float]:
    """Return instance type -> dollars of one night's job, for every type of the ladder."""
    return {
        job.instance: meter.job_hours(job.instance, job.instances)
        * job.instances
        * meter.table.price(f"sagemaker.{job.instance}").usd
        for job in meter.machines.jobs(machine)
    }
