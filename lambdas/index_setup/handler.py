"""Custom resources that set up OpenSearch: permissions, and resources that must exist before the first item.

    Custom::IndexAccess     a role of the security plugin, and its mapping to an IAM role
    Custom::IndexResource   a body under a path, such as an index template or a search pipeline

The function runs while CloudFormation deploys, as the master user of fine-grained access control. The domain is young then: the
security plugin may not be initialized (503), a role of IAM may not be known yet (403), and another function may write the same
document of roles (409). So requests are repeated for a while. The function uses only the standard library and the botocore of
Lambda's own Python.
"""

import json
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.session import Session

logger = logging.getLogger(__name__)
TIMEOUT_S = 20
RETRY_S = 100.0  # seconds after the first request of a resource, within which a request may be repeated
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 8.0
PASSING = {401, 403, 409, 429}  # statuses that may pass, beside 5xx
ANSWER_CHARS = 500  # of an error's body; CloudFormation takes 4 KB of response
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
            # what stays in a domain that is deleted harms nobody, and a failed deletion would keep the stack
            "Status": "SUCCESS" if event["RequestType"] == "Delete" else "FAILED",
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
        URLError: OpenSearch does not answer, or refuses the request, also when it is repeated for RETRY_S.
    """
    ends = time.monotonic() + RETRY_S
    properties = event["ResourceProperties"]
    bodies = list(_access(properties) if event["ResourceType"] == "Custom::IndexAccess" else _resource(properties))
    if event["RequestType"] == "Delete":
        for path, _ in reversed(bodies):
            _request("DELETE", path, ends)
    else:
        for path, body in bodies:
            _request("PUT", path, ends, body)
    return str(properties.get("Role") or properties["Path"])


def _access(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    role = properties["Role"]
    yield f"{SECURITY_API}/roles/{role}", json.dumps(properties["Permissions"])
    yield f"{SECURITY_API}/rolesmapping/{role}", json.dumps({"backend_roles": [properties["BackendRole"]]})


def _resource(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield properties["Path"], properties["Body"]


def _request(method: str, path: str, ends: float, body: str | None = None) -> None:
    """Send a request to OpenSearch, signed anew each time, until it succeeds or cannot succeed any more.

    Args:
        method: HTTP method; for DELETE the status 404 is no error.
        path: path of the request.
        ends: time of time.monotonic() after which it is not repeated.
        body: body of the request; None for none.
    """
    wait = FIRST_WAIT_S
    while True:
        try:
            return _send(method, path, body)
        except HTTPError as error:
            if method == "DELETE" and error.code == 404:
                return
            answer = error.read().decode(errors="replace")[:ANSWER_CHARS]
            failure = URLError(f"{method} {path}: OpenSearch answers {error.code}: {answer}")
            if error.code not in PASSING and error.code < 500:
                raise failure from error
        except (OSError, HTTPException) as error:
            failure = URLError(f"{method} {path}: OpenSearch does not answer: {error}")
        if time.monotonic() + wait > ends:
            raise failure
        logger.info("%s; trying again", failure.reason)
        time.sleep(wait * random.uniform(0.5, 1.0))  # so that two functions do not collide again
        wait = min(2 * wait, MAX_WAIT_S)


def _send(method: str, path: str, body: str | None) -> None:
    data = None if body is None else body.encode()
    url = os.environ["GAVEL_OPENSEARCH_URL"] + path
    request = AWSRequest(method, url, {"Content-Type": "application/json"}, data)
    SigV4Auth(Session().get_credentials(), "es", os.environ["AWS_REGION"]).add_auth(request)
    urlopen(Request(url, data, dict(request.headers), method=method), timeout=TIMEOUT_S).close()


def _respond(event: Mapping[str, Any], response: Mapping[str, str]) -> None:
    """Write the response to the S3 object that CloudFormation reads. The gateway endpoint reaches it."""
    body = {**response, **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}}
    request = Request(event["ResponseURL"], json.dumps(body).encode(), {"Content-Type": ""}, method="PUT")
    urlopen(request, timeout=TIMEOUT_S).close()
