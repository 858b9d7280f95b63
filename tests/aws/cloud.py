"""A mocked account that runs the state machines: moto's interpreter over S3, SNS, SQS and SageMaker, our own function beside it.

A job is started and no more; the test lays down what it would have written.
"""

import gzip
import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from uuid import uuid4

import boto3
import pytest
from job_places import BUCKETS, places
from lots import lot
from moto import mock_aws
from moto.stepfunctions.parser.asl.component.state.exec.state_task.lambda_eval_utils import LambdaFunctionErrorException
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_lambda import StateTaskServiceLambda
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_unsupported import (
    StateTaskServiceUnsupported,
)

from gavel.rehearsal.state_machines import as_on_aws
from lambdas.bulk_indexer import handler as indexer
from lambdas.bulk_indexer import tower_index
from retrieval.contracts.documents import IndexedItem, bulk_lines
from retrieval.contracts.release import Manifest, Part
from retrieval.contracts.tower_card import TowerCard
from retrieval.index.embedded.store import EmbeddedStore

TOWER = "0123456789ab"
DIMENSIONS = 13  # of the vectors of tests/lots.py
SNAPSHOT = "arn:aws:lambda:eu-west-1:123456789012:function:snapshot"
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
LADDER = ["ml.p3.2xlarge", "ml.g5.2xlarge", "ml.g6.2xlarge"]
create_as_moto_does = StateTaskServiceUnsupported._eval_service_task


def renew_snapshot():
    """Stand in for the function of lambdas/query_snapshot; a test replaces it to take note of calls, or to fail."""
    return {"version": "2", "previous": "1"}


def invoke_here(self, env, resource_runtime_part, normalised_parameters, state_credentials):
    """Run the bulk-index function in this process; Lambda reports what it raises by the type's name."""
    try:
        if normalised_parameters["FunctionName"] == SNAPSHOT:
            answer = renew_snapshot()
        else:
            answer = indexer.handler(json.loads(normalised_parameters["Payload"]), None)
    except Exception as error:
        told = json.dumps({"errorType": type(error).__name__, "errorMessage": str(error)})
        raise LambdaFunctionErrorException("Unhandled", told) from error
    env.stack.append({"StatusCode": 200, "Payload": answer})


class Cloud:
    """A mocked account with the buckets, the topic, the index and the machines."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.s3, self.sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        self.machines = boto3.client("stepfunctions")
        for bucket in BUCKETS.values():
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.role = boto3.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
        topic, queues = boto3.client("sns").create_topic(Name="notices")["TopicArn"], boto3.client("sqs")
        self.inbox = queues.create_queue(QueueName="inbox")["QueueUrl"]
        inbox = queues.get_queue_attributes(QueueUrl=self.inbox, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        boto3.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=inbox)
        self.places = places(
            job_role_arn=self.role,
            indexer_arn="arn:aws:lambda:eu-west-1:123456789012:function:indexer",
            snapshot_arn=SNAPSHOT,
            notices_arn=topic,
        )
        self.put_tower(TOWER)

    def put_tower(self, tower_id):
        card = TowerCard(tower_id, "small", DIMENSIONS, 16, 32, (0.0,) * 3, (1.0,) * 3)
        self.put("towers", f"{tower_id}/tower.json", asdict(card))

    def machine(self, name, definition):
        """A machine whose waits are short."""
        for state in definition["States"].values():
            if state["Type"] == "Wait":
                state["Seconds"] = 0
            for retry in state.get("Retry", []):
                retry.update(IntervalSeconds=1, MaxAttempts=1)
        made = self.machines.create_state_machine(name=name, definition=json.dumps(definition), roleArn=self.role)
        return made["stateMachineArn"]

    def put(self, bucket, key, content):
        self.s3.put_object(Bucket=bucket, Key=key, Body=content if isinstance(content, str | bytes) else json.dumps(content))

    def read(self, bucket, key):
        return json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

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

    def started(self, machine):
        """Names of a machine's executions, all of them ended."""
        executions = self.machines.list_executions(stateMachineArn=machine)["executions"]
        return [self.ended(execution["executionArn"]).get("name") for execution in executions]

    def notices(self):
        got = boto3.client("sqs").receive_message(QueueUrl=self.inbox, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"])["Message"] for message in got]

    def lay_down_manifest(self, release_id, **counts):
        """A manifest as far as the machines read it."""
        manifest = {"items_in": 5, "items_embedded": 4, "items_rejected": 1, "parts": [], "device": "NVIDIA A10G, bfloat16"}
        manifest |= {"items_per_second": 402.5, **counts}
        self.put("embeddings", f"{release_id}/manifest.json", manifest)

    def lay_down_release(self, release_id, tower_id, ids: Sequence[str]):
        """A whole release, of which the indexer is told as S3 tells it; its manifest came last."""
        entries = [lot(item_id, "old watch") for item_id in ids]
        entries = [IndexedItem(e.item_id, e.version, {**e.document, "tower_id": tower_id}, e.vector) for e in entries]
        data = gzip.compress("".join(f"{line}\n" for entry in entries for line in bulk_lines(entry)).encode())
        part = Part("part-00000.ndjson.gz", len(entries), len(data), hashlib.sha256(data).hexdigest())
        manifest = Manifest(release_id, tower_id, DIMENSIONS, len(entries), len(entries), 0, 0, [part])
        self.put("embeddings", f"{release_id}/{part.name}", data)
        self.put("embeddings", f"{release_id}/{manifest.file_name}", manifest.to_json())
        for name in (part.name, manifest.file_name):
            record = {"s3": {"bucket": {"name": "embeddings"}, "object": {"key": f"{release_id}/{name}"}}}
            indexer.handler({"Records": [record]}, None)


@contextmanager
def cloud_of(monkeypatch, folder):
    """An account whose function indexes into `folder`."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "GAVEL_TOWERS_URI": "s3://towers",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(StateTaskServiceLambda, "_eval_service_task", invoke_here)
    store = EmbeddedStore(folder / "index")
    monkeypatch.setattr(indexer, "store", lambda: store)
    monkeypatch.setattr(tower_index, "CARD_CACHE", folder / "cards")
    indexer.s3.cache_clear()
    with as_on_aws(), mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        yield Cloud(store)
    indexer.s3.cache_clear()


def jobs_asked(monkeypatch, run=lambda job: None):
    """Take note of every job that is asked for.

    Args:
        monkeypatch: of the test.
        run: called with the parameters of each job; it may refuse by raising, and lays down what the job would have written.

    Returns:
        The parameters, in order, as the test goes on.
    """
    jobs = []

    def create(self, env, resource_runtime_part, normalised_parameters, state_credentials):
        jobs.append(normalised_parameters)
        run(normalised_parameters)
        create_as_moto_does(self, env, resource_runtime_part, normalised_parameters, state_credentials)

    monkeypatch.setattr(StateTaskServiceUnsupported, "_eval_service_task", create)
    return jobs


def instance_of(job):
    return job["ProcessingResources"]["ClusterConfig"]["InstanceType"]


def release_of(job):
    return job["AppSpecification"]["ContainerArguments"][1]
