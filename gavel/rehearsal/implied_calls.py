"""Calls that AWS's services make with deployed roles, which no emulation makes: to logs, traces, networks, images and queues.

Sources: the service's own pages about execution roles (Lambda in a VPC, Step Functions logging and X-Ray, createProcessingJob.sync,
SageMaker execution roles, Firehose delivery to S3, EventBridge Scheduler, VPC flow logs).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from moto.cloudformation import parsing

from gavel.rehearsal.policies import Call
from gavel.rehearsal.principals import PARTITION, Principals

Properties = Mapping[str, Any]
RoleCalls = Iterator[tuple[str, Call]]  # ARN of the role, call

NETWORK = ("CreateNetworkInterface", "DescribeNetworkInterfaces", "DescribeSubnets", "DeleteNetworkInterface")
TRACES = ("PutTraceSegments", "PutTelemetryRecords")
SAMPLING = ("GetSamplingRules", "GetSamplingTargets")
LOG_DELIVERY = (
    "CreateLogDelivery",
    "GetLogDelivery",
    "UpdateLogDelivery",
    "DeleteLogDelivery",
    "ListLogDeliveries",
    "PutResourcePolicy",
    "DescribeResourcePolicies",
    "DescribeLogGroups",
)
POLL_QUEUE = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
PULL_IMAGE = ("BatchGetImage", "GetDownloadUrlForLayer", "BatchCheckLayerAvailability")
WRITE_LOG = ("CreateLogGroup", "CreateLogStream", "PutLogEvents")
JOB_LOGS = "/aws/sagemaker/ProcessingJobs"
ENDPOINT_LOGS = "/aws/sagemaker/Endpoints/"
JOB_RULE = "StepFunctionsGetEventsForSageMakerProcessingJobsRule"
A_NAME = "rehearsal"  # of log streams and objects whose names the services choose


def _calls(service: str, actions: tuple[str, ...], resource: str = "*") -> list[Call]:
    return [Call(f"{service}:{action}", resource) for action in actions]


@dataclass
class Deployed:
    """The resources of an account, as their templates describe them after all references are resolved.

    Attributes:
        region: region of the account.
        account: number of the account.
        resources: resource type -> physical name -> properties.
    """

    region: str
    account: str
    resources: dict[str, dict[str, Properties]] = field(default_factory=dict)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what CloudFormation deploys for the length of the block."""
        parse = parsing.parse_resource_and_generate_name

        def parsed(*arguments: Any, **named: Any) -> Any:
            result = parse(*arguments, **named)
            if result:
                _, resource, name = result
                self.resources.setdefault(resource["Type"], {})[name] = resource.get("Properties", {})
            return result

        with patch.object(parsing, "parse_resource_and_generate_name", parsed):
            yield

    def check(self, principals: Principals) -> None:
        """Check the calls that services make with the roles of what is deployed; refused ones become denials."""
        for kind, calls in BY_RESOURCE.items():
            for name, properties in self.of(kind).items():
                for role, call in calls(self, name, properties):
                    principals.allows(role, [call])

    def of(self, kind: str) -> Mapping[str, Properties]:
        """Return the resources of a type, by their names."""
        return self.resources.get(kind, {})

    def arn(self, service: str, resource: str) -> str:
        """Return the ARN of a resource in the account and region."""
        return f"arn:{PARTITION}:{service}:{self.region}:{self.account}:{resource}"

    def log(self, group: str) -> str:
        """Return the ARN of a log stream in a group."""
        return self.arn("logs", f"log-group:{group}:log-stream:{A_NAME}")

    def job(self, role: str, parameters: Properties) -> RoleCalls:
        """Return the calls by which SageMaker starts a job with the job's role: for the image, the log, and the zips of its code.

        Args:
            role: ARN of the job's role.
            parameters: parameters of CreateProcessingJob.
        """
        for call in self.container(parameters["AppSpecification"]["ImageUri"], JOB_LOGS, (*WRITE_LOG, "DescribeLogStreams")):
            yield role, call
        for given in parameters["ProcessingInputs"]:
            bucket, _, key = given["S3Input"]["S3Uri"].removeprefix("s3://").partition("/")
            yield role, Call("s3:ListBucket", f"arn:{PARTITION}:s3:::{bucket}")
            yield role, Call("s3:GetObject", f"arn:{PARTITION}:s3:::{bucket}/{key if key.endswith('.zip') else key + A_NAME}")
        for output in parameters["ProcessingOutputConfig"]["Outputs"]:
            bucket, _, key = output["S3Output"]["S3Uri"].removeprefix("s3://").partition("/")
            yield role, Call("s3:PutObject", f"arn:{PARTITION}:s3:::{bucket}/{key}{A_NAME}")

    def container(self, image: str, group: str, write: tuple[str, ...]) -> Iterator[Call]:
        """Return the calls that start a container of SageMaker and write its log."""
        registry, _, name = image.partition("/")
        repository = f"arn:{PARTITION}:ecr:{self.region}:{registry.partition('.')[0]}:repository/{name.partition(':')[0]}"
        yield Call("ecr:GetAuthorizationToken", "*")
        yield from _calls("ecr", PULL_IMAGE, repository)
        yield from _calls("logs", write, self.log(group))

    def started_job(self, role: str, parameters: Properties) -> RoleCalls:
        """Return what `createProcessingJob.sync` asks of a machine's role beside the call itself."""
        job = self.arn("sagemaker", f"processing-job/{parameters['ProcessingJobName']}")
        context = {"iam:PassedToService": "sagemaker.amazonaws.com"}
        yield role, Call("iam:PassRole", parameters["RoleArn"], context)
        for call in (
            *_calls("sagemaker", ("AddTags", "DescribeProcessingJob", "StopProcessingJob"), job),
            *_calls("events", ("PutTargets", "PutRule", "DescribeRule"), self.arn("events", f"rule/{JOB_RULE}")),
        ):
            yield role, call


