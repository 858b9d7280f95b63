"""States from the job to a live release, in Amazon States Language, shared by nightly runs and rebuilds.

The state's data holds date, items (prefix in the bucket of new items), tower_id and release_id.
"""

from collections.abc import Sequence

from infra.bulk_indexer import RECEIPTS
from infra.embedding_job import JobSize, Places, State, job_parameters
from infra.item_store import DELIVERIES, VISIBILITY
from infra.snapshot_states import SNAPSHOT_S
from infra.task_states import LAMBDA_TRANSIENT, NO_SUCH_KEY, failure, on_failure, read_json, retry, s3_call

FIRST = "MakeIndex"
# patterns of SageMaker's errors for an instance type without capacity, quota, or support in the region
NOT_TO_BE_HAD = (
    "*CapacityError*",
    "*InsufficientCapacity*",
    "*ResourceLimitExceeded*",
    "*nstance type*not supported*",
    "*nstance type*not available*",
    "*nstanceType*failed to satisfy constraint*",
)
THROTTLED = [
    "SageMaker.ThrottlingException",
    "ThrottlingException",
    "SageMaker.InternalServerException",
    "SageMaker.SdkClientException",
]
# patterns of the same in the cause: where Step Functions knows no name, the error is SageMaker.AmazonSageMakerException
THROTTLED_CAUSES = ("*hrottling*", "*Rate exceeded*", "*TooManyRequests*", "*RequestLimitExceeded*")
THROTTLE_WAIT_S = 60
MAX_THROTTLES = 20  # of one run
# the function is busy with parts, Lambda has a transient error, or OpenSearch does not answer
INDEXER_BUSY = [*LAMBDA_TRANSIENT, "Lambda.ClientExecutionTimeoutException", "IndexUnavailable", "States.Timeout"]
POLL_S = 30
UNTIL_INDEXED_S = int(DELIVERIES * VISIBILITY.to_seconds()) + 600  # until the last delivery of a manifest, and for processing it


def release_states(places: Places, size: JobSize, following: str) -> dict[str, State]:
    """Define the states from FIRST until the release is live.

    Args:
        places: names and ARNs of the stage's resources.
        size: size of the job.
        following: name of the state after these; failures go to TellFailure.
    """
    release_record = {"Bucket": places.embeddings, "Key.$": f"States.Format('{{}}/{RECEIPTS}', $.release_id)"}
    return {
        FIRST: _make_index(places),
        "ForgetReceipt": s3_call(
            places, "deleteObject", release_record, {"ResultPath": None, "Next": "CountThrottles", **on_failure()}
        ),
        "CountThrottles": {"Type": "Pass", "Result": {"count": 0}, "ResultPath": "$.throttles", "Next": _rung(0)},
        **_ladder(places, size),
        **_count(places, size.instances),
        "WaitUntilIndexed": _wait(places, release_record, following),
    }


def longest_s(size: JobSize) -> int:
    """Return the timeout in seconds of a machine with the states of release_states()."""
    waits_s = MAX_THROTTLES * THROTTLE_WAIT_S + UNTIL_INDEXED_S + SNAPSHOT_S
    return (size.hours * len(size.ladder) + 1) * 3600 + waits_s


def _make_index(places: Places) -> State:
    """Define the state that creates the tower's index before the job, because several first parts may arrive at once."""
    return {
        "Type": "Task",
        "Resource": f"arn:{places.partition}:states:::lambda:invoke",
        "Parameters": {"FunctionName": places.indexer_arn, "Payload": {"ensure_index": {"tower_id.$": "$.tower_id"}}},
        "TimeoutSeconds": 300,
        "Retry": retry(INDEXER_BUSY, first_s=5, attempts=6),
        "ResultSelector": {"name.$": "$.Payload.index"},
        "ResultPath": "$.index",
        "Next": "ForgetReceipt",
        **on_failure(),
    }


def _ladder(places: Places, size: JobSize) -> dict[str, State]:
    """Define the states that run the job on the ladder's instance types in turn.

    A lack of capacity leads to the next type, throttling to the same one after a while, anything else to the failure.
    """
    states: dict[str, State] = {}
    for rung, instance in enumerate(size.ladder):
        states[_rung(rung)] = {
            "Type": "Task",
            "Resource": f"arn:{places.partition}:states:::sagemaker:createProcessingJob.sync",
            "Comment": instance,
            "Parameters": job_parameters(places, instance, size),
            "TimeoutSeconds": (size.hours + 1) * 3600,
            "ResultPath": None,
            "Retry": retry(THROTTLED, first_s=30),
            "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": f"Why{rung}"}],
            "Next": "ListManifests",
        }
        states |= _after_refusal(rung, last=rung == len(size.ladder) - 1)
    return states


