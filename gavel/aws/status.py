"""How a stage is: nights, jobs, dead letters, the live release, the re-rank endpoint."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gavel.aws.account import DeployedStage, asking_aws, client
from gavel.aws.buckets import Bucket
from gavel.aws.towers import current_tower

NIGHTS = 7
RUNNING = ("InProgress", "Stopping")


@dataclass(frozen=True, slots=True)
class Night:
    """One night's execution.

    Attributes:
        date: of the lots.
        status: of Step Functions, such as SUCCEEDED.
        started: when.
        minutes: that it took, or takes until now; None when that is not known.
        cause: why it failed; empty otherwise.
    """

    date: str
    status: str
    started: str
    minutes: float | None
    cause: str


@dataclass(frozen=True)
class StageStatus:
    """How a stage is.

    Attributes:
        stage: its name.
        nights: the last ones, newest first.
        jobs: processing jobs that run: name, status, minutes.
        dead_letters: messages of parts that could not be indexed.
        tower_id: of the nights; None before one is current.
        live: the newest record of a night that went live; None before the first.
        endpoint: status of the re-rank endpoint; None where the stage has none.
    """

    stage: str
    nights: list[Night]
    jobs: list[dict[str, Any]]
    dead_letters: int
    tower_id: str | None
    live: dict[str, Any] | None
    endpoint: str | None


def stage_status(stage: DeployedStage) -> StageStatus:
    """Ask every service of the stage."""
    return StageStatus(
        stage=stage.name,
        nights=_nights(stage.output("EmbedDayMachine")),
        jobs=_jobs(),
        dead_letters=_waiting(stage.output("ArrivalsDeadLetters")),
        tower_id=current_tower(stage),
        live=_live(Bucket(stage.output("ReleasesBucket"))),
        endpoint=_endpoint(stage.outputs.get("RerankerEndpoint")),
    )


def _nights(machine: str) -> list[Night]:
    states = client("stepfunctions")
    with asking_aws(f"state machine {machine}"):
        executions = states.list_executions(stateMachineArn=machine, maxResults=NIGHTS)["executions"]
        return [_night(states, execution) for execution in executions]


def _night(states: Any, execution: dict[str, Any]) -> Night:
    cause = ""
    if execution["status"] in ("FAILED", "TIMED_OUT", "ABORTED"):
        told = states.describe_execution(executionArn=execution["executionArn"])
        cause = told.get("cause") or told.get("error", "")
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
    with asking_aws("processing jobs"):
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
    asked = "ApproximateNumberOfMessages"
    with asking_aws(f"queue {queue}"):
        return int(client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=[asked])["Attributes"][asked])


def _live(bucket: Bucket) -> dict[str, Any] | None:
    """Records are named by their date; what else lies in the bucket (captures) has a folder."""
    records = [key for key in bucket.listed() if "/" not in key and key.endswith(".json")]
    return dict(bucket.read_json(max(records))) if records else None


def _endpoint(name: str | None) -> str | None:
    if name is None:
        return None
    with asking_aws(f"endpoint {name}"):
        return str(client("sagemaker").describe_endpoint(EndpointName=name)["EndpointStatus"])


def _minutes(started: datetime, stopped: datetime | None) -> float:
    return round(((stopped or datetime.now(started.tzinfo)) - started).total_seconds() / 60, 1)
