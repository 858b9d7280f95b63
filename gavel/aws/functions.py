"""Call the functions of a stage."""

import json
from typing import Any

from botocore.config import Config

from gavel.aws.account import aws_errors, session
from retrieval import errors
from retrieval.errors import GavelError

ANSWER_S = 900  # Lambda's own limit; boto would give up after a minute and call again


def call_function(arn: str, event: dict[str, Any]) -> dict[str, Any]:
    """Call a function and wait for its answer.

    Args:
        arn: ARN of the function or of one of its aliases.
        event: event of the call.

    Raises:
        GavelError: the call is not allowed, or the function failed. An error of retrieval.errors is raised as what it is.
    """
    name = arn.partition(":function:")[2]
    with aws_errors(f"function {name}"):
        client = session().client("lambda", config=Config(read_timeout=ANSWER_S, retries={"total_max_attempts": 1}))
        response = client.invoke(FunctionName=arn, Payload=json.dumps(event).encode())
        answer: dict[str, Any] = json.loads(response["Payload"].read()) or {}  # an emulated function fails without words
    if "FunctionError" not in response:
        return answer
    kind, message = str(answer.get("errorType")), str(answer.get("errorMessage"))
    error = getattr(errors, kind, None)
    if isinstance(error, type) and issubclass(error, GavelError):
        raise error(message)
    raise GavelError(f"function {name} failed: {kind}: {message}; its log group in CloudWatch has the rest")
