"""Judge every request to an emulated account by the role that signed it, before moto answers it.

moto's own enforcement does not serve: it derives resources for few services and asks for `*` everywhere else, so that every policy
on an ARN refuses. Only the policies of roles are judged. Resource policies are not: inside one account a role needs only its own.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.exceptions import AccessDeniedError, JsonRESTError
from moto.s3.exceptions import BucketAccessDeniedError
from moto.s3.models import s3_backends

from gavel.rehearsal.policies import Call
from gavel.rehearsal.principals import ADMIN, PARTITION, Principals

PREFIXES = {"awslambda": "lambda", "stepfunctions": "states"}  # moto's service -> prefix of IAM's actions, where they differ
ACTIONS = {"lambda:Invoke": "lambda:InvokeFunction", "s3:HeadBucket": "s3:ListBucket"}  # operation -> action, where they differ
Body = Mapping[str, Any]


@contextmanager
def authorised(principals: Principals) -> Iterator[None]:
    """Refuse requests that the caller's role does not allow, for the length of the block. A refusal is the service's own error."""

    def authorise(self: Any, iam_request_cls: type, resource: str = "*") -> None:
        query = parse_qs(urlsplit(self.uri).query)
        caller = principals.caller(self.headers.get("Authorization", ""), query.get("X-Amz-Credential", [""])[0])
        if caller == ADMIN:
            return
        service = PREFIXES.get(self.service_name, self.service_name)
        operation = f"{service}:{self._get_action()}"
        action = ACTIONS.get(operation, operation)
        resources = (
            [resource] if service == "s3" else _resources(service, _body(self), self.path, query, principals.account, self.region)
        )
        calls = [Call(action, arn) for arn in resources]
        if action == "s3:GetObject" and not _exists(resource, principals.account):
            calls.append(Call("s3:ListBucket", resource.partition("/")[0]))  # without it S3 answers 403 where nothing is
        if not principals.allows(caller, calls):
            raise _refusal(service, caller, action, resources[0])

    with patch.object(ActionAuthenticatorMixin, "_authenticate_and_authorize_action", authorise):
        yield


def _body(request: Any) -> Body:
    """Return the parameters of a request in JSON or as a form."""
    try:
        return dict(json.loads(request.raw_body))
    except ValueError:
        return {name: values[0] for name, values in request.querystring.items()}  # where moto puts the fields of a form, too


def _resources(service: str, body: Body, path: str, query: Mapping[str, list[str]], account: str, region: str) -> list[str]:
    """Return the ARNs that a request is about. Where they cannot be told, the rest of the message says what is missing here."""
    where = f"arn:{PARTITION}:{service}:{region}:{account}:"
    try:
        return RESOURCES[service](body, path, query, where)
    except (KeyError, IndexError, TypeError, AttributeError):
        return [f"(a resource that gavel/rehearsal/authorisation.py cannot tell) {path}"]


def _tables(body: Body, _path: str, _query: Mapping[str, list[str]], where: str) -> list[str]:
    if "RequestItems" in body:
        return [f"{where}table/{name}" for name in body["RequestItems"]]
    index = f"/index/{body['IndexName']}" if "IndexName" in body else ""
    return [f"{where}table/{body['TableName']}{index}"]


def _function(_body: Body, path: str, query: Mapping[str, list[str]], where: str) -> list[str]:
    """Return the ARN with its qualifier, because a policy for the function alone does not cover its aliases."""
    name = unquote(path).split("/functions/")[1].split("/")[0]
    arn = name if name.startswith("arn:") else f"{where}function:{name}"
    return [":".join([arn, *query.get("Qualifier", [])])]


RESOURCES: Mapping[str, Callable[[Body, str, Mapping[str, list[str]], str], list[str]]] = {
    "dynamodb": _tables,
    "firehose": lambda body, path, query, where: [f"{where}deliverystream/{body['DeliveryStreamName']}"],
    "lambda": _function,
    "sagemaker": lambda body, path, query, where: [f"{where}processing-job/{body['ProcessingJobName']}"],
    "sns": lambda body, path, query, where: [body["TopicArn"]],
    "sqs": lambda body, path, query, where: [body.get("SourceArn") or where + body["QueueUrl"].rsplit("/", 1)[1]],
    "states": lambda body, path, query, where: [body.get("stateMachineArn") or body["executionArn"]],
}


def _exists(arn: str, account: str) -> bool:
    """True if S3 has an object."""
    bucket, _, key = arn.removeprefix(f"arn:{PARTITION}:s3:::").partition("/")
    return s3_backends[account][PARTITION].get_object(bucket, key) is not None


def _refusal(service: str, caller: str, action: str, resource: str) -> Exception:
    if service == "s3":
        return BucketAccessDeniedError(bucket=resource.rsplit(":", 1)[1].partition("/")[0])
    if service == "sns":
        return AccessDeniedError(user_arn=caller, action=action)
    return JsonRESTError("AccessDeniedException", f"User: {caller} is not authorized to perform: {action} on resource: {resource}")
