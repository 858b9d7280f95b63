"""Roles in a rehearsal: a call that no policy allows is refused as the service refuses it, and is remembered."""

import json
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from moto.iam.models import iam_backends

from gavel.rehearsal.cloud import running
from gavel.rehearsal.implied_calls import Deployed
from gavel.rehearsal.policies import Call, Grant, UnknownPolicy, decide
from gavel.rehearsal.principals import AccessRefused, Principals

ACCOUNT = "123456789012"
HERE = f"eu-west-1:{ACCOUNT}"
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})


def allow(action, resource, **rest):
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": resource, **rest}]}


@pytest.mark.parametrize(
    ("action", "resource", "allowed"),
    [
        ("s3:GetObject", "arn:aws:s3:::towers/a/tower.json", True),
        ("S3:getobject", "arn:aws:s3:::towers/a/tower.json", True),
        ("s3:GetObject", "arn:aws:s3:::towers", False),
        ("s3:GetObject", "arn:aws:s3:::Towers/a", False),
        ("s3:PutObject", "arn:aws:s3:::towers/a", False),
    ],
)
def test_an_action_is_allowed_on_what_the_pattern_covers(action, resource, allowed):
    assert decide([allow("s3:GetObject", "arn:aws:s3:::towers/*")], Call(action, resource)).allowed is allowed


def test_a_denial_outranks_every_grant():
    denial = {"Statement": {"Effect": "Deny", "Action": "s3:*", "Resource": "arn:aws:s3:::towers/secret"}}
    documents = [allow(["s3:GetObject", "s3:PutObject"], "*"), denial]
    assert decide(documents, Call("s3:GetObject", "arn:aws:s3:::towers/a")).allowed
    assert not decide(documents, Call("s3:GetObject", "arn:aws:s3:::towers/secret")).allowed


def test_a_condition_must_hold():
    passing = allow("iam:PassRole", "*", Condition={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}})
    of = {"iam:PassedToService": "sagemaker.amazonaws.com"}
    assert decide([passing], Call("iam:PassRole", "arn:role", of)).allowed
    assert not decide([passing], Call("iam:PassRole", "arn:role", {"iam:PassedToService": "lambda.amazonaws.com"})).allowed
    assert not decide([passing], Call("iam:PassRole", "arn:role")).allowed


@pytest.mark.parametrize(
    "statement",
    [
        {"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"},
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*", "Condition": {"NumericLessThan": {"s3:max-keys": "1"}}},
        {"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::${aws:username}"},
    ],
)
def test_a_policy_that_is_not_understood_passes_nothing(statement):
    with pytest.raises(UnknownPolicy):
        decide([{"Statement": [statement]}], Call("s3:GetObject", "arn:aws:s3:::a"))


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    folder = tmp_path_factory.mktemp("account")
    domain = SimpleNamespace(principals=Principals(ACCOUNT), endpoint="localhost:1", certificate=folder / "none", create=None)
    with running(domain, folder) as account:
        s3 = account.client("s3")
        for bucket in ("towers", "items"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.put_object(Bucket="towers", Key="a/tower.json", Body=b"{}")
        yield account


@pytest.fixture
def cloud(account):
    """The account without roles; nobody has called it yet."""
    iam_backends[ACCOUNT]["aws"].roles.clear()
    principals = account.principals
    principals.removed = None
    for memory in (principals.denials, principals.calls, principals.used):
        memory.clear()
    return account


def role_of(cloud, *documents, name="Gavel-test-Role"):
    iam = cloud.client("iam")
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    for number, document in enumerate(documents):
        iam.put_role_policy(RoleName=name, PolicyName=f"p{number}", PolicyDocument=json.dumps(document))
    return arn


def refused(cloud):
    return [(denial.role, denial.action, denial.resource) for denial in cloud.principals.denials]


def test_a_role_does_what_its_policies_allow_and_nothing_else(cloud):
    role = role_of(cloud, allow("s3:GetObject", "arn:aws:s3:::towers/*"))
    s3 = cloud.client("s3", role)
    assert s3.get_object(Bucket="towers", Key="a/tower.json")["Body"].read() == b"{}"
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket="towers", Key="a/tower.json", Body=b"")
    assert refused(cloud) == [("Gavel-test-Role", "s3:PutObject", "arn:aws:s3:::towers/a/tower.json")]
    with pytest.raises(AccessRefused, match=r"IAM refuses Gavel-test-Role s3:PutObject on arn:aws:s3:::towers/a/tower\.json"):
        cloud.principals.check()


def test_a_missing_object_looks_denied_to_who_may_not_list_the_bucket(cloud):
    read = allow("s3:GetObject", "arn:aws:s3:::towers/*")
    blind = cloud.client("s3", role_of(cloud, read))
    listing = cloud.client("s3", role_of(cloud, read, allow("s3:ListBucket", "arn:aws:s3:::towers"), name="Gavel-test-Lists"))
    with pytest.raises(ClientError, match="AccessDenied"):
        blind.get_object(Bucket="towers", Key="b")
    assert refused(cloud) == [("Gavel-test-Role", "s3:ListBucket", "arn:aws:s3:::towers")]
    with pytest.raises(ClientError, match="NoSuchKey"):
        listing.get_object(Bucket="towers", Key="b")


