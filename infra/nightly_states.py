"""What happens in a night, in Amazon States Language: two small machines as plain data.

The first finds the day's items and starts the second under the day's name, so a day is embedded once however often the
first one is started: by a schedule, by a later one that finds a late file, by hand.
"""

from collections.abc import Sequence

from infra.bulk_indexer import RECEIPTS
from infra.embedding_job import Places, State, job_parameters

CURRENT_TOWER = "current.json"  # in the towers bucket: {"tower_id": …}
# what SageMaker says when an instance type cannot be had now, not in this account, or not in this region
NOT_TO_BE_HAD = (
    "*CapacityError*",
    "*InsufficientCapacity*",
    "*ResourceLimitExceeded*",
    "*nstance type*not supported*",
    "*nstance type*not available*",
    "*nstanceType*failed to satisfy constraint*",
)
TRANSIENT = ["S3.SdkClientException", "S3.S3Exception", "Sns.SnsException", "States.Timeout"]
THROTTLED = [
    "SageMaker.ThrottlingException",
    "ThrottlingException",
    "SageMaker.InternalServerException",
    "SageMaker.SdkClientException",
]
NO_SUCH_KEY = ["S3.NoSuchKeyException", "S3.NoSuchKey"]
POLL_S = 30
UNTIL_INDEXED_S = 3600


def find_day(places: Places, embed_day_arn: str) -> State:
    """The machine that looks for the day's items.

    Args:
        places: where things are.
        embed_day_arn: the machine that embeds them.

    Returns:
        A definition; its input is {"scheduled_time": "2026-11-21T02:00:00Z"}, of which the date counts.
    """
    found = {
        "Type": "Choice",
        "Choices": [{"Variable": "$.found.files", "NumericGreaterThan": 0, "Next": "StartEmbedding"}],
        "Default": "TellEmpty",
    }
    empty = (
        "States.Format('Gavel: no new items for {}. Put {}.parquet into the bucket; the next schedule takes it.', $.date, $.date)"
    )
    states = {
        "ReadDate": {
            "Type": "Pass",
            "Parameters": {"date.$": "States.ArrayGetItem(States.StringSplit($.scheduled_time, 'T'), 0)"},
            "Next": "FindItems",
        },
        "FindItems": _s3(
            places,
            "listObjectsV2",
            {"Bucket": places.new_items, "Prefix.$": "$.date", "MaxKeys": 1},
            {"ResultSelector": {"files.$": "$.KeyCount"}, "ResultPath": "$.found", "Next": "AnyItems"},
        ),
        "AnyItems": found,
        "TellEmpty": {**_tell(places, empty), "End": True},
        "StartEmbedding": {
            "Type": "Task",
            "Resource": f"arn:{places.partition}:states:::states:startExecution",
            "Parameters": {
                "StateMachineArn": embed_day_arn,
                "Name.$": "States.Format('night-{}', $.date)",
                "Input": {"date.$": "$.date"},
            },
            "Retry": _retry(["StepFunctions.SdkClientException"]),
            "Catch": [{"ErrorEquals": ["StepFunctions.ExecutionAlreadyExistsException"], "Next": "StartedBefore"}],
            "ResultPath": None,
            "End": True,
        },
        "StartedBefore": {"Type": "Succeed", "Comment": "One execution a date; redrive it if it failed"},
    }
    return {"StartAt": "ReadDate", "TimeoutSeconds": 300, "States": states}


