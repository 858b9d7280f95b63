"""States that renew the query function's snapshot after the alias of the live index moved, in Amazon States Language."""

from infra.embedding_job import Places, State
from infra.task_states import LAMBDA_TRANSIENT, retry, tell

ALIAS_MOVED = "AliasMoved"
SNAPSHOT_S = 900  # time limit of the function, which is Lambda's own
STALE = (
    "States.Format('Gavel: release {} is live, and the snapshot that new instances of the query function start from was not "
    "renewed. Searches are right; the first one of each new instance loads the tower and is slow, until `gavel aws "
    "renew-snapshot` or the next deployment. The reason: {}', $.release_id, States.JsonToString($.stale))"
)


def snapshot_states(places: Places, following: str) -> dict[str, State]:
    """Define the states that renew the snapshot if the release moved the alias. A failure is told, and ends nothing.

    Args:
        places: names and ARNs of the stage's resources.
        following: name of the state after these.
    """
    moved = {"Variable": "$.indexed.json.published", "BooleanEquals": True, "Next": "RenewSnapshot"}
    return {
        ALIAS_MOVED: {"Type": "Choice", "Choices": [moved], "Default": following},
        "RenewSnapshot": {
            "Type": "Task",
            "Resource": f"arn:{places.partition}:states:::lambda:invoke",
            "Parameters": {"FunctionName": places.snapshot_arn, "Payload": {}},
            "TimeoutSeconds": SNAPSHOT_S,
            "Retry": retry(LAMBDA_TRANSIENT, first_s=5),
            "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.stale", "Next": "TellStale"}],
            "ResultPath": None,
            "Next": following,
        },
        "TellStale": {**tell(places, STALE), "ResultPath": None, "Next": following},
    }
