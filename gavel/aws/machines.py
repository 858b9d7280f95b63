"""Start the stage's state machines by hand."""

import json
from uuid import uuid4

from gavel.aws.account import DeployedStage, aws_errors, client
from gavel.aws.jobs import check_date, items_of
from gavel.aws.towers import tower_in_bucket
from retrieval.errors import InvalidInput


def start_night(stage: DeployedStage, date: str, *, again: bool = False) -> str:
    """Start the machine that finds and embeds a day's items, as the schedule does, and return the execution's ARN.

    Args:
        stage: deployed stage.
        date: date of the items.
        again: True gives the night a name of its own, because the name of a date is taken once. Step Functions cannot resume a
            night that failed: its last state is the failure.

    Raises:
        InvalidInput: `date` is not a date, or has no items.
    """
    items_of(stage, date)
    name = {"night": f"night-{date}-again-{uuid4().hex[:8]}"} if again else {}
    return _start(stage.output("FindDayMachine"), {"scheduled_time": f"{check_date(date)}T00:00:00Z", **name})


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
