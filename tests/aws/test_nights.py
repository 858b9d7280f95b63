"""The state machines of a night, run by moto's interpreter over S3, SNS and SageMaker.

moto carries out createProcessingJob without `.sync`: it starts the job, and the test lays down what the job would have written.
"""

import json
import time
from contextlib import contextmanager
from uuid import uuid4

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import StateTaskServiceAwsSdk
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import StateTaskServiceSfn
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_unsupported import (
    StateTaskServiceUnsupported,
)

from infra.embedding_job import Places
from infra.nightly_states import embed_day, find_day

DATE, TOWER = "2026-11-21", "t0123456789ab"
RELEASE = f"{DATE}-{TOWER}"
BUCKETS = ("new-items", "embeddings", "towers", "releases")
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
create_as_moto_does = StateTaskServiceUnsupported._eval_service_task
start_as_moto_does = StateTaskServiceSfn._eval_service_task
call_as_moto_does = StateTaskServiceAwsSdk._eval_service_task
LADDER = ["ml.p3.2xlarge", "ml.g5.2xlarge", "ml.g6.2xlarge"]


def start_as_aws_does(self, env, resource_runtime_part, normalised_parameters, state_credentials):
    """Parameters begin with a capital in a definition and with a small letter in the API; moto leaves them as they are."""
    small = {name[0].lower() + name[1:]: value for name, value in normalised_parameters.items()}
    start_as_moto_does(self, env, resource_runtime_part, small, state_credentials)


def call_as_aws_does(self, env, resource_runtime_part, normalised_parameters, state_credentials):
    """Objects go in and come out as text: AWS does so, moto hands the body through to and from boto3."""
    if isinstance(normalised_parameters.get("Body"), dict):
        normalised_parameters["Body"] = json.dumps(normalised_parameters["Body"])
    call_as_moto_does(self, env, resource_runtime_part, normalised_parameters, state_credentials)
    if "Body" in env.stack[-1]:
        env.stack[-1]["Body"] = env.stack[-1]["Body"].read().decode()


class Cloud:
    """A mocked account with the buckets, the topic and the machines."""

    def __init__(self) -> None:
        self.s3, self.sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        self.machines = boto3.client("stepfunctions")
        for bucket in BUCKETS:
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.role = boto3.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
        topic, queues = boto3.client("sns").create_topic(Name="notices")["TopicArn"], boto3.client("sqs")
        self.inbox = queues.create_queue(QueueName="inbox")["QueueUrl"]
        inbox = queues.get_queue_attributes(QueueUrl=self.inbox, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        boto3.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=inbox)
        self.places = Places(*BUCKETS, "s3://assets/code.zip", self.role, "image", topic, "aws")

    def machine(self, name, definition):
        text = json.dumps(definition).replace(".sync", "")
        return self.machines.create_state_machine(name=name, definition=text, roleArn=self.role)["stateMachineArn"]

    def put(self, bucket, key, content):
        self.s3.put_object(Bucket=bucket, Key=key, Body=content if isinstance(content, str) else json.dumps(content))

    def run(self, machine, given):
        """Run a machine to its end."""
        arn = self.machines.start_execution(stateMachineArn=machine, input=json.dumps(given), name=uuid4().hex)["executionArn"]
        return self.ended(arn)

    def ended(self, arn):
        for _ in range(200):
            execution = self.machines.describe_execution(executionArn=arn)
            if execution["status"] != "RUNNING":
                return execution
            time.sleep(0.05)
        pytest.fail(f"{arn} did not end: {self.machines.get_execution_history(executionArn=arn)['events'][-3:]}")

    def notices(self):
        got = boto3.client("sqs").receive_message(QueueUrl=self.inbox, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"])["Message"] for message in got]

    def lay_down_release(self, **counts):
        manifest = {"items_in": 5, "items_embedded": 4, "items_rejected": 1, "parts": [], **counts}
        self.put("embeddings", f"{RELEASE}/manifest.json", manifest)


@contextmanager
def cloud_of(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(StateTaskServiceAwsSdk, "_eval_service_task", call_as_aws_does)
    monkeypatch.setattr(StateTaskServiceSfn, "_eval_service_task", start_as_aws_does)
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        yield Cloud()


@pytest.fixture
def cloud(monkeypatch):
    with cloud_of(monkeypatch) as made:
        yield made


@pytest.fixture
def embed(cloud):
    """The machine that embeds a day; its waits are short."""
    definition = embed_day(cloud.places, LADDER, 1, 2)
    for state in definition["States"].values():
        for retry in state.get("Retry", []):
            retry.update(IntervalSeconds=1, MaxAttempts=1)
    # the machine forgets old receipts before the job; what the job and the indexer write is laid down before it starts
    definition["States"]["ForgetReceipt"] = {"Type": "Pass", "Next": "Embed0"}
    cloud.put("towers", "current.json", {"tower_id": TOWER})
    return cloud.machine("embed", definition)


def test_a_day_without_items_ends_well_with_a_notice(cloud, embed):
    found = cloud.run(cloud.machine("find", find_day(cloud.places, embed)), {"scheduled_time": f"{DATE}T02:00:00Z"})
    assert found["status"] == "SUCCEEDED"
    assert cloud.machines.list_executions(stateMachineArn=embed)["executions"] == []
    assert [f"no new items for {DATE}" in notice for notice in cloud.notices()] == [True]


def test_a_day_is_embedded_once_however_often_it_is_found(cloud, embed):
    cloud.put("new-items", f"{DATE}.parquet", "rows")
    find = cloud.machine("find", find_day(cloud.places, embed))
    for hour in (2, 5):
        assert cloud.run(find, {"scheduled_time": f"{DATE}T0{hour}:00:00Z"})["status"] == "SUCCEEDED"
    started = cloud.machines.list_executions(stateMachineArn=embed)["executions"]
    assert [execution["name"] for execution in started] == [f"night-{DATE}"]


def test_a_night_ends_with_a_record_and_a_notice(cloud, embed):
    cloud.lay_down_release()
    cloud.put("embeddings", f"{RELEASE}/indexed.json", {"lots": 4, "published": True})
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    record = json.loads(cloud.s3.get_object(Bucket="releases", Key=f"{DATE}.json")["Body"].read())
    assert (record["release_id"], record["indexed"]["lots"]) == (RELEASE, 4)
    assert record["counts"] == [{"items_in": 5, "items_embedded": 4, "items_rejected": 1, "accounted": 5}]
    assert [f"the lots of {DATE} can be found" in notice for notice in cloud.notices()] == [True]


@pytest.fixture
def asked(monkeypatch):
    """The parameters of every job that was asked for; `refusals` says which types cannot be had, and in what words."""
    jobs, refusals = [], {}

    def create(self, env, resource_runtime_part, normalised_parameters, state_credentials):
        jobs.append(normalised_parameters)
        code, message = refusals.get(instance_of(normalised_parameters), (None, None))
        if code:
            answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400, "RequestId": "1"}}
            raise ClientError(answer, "CreateProcessingJob")
        create_as_moto_does(self, env, resource_runtime_part, normalised_parameters, state_credentials)

    monkeypatch.setattr(StateTaskServiceUnsupported, "_eval_service_task", create)
    return jobs, refusals