def _after_refusal(rung: int, *, last: bool) -> dict[str, State]:
    """Define the states that read why a job was not started, or failed, on one type of the ladder."""
    few = {"Variable": "$.throttles.count", "NumericLessThan": MAX_THROTTLES}
    choices: list[State] = [{"And": [few, {"Or": _cause_matches(THROTTLED_CAUSES)}], "Next": f"Throttled{rung}"}]
    if not last:
        by_name = {"Variable": "$.failure.Error", "StringMatches": "*ResourceLimitExceeded*"}
        choices.append({"Or": [by_name, *_cause_matches(NOT_TO_BE_HAD)], "Next": _rung(rung + 1)})
    return {
        f"Why{rung}": {"Type": "Choice", "Choices": choices, "Default": "TellFailure"},
        f"Throttled{rung}": {
            "Type": "Pass",
            "Parameters": {"count.$": "States.MathAdd($.throttles.count, 1)"},
            "ResultPath": "$.throttles",
            "Next": f"Pause{rung}",
        },
        f"Pause{rung}": {"Type": "Wait", "Seconds": THROTTLE_WAIT_S, "Next": _rung(rung)},
    }


def _cause_matches(patterns: Sequence[str]) -> list[State]:
    return [{"Variable": "$.failure.Cause", "StringMatches": pattern} for pattern in patterns]


def _count(places: Places, instances: int) -> dict[str, State]:
    """Define the states that check that every instance wrote its manifest, and that each manifest accounts for all rows.

    The keys are selected in a state of their own, after the count. Where nothing is listed there are none, and a path to a missing
    field ends a machine without a notice, because no Catch sees it.
    """
    where = {"Bucket": places.embeddings, "Prefix.$": "States.Format('{}/manifest', $.release_id)"}
    count = {"ResultSelector": {"count.$": "$.KeyCount"}, "ResultPath": "$.manifests", "Next": "AllInstances"}
    keys = {"ResultSelector": {"keys.$": "$.Contents[*].Key"}, "ResultPath": "$.manifests", "Next": "CountEach"}
    enough = {"Variable": "$.manifests.count", "NumericGreaterThanEquals": instances, "Next": "NameManifests"}
    return {
        "ListManifests": s3_call(places, "listObjectsV2", where, {**count, **on_failure()}),
        "AllInstances": {"Type": "Choice", "Choices": [enough], "Default": "ManifestsMissing"},
        "ManifestsMissing": failure("ManifestsMissing", f"the job ended without the manifests of its {instances} instances"),
        "NameManifests": s3_call(places, "listObjectsV2", where, {**keys, **on_failure()}),
        "CountEach": {
            "Type": "Map",
            "ItemsPath": "$.manifests.keys",
            "ItemSelector": {"key.$": "$$.Map.Item.Value"},
            "MaxConcurrency": 4,
            "ItemProcessor": _count_one(places),
            "ResultPath": "$.counts",
            "Next": "WaitUntilIndexed",
            **on_failure(),
        },
    }


def _count_one(places: Places) -> State:
    """Define the states that check that a manifest's items_in is items_embedded + items_rejected."""
    counts = {name: f"$.manifest.json.{name}" for name in ("items_in", "items_embedded", "items_rejected")}
    speed = {name: f"$.manifest.json.{name}" for name in ("device", "items_per_second")}
    accounted = "States.MathAdd($.manifest.json.items_embedded, $.manifest.json.items_rejected)"
    check = {"Variable": "$.items_in", "NumericEqualsPath": "$.accounted", "Next": "Counted"}
    states = {
        "ReadManifest": read_json(places, {"Bucket": places.embeddings, "Key.$": "$.key"}, "$.manifest", "AddUp", caught=False),
        "AddUp": {
            "Type": "Pass",
            "Parameters": {**{f"{name}.$": path for name, path in {**counts, **speed}.items()}, "accounted.$": accounted},
            "Next": "NoneLost",
        },
        "NoneLost": {"Type": "Choice", "Choices": [check], "Default": "RowsLost"},
        "RowsLost": {"Type": "Fail", "Error": "RowsLost", "Cause": "items_in is not items_embedded + items_rejected in a manifest"},
        "Counted": {"Type": "Succeed"},
    }
    return {"ProcessorConfig": {"Mode": "INLINE"}, "StartAt": "ReadManifest", "States": states}


def _wait(places: Places, release_record: State, following: str) -> State:
    """Define the state that waits for the record that the bulk indexer writes once the release is live."""
    waiting = read_json(places, release_record, "$.indexed", following)
    poll = {"ErrorEquals": NO_SUCH_KEY, "IntervalSeconds": POLL_S, "BackoffRate": 1.0, "MaxAttempts": UNTIL_INDEXED_S // POLL_S}
    return {**waiting, "Retry": [poll, *waiting["Retry"]]}


def _rung(number: int) -> str:
    return f"Embed{number}"
