"""The AWS of a rehearsal: moto's server on the loopback address, extended for a deployment of Gavel."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.request import Request, urlopen

import boto3
import moto.cloudformation.responses as cloudformation_responses
from botocore.config import Config
from botocore.session import Session
from moto.apigateway.models import Method as RestMethod
from moto.awslambda.models import LambdaVersion
from moto.core.config import default_user_config
from moto.events.models import Rule
from moto.logs.models import LogGroup
from moto.s3.models import FakeBucket
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.models import FakeEndpoint, FakeEndpointConfig
from moto.server import ThreadedMotoServer

from gavel.opensearch.node import free_port
from gavel.rehearsal import stand_ins
from gavel.rehearsal.authorisation import authorised
from gavel.rehearsal.custom_resources import CustomResource
from gavel.rehearsal.domain import Domain
from gavel.rehearsal.functions import Functions
from gavel.rehearsal.implied_calls import Deployed
from gavel.rehearsal.lambda_runtime import Invocation
from gavel.rehearsal.principals import Principals
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
        url: URL of moto's server.
        principals: roles of the account, each held to its policies.
        record: resources that were deployed as stand-ins.
        invocations: (function name, result) of every call.
        deployed: properties of every deployed resource.
        jobs: parameters of every processing job.
        function_environment: environment variables of every function beside its own, which outrank them.
    """

    url: str
    principals: Principals
    record: stand_ins.Record
    invocations: list[tuple[str, Invocation]]
    deployed: Deployed = field(default_factory=lambda: Deployed(REGION, ACCOUNT))
    jobs: list[Parameters] = field(default_factory=list)
    function_environment: dict[str, str] = field(default_factory=dict)

    def client(self, service: str, role_arn: str = "", **settings: Any) -> Any:
        """Create a boto3 client of the account, which calls with a role, or as its administrator.

        Args:
            service: name of the service.
            role_arn: ARN of the role; "" for the administrator.
            settings: further settings of the client's configuration.
        """
        credentials = self.principals.credentials(role_arn) if role_arn else CREDENTIALS
        key = {name.lower(): value for name, value in credentials.items()}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, config=Config(**settings), **key)

    def change_custom_resources(self, request_type: str) -> list[dict[str, Any]]:
        """Send "Create" or "Delete" to all custom resources side by side, and return their answers."""
        return CustomResource.send_all(request_type, ACCOUNT, REGION)

    def check_roles(self) -> None:
        """Check that no role lacks a permission for its calls so far, nor for those that AWS makes with it.

        Raises:
            AccessRefused: a call was refused; the message names role, action and resource of every one.
        """
        self.deployed.check(self.principals)
        self.principals.check()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that direct the AWS libraries of other processes to this account."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": REGION, "AWS_REGION": REGION, **CREDENTIALS}


@contextmanager
def running(domain: Domain, work: Path) -> Iterator[Cloud]:
    """Run an account for the length of the block, and direct this process's AWS libraries to it.

    Extensions of moto's server:

    - functions run (lambda_runtime.py), and queues call functions and keep the messages that a function reports as failed;
    - state machines run, with their processing job (state_machines.py, processing_job.py);
    - a bucket's notifications are read from its template, because moto's CloudFormation drops them;
    - an endpoint has the name that its template gives it, and an instance type of the service's own list, because moto's is old;
    - unknown resource types are deployed as stand-ins (stand_ins.py);
    - a function, a state machine or a job calls with an access key of its role, and is refused what its policies do not allow
      (principals.py, authorisation.py).

    Args:
        domain: OpenSearch domain of the deployed functions, which knows the account's roles.
        work: folder for the code and files of functions and jobs.
    """
    port = free_port()
    url = f"http://{HOST}:{port}"
    principals, kind = domain.principals, "AWS::OpenSearchService::Domain"
    record = stand_ins.Record({(kind, "DomainEndpoint"): domain.endpoint}, {kind: domain.create})
    cloud = Cloud(url, principals, record, [])
    jobs = ProcessingJobs(cloud.client, principals.credentials, work / "jobs", cloud.jobs)
    cloud.function_environment |= {"SSL_CERT_FILE": str(domain.certificate), **cloud.environment}
    functions = Functions(cloud.invocations, cloud.function_environment, principals.credentials, work / "functions")
    with ExitStack() as running:
        running.enter_context(patch.dict(os.environ, {"MOTO_PORT": str(port), **cloud.environment}))
        running.enter_context(patch.dict(default_user_config, SETTINGS))
        running.enter_context(patch.object(CustomResource, "answer_url", staticmethod(_presigner(cloud)), create=True))
        running.enter_context(patch.object(CustomResource, "created", [], create=True))
        running.enter_context(patch.object(LogGroup, "get_cfn_attribute", lambda self, name: f"{self.arn}:*"))
        running.enter_context(authorised(principals))
        running.enter_context(cloud.deployed.recorded())
        running.enter_context(patch.object(LambdaVersion, "has_cfn_attr", lambda name: name == "Version", create=True))
        running.enter_context(patch.object(LambdaVersion, "get_cfn_attribute", lambda self, name: str(self.version), create=True))
        running.enter_context(functions.running())

        def run_job(parameters: Parameters, machine_role: str) -> None:
            """Run a job and wait until the index has its parts, because SageMaker also needs minutes to wind down."""
            for role, call in (
                *cloud.deployed.started_job(machine_role, parameters),
                *cloud.deployed.job(parameters["RoleArn"], parameters),
            ):
                principals.allows(role, [call])
            principals.check()
            jobs.run(parameters)
            functions.wait_until_idle()

        running.enter_context(as_on_aws(run_job, principals.credentials))
        running.enter_context(patch.object(FakeBucket, "create_from_cloudformation_json", _bucket_with_notifications()))
        running.enter_context(patch.object(RestMethod, "create_from_cloudformation_json", _method_without_backend()))
        running.enter_context(patch.object(Rule, "send_to_targets", _events_for_patterns_alone()))
        running.enter_context(patch.object(FakeEndpoint, "cloudformation_name_type", staticmethod(lambda: "EndpointName")))
        running.enter_context(patch.object(FakeEndpointConfig, "validate_instance_type", _check_instance_type))
        running.enter_context(patch.object(cloudformation_responses, "get_stack_from_s3_url", _template_here()))
        running.callback(stand_ins.install(record))
        server = ThreadedMotoServer(ip_address=HOST, port=port, verbose=False)
        server.start()
        running.callback(server.stop)
        _reset(cloud)
        yield cloud