def embed_day(places: Places, ladder: Sequence[str], instances: int, hours: int) -> State:
    """The machine that embeds a day's items and sees them into the index.

    Args:
        places: where things are.
        ladder: instance types, the first that can be had is taken.
        instances: of the job.
        hours: when the job is stopped.

    Returns:
        A definition; its input is {"date": "2026-11-21"}.
    """
    states = {
        "ReadTower": _read_json(places, {"Bucket": places.towers, "Key": CURRENT_TOWER}, "$.current", "NameRelease"),
        "NameRelease": {
            "Type": "Pass",
            "Parameters": {
                "date.$": "$.date",
                "tower_id.$": "$.current.json.tower_id",
                "release_id.$": "States.Format('{}-{}', $.date, $.current.json.tower_id)",
            },
            "Next": "ForgetReceipt",
        },
        "ForgetReceipt": _s3(
            places,
            "deleteObject",
            {"Bucket": places.embeddings, "Key.$": f"States.Format('{{}}/{RECEIPTS}', $.release_id)"},
            {"ResultPath": None, "Next": _rung(0), **_on_failure()},
        ),
        **_ladder(places, ladder, instances, hours),
        **_count(places, instances),
        **_see_into_index(places),
        "TellFailure": {
            **_tell(places, "States.Format('Gavel: the night of {} failed: {}', $.date, States.JsonToString($.failure))"),
            "ResultPath": None,
            "Next": "Failed",
        },
        "Failed": {
            "Type": "Fail",
            "Error": "NightFailed",
            "CausePath": "States.Format('{}: {}', $.failure.Error, $.failure.Cause)",
        },
    }
    seconds = (hours * len(ladder) + 1) * 3600 + UNTIL_INDEXED_S
    return {"StartAt": "ReadTower", "TimeoutSeconds": seconds, "States": states}


def _ladder(places: Places, ladder: Sequence[str], instances: int, hours: int) -> dict[str, State]:
    """The job on one instance type after the other; only a type that cannot be had leads to the next."""
    states: dict[str, State] = {}
    for rung, instance in enumerate(ladder):
        last = rung == len(ladder) - 1
        states[_rung(rung)] = {
            "Type": "Task",
            "Resource": f"arn:{places.partition}:states:::sagemaker:createProcessingJob.sync",
            "Comment": instance,
            "Parameters": job_parameters(places, instance, instances, hours),
            "TimeoutSeconds": (hours + 1) * 3600,
            "ResultPath": None,
            "Retry": _retry(THROTTLED, first_s=30),
            "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": "TellFailure" if last else f"Why{rung}"}],
            "Next": "ListManifests",
        }
        if not last:
            patterns = [{"Variable": "$.failure.Cause", "StringMatches": pattern} for pattern in NOT_TO_BE_HAD]
            by_name = {"Variable": "$.failure.Error", "StringMatches": "*ResourceLimitExceeded*"}
            states[f"Why{rung}"] = {
                "Type": "Choice",
                "Choices": [{"Or": [by_name, *patterns], "Next": _rung(rung + 1)}],
                "Default": "TellFailure",
            }
    return states


def _count(places: Places, instances: int) -> dict[str, State]:
    """Rows in must be lots embedded + rows rejected, in the manifest of every instance."""
    counts = {name: f"$.manifest.json.{name}" for name in ("items_in", "items_embedded", "items_rejected")}
    accounted = "States.MathAdd($.manifest.json.items_embedded, $.manifest.json.items_rejected)"
    check = {"Variable": "$.items_in", "NumericEqualsPath": "$.accounted", "Next": "Counted"}
    each = {
        "ReadManifest": _read_json(places, {"Bucket": places.embeddings, "Key.$": "$.key"}, "$.manifest", "AddUp", caught=False),
        "AddUp": {
            "Type": "Pass",
            "Parameters": {**{f"{name}.$": path for name, path in counts.items()}, "accounted.$": accounted},
            "Next": "NoneLost",
        },
        "NoneLost": {"Type": "Choice", "Choices": [check], "Default": "RowsLost"},
        "RowsLost": {"Type": "Fail", "Error": "RowsLost", "Cause": "items_in is not items_embedded + items_rejected in a manifest"},
        "Counted": {"Type": "Succeed"},
    }
    return {
        "ListManifests": _s3(
            places,
            "listObjectsV2",
            {"Bucket": places.embeddings, "Prefix.$": "States.Format('{}/manifest', $.release_id)"},
            {
                "ResultSelector": {"keys.$": "$.Contents[*].Key", "count.$": "$.KeyCount"},
                "ResultPath": "$.manifests",
                "Next": "AllInstances",
                **_on_failure(),
            },
        ),
        "AllInstances": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.manifests.count", "NumericGreaterThanEquals": instances, "Next": "CountEach"}],
            "Default": "ManifestsMissing",
        },
        "ManifestsMissing": _failure("ManifestsMissing", f"the job ended without the manifests of its {instances} instances"),
        "CountEach": {
            "Type": "Map",
            "ItemsPath": "$.manifests.keys",
            "ItemSelector": {"key.$": "$$.Map.Item.Value"},
            "MaxConcurrency": 4,
            "ItemProcessor": {"ProcessorConfig": {"Mode": "INLINE"}, "StartAt": "ReadManifest", "States": each},
            "ResultPath": "$.counts",
            "Next": "WaitUntilIndexed",
            **_on_failure(),
        },
    }


