"""The state machines of a stage: how they are started, and their processing jobs."""

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
    """A processing job of a machine.

    Attributes:
        instance: instance type.
        instances: number of instances.
        volume_gb: disk of each instance in GB.
    """

    instance: str
    instances: int
    volume_gb: int


class Machines:
    """The state machines of a stage."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        machines = [r for r in resources if r.kind == MACHINE]
        self._states = {r.logical_id: list(_states(definition(r))) for r in machines}
        targets = [json.dumps(r.properties["Target"]["Arn"]) for r in resources if r.kind == SCHEDULE]
        self._schedules = {r.logical_id: sum(r.logical_id in target for target in targets) for r in machines}

    def states(self, machine: Resource) -> Sequence[Mapping[str, Any]]:
        """Return the states of a machine, including those of its loops and branches."""
        return self._states[machine.logical_id]

    def scheduled(self, machine: Resource) -> bool:
        """True if a schedule starts the machine."""
        return self._schedules[machine.logical_id] > 0

    def runs(self, machine: Resource) -> int:
        """Return a machine's runs per night: the number of schedules that start it, or 1 if a scheduled machine does, or 0."""
        starters = [name for name, times in self._schedules.items() if times and self._starts(name, machine.logical_id)]
        return self._schedules[machine.logical_id] or bool(starters)

    def jobs(self, machine: Resource) -> list[Job]:
        """Return the machine's possible jobs in the order of its states: one per instance type of the ladder.

        Raises:
            Unpriced: an instance type or number is decided when the machine runs.
        """
        jobs = [s["Parameters"] for s in self.states(machine) if START_JOB in s.get("Resource", "")]
        clusters = [parameters["ProcessingResources"]["ClusterConfig"] for parameters in jobs]
        try:
            return [Job(c["InstanceType"], int(c["InstanceCount"]), int(c["VolumeSizeInGB"])) for c in clusters]
        except KeyError as missing:
            raise Unpriced(f"the job's {missing} is decided when the machine runs") from None

    def _starts(self, one: str, other: str) -> bool:
        return any(START_MACHINE in s.get("Resource", "") and other in json.dumps(s) for s in self._states[one])


def definition(machine: Resource) -> dict[str, Any]:
    """Parse the definition of a machine, with names of resources in place of CloudFormation's references.

    Raises:
        InvalidInput: the definition is not JSON.
    """
    text = machine.properties.get("DefinitionString", machine.properties.get("Definition", {}))
    if isinstance(text, Mapping) and "Fn::Join" in text:
        text = "".join(part if isinstance(part, str) else _name(part) for part in text["Fn::Join"][1])
    try:
        parsed: dict[str, Any] = json.loads(text) if isinstance(text, str) else dict(text)
    except ValueError as error:
        raise InvalidInput(f"the definition of {machine.stack} {machine.logical_id} cannot be read: {error}") from error
    return parsed


def _states(machine: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for state in machine.get("States", {}).values():
        yield state
        yield from _states(state.get("ItemProcessor", state.get("Iterator", {})))
        for branch in state.get("Branches", []):
            yield from _states(branch)


def _name(reference: Any) -> str:
    """Return a name for a reference that is safe inside a JSON text."""
    return json.dumps(reference).replace('"', "").replace("\\", "")
