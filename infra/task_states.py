"""Single states in Amazon States Language: calls with retries, and the two final states of a failure."""

from infra.embedding_job import Places, State

TRANSIENT = ["S3.SdkClientException", "S3.S3Exception", "Sns.SnsException", "States.Timeout"]
LAMBDA_TRANSIENT = [
    "Lambda.TooManyRequestsException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
]
NO_SUCH_KEY = ["S3.NoSuchKeyException", "S3.NoSuchKey"]


def retry(errors: list[str], first_s: int = 2, attempts: int = 4) -> list[State]:
    """Return the retries of a state: the first after `first_s` seconds, each later one after twice the time."""
    return [
        {"ErrorEquals": errors, "IntervalSeconds": first_s, "MaxAttempts": attempts, "BackoffRate": 2.0, "JitterStrategy": "FULL"}
    ]


def on_failure() -> State:
    """Return the catch that sends every error of a state to failure_states()."""
    return {"Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": "TellFailure"}]}


def failure(error: str, cause: str) -> State:
    """Define a state that sends the machine to failure_states() with this error and cause."""
    return {"Type": "Pass", "Result": {"Error": error, "Cause": cause}, "ResultPath": "$.failure", "Next": "TellFailure"}


def failure_states(places: Places, error: str, what: str) -> dict[str, State]:
    """Define the states after a failure: send a notice, then fail the execution.

    Args:
        places: names and ARNs of the stage's resources.
        error: error name of the failed execution.
        what: intrinsic function that returns the name of the failed run.
    """
    message = f"States.Format('Gavel: {{}} failed: {{}}', {what}, States.JsonToString($.failure))"
    return {
        "TellFailure": {**tell(places, message), "ResultPath": None, "Next": "Failed"},
        "Failed": {"Type": "Fail", "Error": error, "CausePath": "States.Format('{}: {}', $.failure.Error, $.failure.Cause)"},
    }


def s3_call(places: Places, action: str, parameters: State, rest: State) -> State:
    """Define a call of S3's API; `rest` holds the fields for the result and the next state."""
    resource = f"arn:{places.partition}:states:::aws-sdk:s3:{action}"
    return {"Type": "Task", "Resource": resource, "Parameters": parameters, "Retry": retry(TRANSIENT), **rest}


def read_json(places: Places, where: State, into: str, following: str, *, caught: bool = True) -> State:
    """Define a state that reads a JSON object of S3 into the field `json` of `into`."""
    rest = {"ResultSelector": {"json.$": "States.StringToJson($.Body)"}, "ResultPath": into, "Next": following}
    return s3_call(places, "getObject", where, {**rest, **(on_failure() if caught else {})})


def start_machine(places: Places, machine_arn: str, given: State, rest: State, name: str | None = None) -> State:
    """Define a state that starts another machine without waiting for it. `rest` may catch the error of a repeated name."""
    name_field = {"Name.$": name} if name else {}
    return {
        "Type": "Task",
        "Resource": f"arn:{places.partition}:states:::states:startExecution",
        "Parameters": {"StateMachineArn": machine_arn, **name_field, "Input": given},
        "Retry": retry(["StepFunctions.SdkClientException"]),
        **rest,
    }


def tell(places: Places, message: str) -> State:
    """Define a state that sends a notice; `message` is an intrinsic function that returns the text."""
    return {
        "Type": "Task",
        "Resource": f"arn:{places.partition}:states:::sns:publish",
        "Parameters": {"TopicArn": places.notices_arn, "Message.$": message},
        "Retry": retry(TRANSIENT),
    }