def _see_into_index(places: Places) -> dict[str, State]:
    """The bulk indexer writes a receipt once the release is live; then the night is written down and told."""
    receipt = {"Bucket": places.embeddings, "Key.$": f"States.Format('{{}}/{RECEIPTS}', $.release_id)"}
    waiting = _read_json(places, receipt, "$.indexed", "RecordNight")
    poll = {"ErrorEquals": NO_SUCH_KEY, "IntervalSeconds": POLL_S, "BackoffRate": 1.0, "MaxAttempts": UNTIL_INDEXED_S // POLL_S}
    waiting["Retry"] = [poll, *waiting["Retry"]]
    night = {"date.$": "$.date", "release_id.$": "$.release_id", "counts.$": "$.counts", "indexed.$": "$.indexed.json"}
    done = (
        "States.Format('Gavel: the lots of {} can be found, release {}: {}', $.date, $.release_id, States.JsonToString($.counts))"
    )
    return {
        "WaitUntilIndexed": waiting,
        "RecordNight": _s3(
            places,
            "putObject",
            {"Bucket": places.releases, "Key.$": "States.Format('{}.json', $.date)", "Body": night},
            {"ResultPath": None, "Next": "TellDone", **_on_failure()},
        ),
        "TellDone": {**_tell(places, done), "ResultPath": None, "End": True},
    }


def _rung(number: int) -> str:
    return f"Embed{number}"


def _failure(error: str, cause: str) -> State:
    return {"Type": "Pass", "Result": {"Error": error, "Cause": cause}, "ResultPath": "$.failure", "Next": "TellFailure"}


def _on_failure() -> State:
    return {"Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": "TellFailure"}]}


def _retry(errors: list[str], first_s: int = 2) -> list[State]:
    return [{"ErrorEquals": errors, "IntervalSeconds": first_s, "MaxAttempts": 4, "BackoffRate": 2.0, "JitterStrategy": "FULL"}]


def _s3(places: Places, action: str, parameters: State, rest: State) -> State:
    resource = f"arn:{places.partition}:states:::aws-sdk:s3:{action}"
    return {"Type": "Task", "Resource": resource, "Parameters": parameters, "Retry": _retry(TRANSIENT), **rest}


def _read_json(places: Places, where: State, into: str, following: str, *, caught: bool = True) -> State:
    """Read an object of JSON; what it says stands below `into`.json."""
    rest = {"ResultSelector": {"json.$": "States.StringToJson($.Body)"}, "ResultPath": into, "Next": following}
    return _s3(places, "getObject", where, {**rest, **(_on_failure() if caught else {})})


def _tell(places: Places, message: str) -> State:
    return {
        "Type": "Task",
        "Resource": f"arn:{places.partition}:states:::sns:publish",
        "Parameters": {"TopicArn": places.notices_arn, "Message.$": message},
        "Retry": _retry(TRANSIENT),
    }