def _function(deployed: Deployed, name: str, properties: Properties) -> RoleCalls:
    group = properties.get("LoggingConfig", {}).get("LogGroup", f"/aws/lambda/{name}")
    calls = _calls("logs", ("CreateLogStream", "PutLogEvents"), deployed.log(group))
    if "VpcConfig" in properties:
        calls += _calls("ec2", NETWORK)
    if properties.get("TracingConfig", {}).get("Mode") == "Active":
        calls += _calls("xray", TRACES)
    for call in calls:
        yield properties["Role"], call


def _event_source(deployed: Deployed, _name: str, properties: Properties) -> RoleCalls:
    function = deployed.of("AWS::Lambda::Function")[properties["FunctionName"]]
    for call in _calls("sqs", POLL_QUEUE, properties["EventSourceArn"]):
        yield function["Role"], call


def _machine(_deployed: Deployed, _name: str, properties: Properties) -> RoleCalls:
    calls: list[Call] = []
    if "LoggingConfiguration" in properties:
        calls += _calls("logs", LOG_DELIVERY)
    if properties.get("TracingConfiguration", {}).get("Enabled"):
        calls += _calls("xray", TRACES + SAMPLING)
    for call in calls:
        yield properties["RoleArn"], call


def _stream(deployed: Deployed, _name: str, properties: Properties) -> RoleCalls:
    destination = properties["ExtendedS3DestinationConfiguration"]
    bucket, log = destination["BucketARN"], destination["CloudWatchLoggingOptions"]
    calls = _calls("s3", ("GetBucketLocation", "ListBucket", "ListBucketMultipartUploads"), bucket)
    for prefix in (destination["Prefix"], destination["ErrorOutputPrefix"]):
        calls += _calls("s3", ("PutObject", "AbortMultipartUpload"), f"{bucket}/{prefix}{A_NAME}")
    for call in (*calls, Call("logs:PutLogEvents", deployed.log(log["LogGroupName"]))):
        yield destination["RoleARN"], call


def _schedule(_deployed: Deployed, _name: str, properties: Properties) -> RoleCalls:
    target = properties["Target"]
    yield target["RoleArn"], Call("states:StartExecution", target["Arn"])
    yield target["RoleArn"], Call("sqs:SendMessage", target["DeadLetterConfig"]["Arn"])


def _rule(_deployed: Deployed, _name: str, properties: Properties) -> RoleCalls:
    for target in properties["Targets"]:
        if "RoleArn" in target:
            yield target["RoleArn"], Call("states:StartExecution", target["Arn"])


def _flow_log(deployed: Deployed, _name: str, properties: Properties) -> RoleCalls:
    for call in _calls("logs", ("CreateLogStream", "PutLogEvents", "DescribeLogStreams"), deployed.log(properties["LogGroupName"])):
        yield properties["DeliverLogsPermissionArn"], call


def _model(deployed: Deployed, _name: str, properties: Properties) -> RoleCalls:
    container, role = properties["PrimaryContainer"], properties["ExecutionRoleArn"]
    archive = container["ModelDataUrl"].removeprefix("s3://")
    yield role, Call("s3:GetObject", f"arn:{PARTITION}:s3:::{archive}")
    for endpoint in deployed.of("AWS::SageMaker::Endpoint"):
        for call in deployed.container(container["Image"], ENDPOINT_LOGS + endpoint, WRITE_LOG):
            yield role, call
    for config in deployed.of("AWS::SageMaker::EndpointConfig").values():
        if "DataCaptureConfig" in config:
            captures = config["DataCaptureConfig"]["DestinationS3Uri"].removeprefix("s3://")
            yield role, Call("s3:PutObject", f"arn:{PARTITION}:s3:::{captures}/{A_NAME}")


BY_RESOURCE: Mapping[str, Callable[[Deployed, str, Properties], RoleCalls]] = {
    "AWS::Lambda::Function": _function,
    "AWS::Lambda::EventSourceMapping": _event_source,
    "AWS::StepFunctions::StateMachine": _machine,
    "AWS::KinesisFirehose::DeliveryStream": _stream,
    "AWS::Scheduler::Schedule": _schedule,
    "AWS::Events::Rule": _rule,
    "AWS::EC2::FlowLog": _flow_log,
    "AWS::SageMaker::Model": _model,
}
