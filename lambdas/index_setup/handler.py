"""The custom resources that OpenSearch is set up with: who is let in, and what is there before the first lot.

    Custom::IndexAccess     a role of the security plugin, and its mapping to an IAM role
    Custom::IndexResource   a body under a path, such as an index template or a search pipeline

It runs while CloudFormation deploys, as the master of fine-grained access control, with the standard library and the botocore
of Lambda's own Python.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.session import Session

logger = logging.getLogger(__name__)
TIMEOUT_S = 20
SECURITY_API = "/_plugins/_security/api"


def handler(event: dict[str, Any], context: Any) -> None:
    """Carry out one change, and tell CloudFormation how it went; without an answer it would wait for an hour."""
    wanted = event["ResourceProperties"]
    try:
        answer = {"Status": "SUCCESS", "PhysicalResourceId": apply(event)}
    except Exception as error:  # the entry of the process: whatever went wrong, CloudFormation must hear of it
        logger.exception("OpenSearch was not set up")
        fallback = wanted.get("Role", wanted.get("Path", "none"))
        answer = {
            "Status": "FAILED",
            "Reason": f"{error}; see log stream {context.log_stream_name}",
            "PhysicalResourceId": event.get("PhysicalResourceId", fallback),
        }
    _answer(event, answer)


def apply(event: Mapping[str, Any]) -> str:
    """Write what a resource is made of, or take it away.

    Args:
        event: of CloudFormation. Properties of an IndexAccess are Role, BackendRole (the ARN) and Permissions; of an
            IndexResource Path and Body, which is text, for CloudFormation makes text of every number.

    Returns:
        The resource's name: the role's in OpenSearch, or the path.

    Raises:
        URLError: OpenSearch does not answer, or refuses.
    """
    wanted = event["ResourceProperties"]
    bodies = list(_access(wanted) if event["ResourceType"] == "Custom::IndexAccess" else _resource(wanted))
    if event["RequestType"] == "Delete":
        for path, _ in reversed(bodies):
            _request("DELETE", path, missing_is_fine=True)
    else:
        for path, body in bodies:
            _request("PUT", path, body)
    return str(wanted.get("Role") or wanted["Path"])


def _access(wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    role = wanted["Role"]
    yield f"{SECURITY_API}/roles/{role}", json.dumps(wanted["Permissions"])
    yield f"{SECURITY_API}/rolesmapping/{role}", json.dumps({"backend_roles": [wanted["BackendRole"]]})


def _resource(wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield wanted["Path"], wanted["Body"]


def _request(method: str, path: str, body: str | None = None, *, missing_is_fine: bool = False) -> None:
    """Send one signed request."""
    data = None if body is None else body.encode()
    url = os.environ["GAVEL_OPENSEARCH_URL"] + path
    request = AWSRequest(method, url, {"Content-Type": "application/json"}, data)
    SigV4Auth(Session().get_credentials(), "es", os.environ["AWS_REGION"]).add_auth(request)
    try:
        urlopen(Request(url, data, dict(request.headers), method=method), timeout=TIMEOUT_S).close()
    except URLError as error:
        if missing_is_fine and getattr(error, "code", None) == 404:
            return
        raise


def _answer(event: Mapping[str, Any], answer: Mapping[str, str]) -> None:
    """Put the answer where CloudFormation looks for it, an S3 object that the gateway endpoint reaches."""
    body = {**answer, **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}}
    request = Request(event["ResponseURL"], json.dumps(body).encode(), {"Content-Type": ""}, method="PUT")
    urlopen(request, timeout=TIMEOUT_S).close()
