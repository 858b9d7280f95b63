"""The AWS of a rehearsal: moto's server on the loopback address, made to do what a deployment of Gavel needs of it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.request import Request, urlopen

import boto3
import moto.cloudformation.responses as cloudformation_responses
from moto.apigateway.models import Method as RestMethod
from moto.awslambda.models import LambdaVersion
from moto.core.config import default_user_config
from moto.s3.models import FakeBucket
from moto.server import ThreadedMotoServer

from gavel.opensearch.node import free_port
from gavel.rehearsal import stand_ins
from gavel.rehearsal.custom_resources import CustomResource
from gavel.rehearsal.domain import Domain
from gavel.rehearsal.functions import Functions
from gavel.rehearsal.lambda_runtime import Invocation
from gavel.rehearsal.processing_job import ProcessingJobs
from gavel.rehearsal.state_machines import Parameters, as_on_aws

REGION, ACCOUNT = "eu-west-1", "123456789012"
HOST = "127.0.0.1"
SETTINGS: dict[str, Any] = {"stepfunctions": {"execute_state_machine": True}, "iam": {"load_aws_managed_policies": True}}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "rehearsal", "AWS_SECRET_ACCESS_KEY": "rehearsal"}


@dataclass
class Cloud:
    """An emulated account.

    Attributes:
        url: where it answers.
        record: the resources that stand-ins were deployed for.
        invocations: every call of a function: its name and what came of it.
        jobs: the parameters of every processing job that was run.
    """

    url: str
    record: stand_ins.Record
    invocations: list[tuple[str, Invocation]]
    jobs: list[Parameters] = field(default_factory=list)

    def client(self, service: str) -> Any:
        """A boto3 client of the account."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    @property
    def environment(self) -> dict[str, str]:
        """What leads another process's AWS library here."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": REGION, "AWS_REGION": REGION, **CREDENTIALS}


@contextmanager
def running(domain: Domain, work: Path) -> Iterator[Cloud]:
    """Run an account to the end of the block; AWS's library finds it by the environment of this process.

    What moto's server does not do by itself:

    - functions run (lambda_runtime.py), queues call them one message at a time and keep what they report as failed;
    - state machines run, and the job that they ask for (state_machines.py, processing_job.py);
    - a bucket's notifications are taken from its template, where moto's CloudFormation drops them;
    - what it does not know is deployed as a stand-in (stand_ins.py).

    Args:
        domain: the OpenSearch that the deployed functions shall find.
        work: folder for code and files of functions and jobs.
    """
    port = free_port()
    url = f"http://{HOST}:{port}"
    record = stand_ins.Record({("AWS::OpenSearchService::Domain", "DomainEndpoint"): domain.endpoint})
    cloud = Cloud(url, record, [])
    jobs = ProcessingJobs(cloud.client("s3"), work / "jobs", cloud.jobs)
    functions = Functions(cloud.invocations, {"SSL_CERT_FILE": str(domain.certificate), **cloud.environment}, work / "functions")
    with ExitStack() as running:
        running.enter_context(patch.dict(os.environ, {"MOTO_PORT": str(port), **cloud.environment}))
        running.enter_context(patch.dict(default_user_config, SETTINGS))
        running.enter_context(patch.object(CustomResource, "url", url))
        running.enter_context(patch.object(LambdaVersion, "has_cfn_attr", lambda name: name == "Version", create=True))
        running.enter_context(patch.object(LambdaVersion, "get_cfn_attribute", lambda self, name: str(self.version), create=True))
        running.enter_context(functions.running())

        def run_job(parameters: Parameters) -> None:
            """A job ends when the index has its parts: SageMaker takes minutes to wind down, and a poll of the night 30 s."""
            jobs.run(parameters)
            functions.wait_until_idle()

        running.enter_context(as_on_aws(run_job))
        running.enter_context(patch.object(FakeBucket, "create_from_cloudformation_json", _bucket_with_notifications()))
        running.enter_context(patch.object(RestMethod, "create_from_cloudformation_json", _method_without_backend()))
        running.enter_context(patch.object(cloudformation_responses, "get_stack_from_s3_url", _template_here()))
        running.callback(stand_ins.install(record))
        server = ThreadedMotoServer(ip_address=HOST, port=port, verbose=False)
        server.start()
        running.callback(server.stop)
        _forget(cloud)
        yield cloud


def _bucket_with_notifications() -> Any:
    create = FakeBucket.create_from_cloudformation_json.__func__  # type: ignore[attr-defined]

    def created(cls: type, resource_name: str, cloudformation_json: dict[str, Any], *rest: Any, **named: Any) -> FakeBucket:
        bucket: FakeBucket = create(cls, resource_name, cloudformation_json, *rest, **named)
        wanted = cloudformation_json.get("Properties", {}).get("NotificationConfiguration", {})
        queues = [
            {"Queue": queue["Queue"], "Event": [queue["Event"]], "Filter": _filter(queue)}
            for queue in wanted.get("QueueConfigurations", [])
        ]
        bridge = wanted.get("EventBridgeConfiguration")
        if queues or bridge:
            bucket.set_notification_configuration({"QueueConfiguration": queues, "EventBridgeConfiguration": bridge})
        return bucket

    return classmethod(created)


def _method_without_backend() -> Any:
    """A preflight is answered by API Gateway itself and has no backend, which moto asks for."""
    create = RestMethod.create_from_cloudformation_json.__func__  # type: ignore[attr-defined]

    def created(cls: type, resource_name: str, cloudformation_json: dict[str, Any], *rest: Any, **named: Any) -> Any:
        for absent in ("IntegrationHttpMethod", "Uri"):
            cloudformation_json["Properties"]["Integration"].setdefault(absent, "")
        return create(cls, resource_name, cloudformation_json, *rest, **named)

    return classmethod(created)


def _filter(queue: Mapping[str, Any]) -> dict[str, Any]:
    rules = [{"Name": rule["Name"], "Value": rule["Value"]} for rule in queue.get("Filter", {}).get("S3Key", {}).get("Rules", [])]
    return {"S3Key": {"FilterRule": rules}}


def _template_here() -> Any:
    """moto reads templates by URL from addresses of AWS and from `localhost`."""
    read = vars(cloudformation_responses)["get_stack_from_s3_url"]  # imported there, not exported

    def here(template_url: str, **account: Any) -> str:
        return str(read(template_url.replace(HOST, "localhost"), **account))

    return here


def _forget(cloud: Cloud) -> None:
    """Begin without what ran in this process before."""
    urlopen(Request(f"{cloud.url}/moto-api/reset", method="POST"), timeout=10).close()
