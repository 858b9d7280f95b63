"""The role of a Lambda: it allows logs, traces and, in the network, a network interface; other constructs add grants."""

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.acknowledgements import acknowledge

NETWORK_ACTIONS = [
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
]
TRACE_ACTIONS = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
UNNAMED = (
    "EC2 and X-Ray take no resource for these actions: a network interface has no name before it is made, a trace none at all."
)


def function_arn(scope: Construct, name: str) -> str:
    """Build the ARN of a function from its name, for another stack, which a reference would bind to the function's stack."""
    return Stack.of(scope).format_arn(
        service="lambda", resource="function", resource_name=name, arn_format=ArnFormat.COLON_RESOURCE_NAME
    )


class FunctionRole(iam.Role):
    """The execution role of one Lambda. It is narrower than AWS's managed policies, which allow all log groups.

    Attributes:
        log_group: the only log group that the function may write to.
    """

    def __init__(self, scope: Construct, id: str, *, log_group: logs.ILogGroup, in_network: bool = True) -> None:
        super().__init__(scope, id, assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        self.log_group = log_group
        log_group.grant_write(self)
        actions = [*(NETWORK_ACTIONS if in_network else []), *TRACE_ACTIONS]
        self.add_to_policy(iam.PolicyStatement(actions=actions, resources=["*"]))
        acknowledge(self, {"IAM5[Resource::*]": UNNAMED})
