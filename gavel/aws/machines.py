"""The stage's state machines, started by hand."""

import json

from gavel.aws.account import DeployedStage, asking_aws, client
from gavel.aws.jobs import check_date, items_of
from gavel.aws.towers import tower_in_bucket
from retrieval.errors import InvalidInput


def start_night(stage: DeployedStage, date: str) -> str:
    """Look for a day's lots and embed them, as the schedule does; returns the execution's ARN.

    Raises:
        InvalidInput: that is no date, or there are no lots of it.
    """
    items_of(stage, date)
    return _start(stage.output("FindDayMachine"), {"scheduled_time": f"{check_date(date)}T00:00:00Z"})


def start_rebuild(stage: DeployedStage, tower_id: str) -> str:
    """Embed all lots anew with a tower, into an index of its own; returns the execution's ARN.

    Raises:
        InvalidInput: there is no such tower, or the stage has no machine for it.
    """
    if "RebuildMachine" not in stage.outputs:
        raise InvalidInput(
            f"stage {stage.name} has no rebuild machine (output RebuildMachine): deploy it again, or see docs/operations.md"
        )
    return _start(stage.output("RebuildMachine"), {"tower_id": tower_in_bucket(stage, tower_id)})


def _start(machine: str, given: dict[str, str]) -> str:
    with asking_aws(f"state machine {machine}"):
        started = client("stepfunctions").start_execution(stateMachineArn=machine, input=json.dumps(given))
        return str(started["executionArn"])