def _presigner(cloud: Cloud) -> Callable[[str, str], str]:
    """Return the function that signs the URLs at which CloudFormation takes the answers of custom resources."""

    def presign(bucket: str, key: str) -> str:
        s3 = cloud.client("s3", signature_version="s3v4", s3={"addressing_style": "path"})
        return str(s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": key}))

    return presign


def _bucket_with_notifications() -> Any:
    create = FakeBucket.create_from_cloudformation_json.__func__  # type: ignore[attr-defined]

    def created(cls: type, resource_name: str, cloudformation_json: dict[str, Any], *rest: Any, **kwargs: Any) -> FakeBucket:
        bucket: FakeBucket = create(cls, resource_name, cloudformation_json, *rest, **kwargs)
        notifications = cloudformation_json.get("Properties", {}).get("NotificationConfiguration", {})
        queues = [
            {"Queue": queue["Queue"], "Event": [queue["Event"]], "Filter": _filter(queue)}
            for queue in notifications.get("QueueConfigurations", [])
        ]
        bridge = notifications.get("EventBridgeConfiguration")
        if queues or bridge:
            bucket.set_notification_configuration({"QueueConfiguration": queues, "EventBridgeConfiguration": bridge})
        return bucket

    return classmethod(created)


def _method_without_backend() -> Any:
    """Let moto accept methods without a backend, because API Gateway itself answers preflight requests."""
    create = RestMethod.create_from_cloudformation_json.__func__  # type: ignore[attr-defined]

    def created(cls: type, resource_name: str, cloudformation_json: dict[str, Any], *rest: Any, **kwargs: Any) -> Any:
        for absent in ("IntegrationHttpMethod", "Uri"):
            cloudformation_json["Properties"]["Integration"].setdefault(absent, "")
        return create(cls, resource_name, cloudformation_json, *rest, **kwargs)

    return classmethod(created)


def _events_for_patterns_alone() -> Any:
    """Keep events from rules that have only a schedule, to which moto sends every event."""
    send = Rule.send_to_targets

    def sent(rule: Rule, event: Any, transform_input: bool = True) -> None:
        if rule.event_pattern.get_pattern():
            send(rule, event, transform_input)

    return sent


def _filter(queue: Mapping[str, Any]) -> dict[str, Any]:
    rules = [{"Name": rule["Name"], "Value": rule["Value"]} for rule in queue.get("Filter", {}).get("S3Key", {}).get("Rules", [])]
    return {"S3Key": {"FilterRule": rules}}


def _check_instance_type(config: FakeEndpointConfig, instance_type: str) -> None:
    if instance_type not in Session().get_service_model("sagemaker").shape_for("ProductionVariantInstanceType").enum:
        raise ValidationError(message=f"{instance_type!r} is no instance type of an endpoint")


def _template_here() -> Any:
    """Let moto read templates from HOST; moto itself accepts only addresses of AWS and `localhost`."""
    read = vars(cloudformation_responses)["get_stack_from_s3_url"]  # moto imports it there without exporting it

    def here(template_url: str, **account: Any) -> str:
        return str(read(template_url.replace(HOST, "localhost"), **account))

    return here


def _reset(cloud: Cloud) -> None:
    """Reset the state of earlier accounts in this process."""
    urlopen(Request(f"{cloud.url}/moto-api/reset", method="POST"), timeout=10).close()