@pytest.mark.parametrize(
    ("service", "call", "arguments", "action", "resource"),
    [
        ("dynamodb", "query", {"TableName": "acts"}, "dynamodb:Query", f"arn:aws:dynamodb:{HERE}:table/acts"),
        (
            "dynamodb",
            "batch_write_item",
            {"RequestItems": {"acts": [{"DeleteRequest": {"Key": {"id": {"S": "1"}}}}]}},
            "dynamodb:BatchWriteItem",
            f"arn:aws:dynamodb:{HERE}:table/acts",
        ),
        (
            "firehose",
            "put_record_batch",
            {"DeliveryStreamName": "events", "Records": [{"Data": b""}]},
            "firehose:PutRecordBatch",
            f"arn:aws:firehose:{HERE}:deliverystream/events",
        ),
        (
            "lambda",
            "invoke",
            {"FunctionName": "indexer", "Qualifier": "live"},
            "lambda:InvokeFunction",
            f"arn:aws:lambda:{HERE}:function:indexer:live",
        ),
        (
            "lambda",
            "invoke",
            {"FunctionName": f"arn:aws:lambda:{HERE}:function:indexer"},
            "lambda:InvokeFunction",
            f"arn:aws:lambda:{HERE}:function:indexer",
        ),
        (
            "sns",
            "publish",
            {"TopicArn": f"arn:aws:sns:{HERE}:notices", "Message": "x"},
            "sns:Publish",
            f"arn:aws:sns:{HERE}:notices",
        ),
        (
            "stepfunctions",
            "start_execution",
            {"stateMachineArn": f"arn:aws:states:{HERE}:stateMachine:night"},
            "states:StartExecution",
            f"arn:aws:states:{HERE}:stateMachine:night",
        ),
        ("s3", "list_objects_v2", {"Bucket": "items"}, "s3:ListBucket", "arn:aws:s3:::items"),
        ("s3", "head_object", {"Bucket": "towers", "Key": "a/tower.json"}, "s3:GetObject", "arn:aws:s3:::towers/a/tower.json"),
        ("s3", "delete_object", {"Bucket": "items", "Key": "a"}, "s3:DeleteObject", "arn:aws:s3:::items/a"),
    ],
)
def test_the_resource_is_read_from_the_request(cloud, service, call, arguments, action, resource):
    role = role_of(cloud)
    if call == "query":
        arguments = {**arguments, "KeyConditionExpression": "id = :id", "ExpressionAttributeValues": {":id": {"S": "1"}}}
    with pytest.raises(ClientError) as refusal:
        getattr(cloud.client(service, role), call)(**arguments)
    assert refusal.value.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException", "403")
    assert refused(cloud) == [("Gavel-test-Role", action, resource)]


def test_a_request_whose_resource_nobody_can_tell_is_refused(cloud):
    role = role_of(cloud, allow("kms:*", "arn:aws:kms:*"))
    with pytest.raises(ClientError):
        cloud.client("kms", role).list_keys()
    assert [action for _, action, _ in refused(cloud)] == ["kms:ListKeys"]


def test_an_action_that_is_taken_away_is_missed(cloud):
    role = role_of(cloud, allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], "arn:aws:s3:::towers/*"))
    s3 = cloud.client("s3", role)
    s3.get_object(Bucket="towers", Key="a/tower.json")
    s3.put_object(Bucket="towers", Key="b", Body=b"")
    principals = cloud.principals
    assert principals.needed_actions() == {
        ("Gavel-test-Role", "s3:DeleteObject"): False,
        ("Gavel-test-Role", "s3:GetObject"): True,
        ("Gavel-test-Role", "s3:PutObject"): True,
    }
    assert {granted.grant for granted in principals.grants() - principals.used} == {
        Grant("s3:DeleteObject", "arn:aws:s3:::towers/*")
    }
    principals.removed = ("test-Role", "s3:PutObject")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket="towers", Key="b", Body=b"")


def test_what_services_do_with_a_role_is_asked_of_it(cloud):
    role = role_of(cloud, allow(["logs:CreateLogStream", "logs:PutLogEvents"], f"arn:aws:logs:{HERE}:log-group:mine:*"))
    deployed = Deployed("eu-west-1", ACCOUNT)
    function = {"Role": role, "LoggingConfig": {"LogGroup": "mine"}}
    deployed.resources["AWS::Lambda::Function"] = {"f": function}
    deployed.check(cloud.principals)
    assert refused(cloud) == []
    deployed.resources["AWS::Lambda::Function"] = {"f": {**function, "VpcConfig": {}}}
    deployed.check(cloud.principals)
    assert refused(cloud)[0] == ("Gavel-test-Role", "ec2:CreateNetworkInterface", "*")


def test_a_machine_that_waits_for_a_job_tags_and_watches_it(cloud):
    role = role_of(cloud, allow("sagemaker:CreateProcessingJob", "*"))
    job = {"ProcessingJobName": "gavel-1", "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/job"}
    for caller, call in Deployed("eu-west-1", ACCOUNT).started_job(role, job):
        cloud.principals.allows(caller, [call])
    assert {action for _, action, _ in refused(cloud)} == {
        "iam:PassRole",
        "sagemaker:AddTags",
        "sagemaker:DescribeProcessingJob",
        "sagemaker:StopProcessingJob",
        "events:PutTargets",
        "events:PutRule",
        "events:DescribeRule",
    }
