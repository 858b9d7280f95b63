"""Custom resources that set up OpenSearch: permissions, and resources that must exist before the first item.

    Custom::IndexAccess     a role of the security plugin, and its mapping to an IAM role
    Custom::IndexResource   a body under a path, such as an index template or a search pipeline

The function runs while CloudFormation deploys, as the master user of fine-grained access control. It uses only the standard
library and the botocore of Lambda's own Python.
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
    """Create, update or delete one custom resource, and send CloudFormation the result, without which it would wait for an hour."""
    properties = event["ResourceProperties"]
    try:
        response = {"Status": "SUCCESS", "PhysicalResourceId": apply(event)}
    except Exception as error:  # entry point of the process: CloudFormation must get every error
        logger.exception("OpenSearch was not set up")
        fallback = properties.get("Role", properties.get("Path", "none"))
        response = {
            "Status": "FAILED",
            "Reason": f"{error}; see log stream {context.log_stream_name}",
            "PhysicalResourceId": event.get("PhysicalResourceId", fallback),
        }
    _respond(event, response)


def apply(event: Mapping[str, Any]) -> str:
    """Write the bodies of a resource to OpenSearch, or delete them.

    Args:
        event: event of CloudFormation. An IndexAccess has the properties Role, BackendRole (the ARN) and Permissions. An
            IndexResource has Path and Body; Body is text, because CloudFormation converts every number to text.

    Returns:
        The resource's name: the name of the role in OpenSearch, or the path.

    Raises:
        URLError: OpenSearch does not answer, or refuses the request.
    """
    properties = event["ResourceProperties"]
    bodies = list(_access(properties) if event["ResourceType"] == "Custom::IndexAccess" else _resource(properties))
    if event["RequestType"] == "Delete":
        for path, _ in reversed(bodies):
            _request("DELETE", path, missing_is_fine=True)
    else:
        for path, body in bodies:
            _request("PUT", path, body)
    return str(properties.get("Role") or properties["Path"])


def _access(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    role = properties["Role"]
    yield f"{SECURITY_API}/roles/{role}", json.dumps(properties["Permissions"])
    yield f"{SECURITY_API}/rolesmapping/{role}", json.dumps({"backend_roles": [properties["BackendRole"]]})


def _resource(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield properties["Path"], properties["Body"]


def _request(method: str, path: str, body: str | None = None, *, missing_is_fine: bool = False) -> None:
    """Send one signed request to OpenSearch. With `missing_is_fine`, status 404 is no error."""
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


def _respond(event: Mapping[str, Any], response: Mapping[str, str]) -> None:
    """Write the response to the S3 object that CloudFormation reads. The gateway endpoint reaches it."""
    body = {**response, **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}}
    request = Request(event["ResponseURL"], json.dumps(body).encode(), {"Content-Type": ""}, method="PUT")
    urlopen(request, timeout=TIMEOUT_S).close()
