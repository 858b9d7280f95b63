"""The state machines of a stage: which a schedule starts, which another one starts, and the jobs that they ask for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gavel.cost.price_table import Unpriced
from gavel.cost.stage_templates import Resource
from retrieval.errors import InvalidInput

MACHINE, SCHEDULE = "AWS::StepFunctions::StateMachine", "AWS::Scheduler::Schedule"
START_MACHINE, START_JOB = "startExecution", "createProcessingJob"


@dataclass(frozen=True, slots=True)
class Job:
    """A processing job that a machine asks for.

    Attributes:
        instance: instance type.
        instances: how many.
        volume_gb: of each.
    """

    instance: str
    instances: int
    volume_gb: int


class Machines:
    """The machines of a stage."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        machines = [r for r in resources if r.kind == MACHINE]
        self._states = {r.logical_id: list(_states(definition(r))) for r in machines}
        targets = [json.dumps(r.properties["Target"]["Arn"]) for r in resources if r.kind == SCHEDULE]
        self._schedules = {r.logical_id: sum(r.logical_id in target for target in targets) for r in machines}

    def states(self, machine: Resource) -> Sequence[Mapping[str, Any]]:
        """Its states, those of its loops as well."""
        return self._states[machine.logical_id]

    def scheduled(self, machine: Resource) -> bool:
        """Whether a schedule starts it."""
        return self._schedules[machine.logical_id] > 0

    def runs(self, machine: Resource) -> int:
        """How often a night it runs: as often as schedules start it, or once if a scheduled machine starts it; else never."""
        started = [name for name, times in self._schedules.items() if times and self._starts(name, machine.logical_id)]
        return self._schedules[machine.logical_id] or bool(started)

    def jobs(self, machine: Resource) -> list[Job]:
        """The jobs that it may ask for, as its states stand: the rungs of a ladder from the first on.

        Raises:
            Unpriced: an instance type or number is decided when the machine runs.
        """
        asked = [s["Parameters"] for s in self.states(machine) if START_JOB in s.get("Resource", "")]
        clusters = [parameters["ProcessingResources"]["ClusterConfig"] for parameters in asked]
        try:
            return [Job(c["InstanceType"], int(c["InstanceCount"]), int(c["VolumeSizeInGB"])) for c in clusters]
        except KeyError as missing:
            raise Unpriced(f"the job's {missing} is decided when the machine runs") from None

    def _starts(self, one: str, other: str) -> bool:
        return any(START_MACHINE in s.get("Resource", "") and other in json.dumps(s) for s in self._states[one])


def definition(machine: Resource) -> dict[str, Any]:
    """The definition of a machine; the names of resources stand in the places that CloudFormation fills in.

    Raises:
        InvalidInput: it is not JSON, whatever is filled in.
    """
    given = machine.properties.get("DefinitionString", machine.properties.get("Definition", {}))
    if isinstance(given, Mapping) and "Fn::Join" in given:
        given = "".join(part if isinstance(part, str) else _name(part) for part in given["Fn::Join"][1])
    try:
        found: dict[str, Any] = json.loads(given) if isinstance(given, str) else dict(given)
    except ValueError as error:
        raise InvalidInput(f"the definition of {machine.stack} {machine.logical_id} cannot be read: {error}") from error
    return found


def _states(machine: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for state in machine.get("States", {}).values():
        yield state
        yield from _states(state.get("ItemProcessor", state.get("Iterator", {})))
        for branch in state.get("Branches", []):
            yield from _states(branch)


def _name(reference: Any) -> str:
    """A word for a reference that is safe inside a JSON text."""
    return json.dumps(reference).replace('"', "").replace("\\", "")
