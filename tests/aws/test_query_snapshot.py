"""The snapshot of the query function: a new version, the alias moved to it, and what happens when others change it meanwhile."""

import io
import json
import zipfile

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from lambdas.query_snapshot import handler as module
from lambdas.query_snapshot.handler import SnapshotFailed, handler, renew

NAME, ALIAS = "query", "live"


@pytest.fixture
def functions(monkeypatch):
    """A client of Lambda; the function has version 1, of a deployment, and its alias points there."""
    names = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}
    for name, value in {**names, "GAVEL_QUERY_FUNCTION": NAME, "GAVEL_QUERY_ALIAS": ALIAS}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(module, "WAIT", {"Delay": 0, "MaxAttempts": 2})
    monkeypatch.setattr(module, "DRAIN_S", 0)
    with mock_aws():
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        role = boto3.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        client = boto3.client("lambda")
        client.create_function(
            FunctionName=NAME,
            Runtime="python3.12",
            Handler="h.h",
            Role=role,
            Code={"ZipFile": packed("first")},
            Description="Answers",
        )
        client.create_alias(FunctionName=NAME, Name=ALIAS, FunctionVersion=client.publish_version(FunctionName=NAME)["Version"])
        yield client


def packed(text):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("h.py", f"# {text}")
    return file.getvalue()


def live(functions):
    return functions.get_alias(FunctionName=NAME, Name=ALIAS)["FunctionVersion"]


def versions(functions):
    listed = functions.list_versions_by_function(FunctionName=NAME)["Versions"]
    return [version["Version"] for version in listed if version["Version"] != "$LATEST"]


class Interfering:
    """A client whose calls of one operation fail the given number of times, after `before` has run."""

    def __init__(self, client, operation, code, times, before=lambda: None):
        self._client, self._operation, self._code, self._left, self._before = client, operation, code, times, before

    def __getattr__(self, name):
        if name != self._operation or not self._left:
            return getattr(self._client, name)
        self._left -= 1

        def fail(**arguments):
            self._before()
            raise ClientError({"Error": {"Code": self._code, "Message": "changed meanwhile"}}, name)

        return fail


def test_live_moves_to_a_new_version_of_the_same_code(functions):
    assert handler({}, None) == {"version": "2", "previous": "1"}
    assert live(functions) == "2"
    first, second = (functions.get_function_configuration(FunctionName=NAME, Qualifier=number) for number in ("1", "2"))
    assert first["CodeSha256"] == second["CodeSha256"]
    assert second["Description"].startswith("Renewed snapshot, ")


def test_of_its_own_versions_the_live_one_alone_stays(functions):
    """Those of deployments stay, too: CloudFormation deletes them."""
    for _ in range(2):
        handler({}, None)
    assert (live(functions), versions(functions)) == ("3", ["1", "3"])


def test_the_version_of_a_later_deployment_is_followed_by_a_newer_one_of_its_code(functions):
    handler({}, None)
    functions.update_function_code(FunctionName=NAME, ZipFile=packed("second"))
    deployed = functions.publish_version(FunctionName=NAME)
    functions.update_alias(FunctionName=NAME, Name=ALIAS, FunctionVersion=deployed["Version"])
    renewed = handler({}, None)
    assert int(renewed["version"]) > int(deployed["Version"]) == int(renewed["previous"])
    now = functions.get_function_configuration(FunctionName=NAME, Qualifier=ALIAS)
    assert now["CodeSha256"] == deployed["CodeSha256"]


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("update_function_configuration", "ResourceConflictException"),
        ("publish_version", "PreconditionFailedException"),
        ("update_alias", "PreconditionFailedException"),
    ],
)
def test_what_a_deployment_changes_meanwhile_is_taken_up_in_another_attempt(functions, operation, code):
    def deploy():
        functions.update_function_code(FunctionName=NAME, ZipFile=packed("of the deployment"))

    renew(Interfering(functions, operation, code, 1, deploy), NAME, ALIAS)
    latest = functions.get_function_configuration(FunctionName=NAME)
    assert functions.get_function_configuration(FunctionName=NAME, Qualifier=ALIAS)["CodeSha256"] == latest["CodeSha256"]


def test_without_an_end_of_changes_live_stays_and_no_version_is_left(functions):
    with pytest.raises(SnapshotFailed, match="query was changed by others in each of 3 attempts"):
        renew(Interfering(functions, "update_alias", "PreconditionFailedException", 9), NAME, ALIAS)
    assert live(functions) == "1"
    assert versions(functions) == ["1"]


def test_a_refusal_is_told_and_live_stays(functions):
    with pytest.raises(SnapshotFailed, match="changed meanwhile"):
        renew(Interfering(functions, "publish_version", "AccessDeniedException", 1), NAME, ALIAS)
    assert live(functions) == "1"


def test_a_snapshot_that_cannot_be_made_is_told_with_its_reason_and_thrown_away(functions):
    class NoSnapshot:
        def __getattr__(self, name):
            return getattr(functions, name)

        def get_waiter(self, name):
            waiter = functions.get_waiter(name)
            if name != "published_version_active":
                return waiter
            answer = {"State": "Failed", "StateReason": "the function ran out of memory"}
            waiter._operation_method = lambda **arguments: answer
            return waiter

    with pytest.raises(SnapshotFailed, match="query has no new version: the function ran out of memory"):
        renew(NoSnapshot(), NAME, ALIAS)
    assert live(functions) == "1"
    assert versions(functions) == ["1"]
