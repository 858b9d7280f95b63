"""The custom resource that lets an IAM role into OpenSearch: a role of the security plugin, and its mapping.

It runs while CloudFormation deploys, as the master of fine-grained access control, with the standard library and the botocore
of Lambda's own Python.
"""

import json
import logging
import os
from collections.abc import Mapping
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
    try:
        role = apply(event)
        answer = {"Status": "SUCCESS", "PhysicalResourceId": role}
    except Exception as error:  # the entry of the process: whatever went wrong, CloudFormation must hear of it
        logger.exception("OpenSearch access was not changed")
        fallback = event["ResourceProperties"].get("Role", "none")
        answer = {
            "Status": "FAILED",
            "Reason": f"{error}; see log stream {context.log_stream_name}",
            "PhysicalResourceId": event.get("PhysicalResourceId", fallback),
        }
    _answer(event, answer)


def apply(event: Mapping[str, Any]) -> str:
    """Write the role and its mapping, or take them away.

    Args:
        event: of CloudFormation; its properties are Role, BackendRole (the ARN) and Permissions.

    Returns:
        The role's name in OpenSearch.

    Raises:
        URLError: OpenSearch does not answer, or refuses.
    """
    wanted = event["ResourceProperties"]
    role = str(wanted["Role"])
    if event["RequestType"] == "Delete":
        for kind in ("rolesmapping", "roles"):
            _request("DELETE", f"{SECURITY_API}/{kind}/{role}", missing_is_fine=True)
        return role
    _request("PUT", f"{SECURITY_API}/roles/{role}", wanted["Permissions"])
    _request("PUT", f"{SECURITY_API}/rolesmapping/{role}", {"backend_roles": [wanted["BackendRole"]]})
    return role


def _request(method: str, path: str, body: Mapping[str, Any] | None = None, *, missing_is_fine: bool = False) -> None:
    """Send one signed request."""
    data = None if body is None else json.dumps(body).encode()
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
