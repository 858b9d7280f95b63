"""Single states in Amazon States Language: calls with retries, and the two final states of a failure."""

from infra.embedding_job import Places, State

TRANSIENT = ["S3.SdkClientException", "S3.S3Exception", "Sns.SnsException", "States.Timeout"]
NO_SUCH_KEY = ["S3.NoSuchKeyException", "S3.NoSuchKey"]


def retry(errors: list[str], first_s: int = 2, attempts: int = 4) -> list[State]:
    """Try again after `first_s` seconds, then after twice as long each time."""
    return [
        {"ErrorEquals": errors, "IntervalSeconds": first_s, "MaxAttempts": attempts, "BackoffRate": 2.0, "JitterStrategy": "FULL"}
    ]


def on_failure() -> State:
    """Send every error of a state to failure_states()."""
    return {"Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": "TellFailure"}]}


def failure(error: str, cause: str) -> State:
    """Define a state that ends the machine with its own error."""
    return {"Type": "Pass", "Result": {"Error": error, "Cause": cause}, "ResultPath": "$.failure", "Next": "TellFailure"}


def failure_states(places: Places, error: str, what: str) -> dict[str, State]:
    """Define the states after a failure: send a notice, then fail the execution with the name `error`.

    Args:
        places: names and ARNs of the stage's resources.
        error: name of the error.
        what: intrinsic function with the name of the failed run.
    """
    message = f"States.Format('Gavel: {{}} failed: {{}}', {what}, States.JsonToString($.failure))"
    return {
        "TellFailure": {**tell(places, message), "ResultPath": None, "Next": "Failed"},
        "Failed": {"Type": "Fail", "Error": error, "CausePath": "States.Format('{}: {}', $.failure.Error, $.failure.Cause)"},
    }


def s3_call(places: Places, action: str, parameters: State, rest: State) -> State:
    """Define a call of S3's API; `rest` holds the handling of the result and the next state."""
    resource = f"arn:{places.partition}:states:::aws-sdk:s3:{action}"
    return {"Type": "Task", "Resource": resource, "Parameters": parameters, "Retry": retry(TRANSIENT), **rest}


def read_json(places: Places, where: State, into: str, following: str, *, caught: bool = True) -> State:
    """Read an object of JSON into `into`.json."""
    rest = {"ResultSelector": {"json.$": "States.StringToJson($.Body)"}, "ResultPath": into, "Next": following}
    return s3_call(places, "getObject", where, {**rest, **(on_failure() if caught else {})})


def start_machine(places: Places, machine_arn: str, given: State, rest: State, name: str | None = None) -> State:
    """Start another machine and go on. A repeated execution name is an error that `rest` may catch."""
    name_field = {"Name.$": name} if name else {}
    return {
        "Type": "Task",
        "Resource": f"arn:{places.partition}:states:::states:startExecution",
        "Parameters": {"StateMachineArn": machine_arn, **name_field, "Input": given},
        "Retry": retry(["StepFunctions.SdkClientException"]),
        **rest,
    }


def tell(places: Places, message: str) -> State:
    """Send a notice; `message` is an intrinsic function."""
    return {
        "Type": "Task",
        "Resource": f"arn:{places.partition}:states:::sns:publish",
        "Parameters": {"TopicArn": places.notices_arn, "Message.$": message},
        "Retry": retry(TRANSIENT),
    }
