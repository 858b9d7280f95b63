"""Start the stage's state machines by hand."""

import json

from gavel.aws.account import DeployedStage, aws_errors, client
from gavel.aws.jobs import check_date, items_of
from gavel.aws.towers import tower_in_bucket
from retrieval.errors import InvalidInput


def start_night(stage: DeployedStage, date: str) -> str:
    """Start the machine that finds and embeds a day's items, as the schedule does, and return the execution's ARN.

    Raises:
        InvalidInput: `date` is not a date, or has no items.
    """
    items_of(stage, date)
    return _start(stage.output("FindDayMachine"), {"scheduled_time": f"{check_date(date)}T00:00:00Z"})


def start_rebuild(stage: DeployedStage, tower_id: str) -> str:
    """Start the machine that embeds all items with a tower into a new index, and return the execution's ARN.

    Raises:
        InvalidInput: there is no such tower, or the stage has no rebuild machine.
    """
    if "RebuildMachine" not in stage.outputs:
        raise InvalidInput(
            f"stage {stage.name} has no rebuild machine (output RebuildMachine): deploy it again, or see docs/operations.md"
        )
    return _start(stage.output("RebuildMachine"), {"tower_id": tower_in_bucket(stage, tower_id)})


def _start(machine: str, arguments: dict[str, str]) -> str:
    with aws_errors(f"state machine {machine}"):
        execution = client("stepfunctions").start_execution(stateMachineArn=machine, input=json.dumps(arguments))
        return str(execution["executionArn"])
