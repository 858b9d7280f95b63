"""The role of a Lambda in the network: it allows logs, traces and a network interface; other constructs add grants."""

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


class FunctionRole(iam.Role):
    """The execution role of one Lambda in the network. It is narrower than AWS's managed policies, which allow all log groups.

    Attributes:
        log_group: the only log group that the function may write to.
    """

    def __init__(self, scope: Construct, id: str, *, log_group: logs.ILogGroup) -> None:
        super().__init__(scope, id, assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        self.log_group = log_group
        log_group.grant_write(self)
        self.add_to_policy(iam.PolicyStatement(actions=NETWORK_ACTIONS + TRACE_ACTIONS, resources=["*"]))
        acknowledge(self, {"IAM5[Resource::*]": UNNAMED})