def instance_of(job):
    return job["ProcessingResources"]["ClusterConfig"]["InstanceType"]


QUOTA = ("ResourceLimitExceeded", "The account-level service limit 'ml.p3.2xlarge for processing job usage' is 0 Instances")
CAPACITY = ("ValidationException", "CapacityError: Unable to provision requested ML compute capacity")
UNSUPPORTED = (
    "ValidationException",
    "Value 'ml.p3.2xlarge' at 'instanceType' failed to satisfy constraint: Member must satisfy enum",
)
OTHER = ("ValidationException", "Could not access the image")


def indexed(cloud):
    cloud.lay_down_release()
    cloud.put("embeddings", f"{RELEASE}/indexed.json", {"lots": 4})


def test_the_job_is_started_once_on_the_first_type_of_the_ladder(cloud, embed, asked):
    indexed(cloud)
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    assert [instance_of(job) for job in asked[0]] == LADDER[:1]
    (job,) = asked[0]
    assert job["AppSpecification"]["ContainerArguments"] == ["--release-id", RELEASE]
    uris = {given["InputName"]: given["S3Input"]["S3Uri"] for given in job["ProcessingInputs"]}
    assert uris == {"items": f"s3://new-items/{DATE}", "tower": f"s3://towers/{TOWER}/", "code": "s3://assets/code.zip"}
    assert len(job["ProcessingJobName"]) <= 63


@pytest.mark.parametrize("refusal", [QUOTA, CAPACITY, UNSUPPORTED])
def test_a_type_that_cannot_be_had_leads_to_the_next(cloud, embed, asked, refusal):
    indexed(cloud)
    asked[1][LADDER[0]] = refusal
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    assert [instance_of(job) for job in asked[0]] == LADDER[:2]


def test_any_other_error_fails_the_night_without_trying_on(cloud, embed, asked):
    asked[1][LADDER[0]] = OTHER
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert "Could not access the image" in ended["cause"]
    assert [instance_of(job) for job in asked[0]] == LADDER[:1]


def test_a_ladder_without_a_type_that_can_be_had_fails_the_night(cloud, embed, asked):
    asked[1].update(dict.fromkeys(LADDER, CAPACITY))
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert "CapacityError" in ended["cause"]
    assert [instance_of(job) for job in asked[0]] == LADDER


def test_a_manifest_that_lost_rows_fails_the_night(cloud, embed):
    cloud.lay_down_release(items_in=6)
    ended = cloud.run(embed, {"date": DATE})
    assert (ended["status"], ended["error"]) == ("FAILED", "NightFailed")
    assert ended["cause"].startswith("RowsLost: items_in is not")
    assert ["RowsLost" in notice for notice in cloud.notices()] == [True]


def test_a_job_that_left_no_manifest_fails_the_night(cloud, embed):
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert ended["cause"].startswith("ManifestsMissing")


def test_a_release_that_is_never_indexed_fails_the_night(cloud, embed):
    cloud.lay_down_release()
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert "NoSuchKey" in ended["cause"]


def test_without_a_tower_the_night_fails_and_says_so(cloud, embed):
    cloud.s3.delete_object(Bucket="towers", Key="current.json")
    assert cloud.run(embed, {"date": DATE})["status"] == "FAILED"
    assert [DATE in notice and "NoSuchKey" in notice for notice in cloud.notices()] == [True]
