"""Status of a stage: nights, jobs, dead letters, the live release, the re-rank endpoint."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gavel.aws.account import DeployedStage, aws_errors, client
from gavel.aws.buckets import Bucket
from gavel.aws.dead_letters import REDRIVEN_QUEUES
from gavel.aws.towers import current_tower

NIGHTS = 7
RUNNING = ("InProgress", "Stopping")


@dataclass(frozen=True, slots=True)
class Night:
    """The execution of one night.

    Attributes:
        date: date of the lots.
        status: status of the execution, such as SUCCEEDED.
        started: ISO time of the start.
        minutes: duration in minutes, until now if the execution still runs.
        cause: cause of a failure; empty otherwise.
    """

    date: str
    status: str
    started: str
    minutes: float | None
    cause: str


@dataclass(frozen=True)
class StageStatus:
    """Status of a stage.

    Attributes:
        stage: name of the stage.
        nights: the latest nights, at most 7, newest first.
        jobs: running processing jobs, each with "job" (name), "status" and "minutes".
        dead_letters: approximate number of messages about parts that could not be indexed, and states that could not be taken.
        tower_id: current tower; None before there is one.
        live: record of the newest live night; None before the first.
        endpoint: status of the re-rank endpoint; None if the stage has none.
    """

    stage: str
    nights: list[Night]
    jobs: list[dict[str, Any]]
    dead_letters: int
    tower_id: str | None
    live: dict[str, Any] | None
    endpoint: str | None


def stage_status(stage: DeployedStage) -> StageStatus:
    """Query the services of a stage and return its status."""
    return StageStatus(
        stage=stage.name,
        nights=_nights(stage.output("EmbedDayMachine")),
        jobs=_jobs(),
        dead_letters=sum(_waiting(stage.output(output)) for output in REDRIVEN_QUEUES),
        tower_id=current_tower(stage),
        live=_live(Bucket(stage.output("ReleasesBucket"))),
        endpoint=_endpoint(stage.outputs.get("RerankerEndpoint")),
    )


def _nights(machine: str) -> list[Night]:
    states = client("stepfunctions")
    with aws_errors(f"state machine {machine}"):
        executions = states.list_executions(stateMachineArn=machine, maxResults=NIGHTS)["executions"]
        return [_night(states, execution) for execution in executions]


def _night(states: Any, execution: dict[str, Any]) -> Night:
    cause = ""
    if execution["status"] in ("FAILED", "TIMED_OUT", "ABORTED"):
        failure = states.describe_execution(executionArn=execution["executionArn"])
        cause = failure.get("cause") or failure.get("error", "")
    started, stopped = execution["startDate"], execution.get("stopDate")
    return Night(
        date=execution["name"].removeprefix("night-"),
        status=execution["status"],
        started=started.isoformat(timespec="seconds"),
        minutes=_minutes(started, stopped),
        cause=cause,
    )


def _jobs() -> list[dict[str, Any]]:
    sagemaker = client("sagemaker")
    with aws_errors("processing jobs"):
        listed = sagemaker.list_processing_jobs(NameContains="gavel-", SortBy="CreationTime", SortOrder="Descending")
    return [
        {
            "job": job["ProcessingJobName"],
            "status": job["ProcessingJobStatus"],
            "minutes": _minutes(job["CreationTime"], None),
        }
        for job in listed["ProcessingJobSummaries"]
        if job["ProcessingJobStatus"] in RUNNING
    ]


def _waiting(queue: str) -> int:
    attribute = "ApproximateNumberOfMessages"
    with aws_errors(f"queue {queue}"):
        return int(client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=[attribute])["Attributes"][attribute])


def _live(bucket: Bucket) -> dict[str, Any] | None:
    """Return the newest night's record, or None. Records are named by date; captures in the same bucket have a folder."""
    records = [key for key in bucket.list_keys() if "/" not in key and key.endswith(".json")]
    return dict(bucket.read_json(max(records))) if records else None


def _endpoint(name: str | None) -> str | None:
    if name is None:
        return None
    with aws_errors(f"endpoint {name}"):
        return str(client("sagemaker").describe_endpoint(EndpointName=name)["EndpointStatus"])


def _minutes(started: datetime, stopped: datetime | None) -> float:
    return round(((stopped or datetime.now(started.tzinfo)) - started).total_seconds() / 60, 1)
