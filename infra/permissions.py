"""Permissions below a resource, each with its reason, because cdk-nag demands a reason for every wildcard."""

from collections.abc import Sequence

from aws_cdk import ArnFormat, Aws, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.acknowledgements import acknowledge

HERE = "arn:<AWS::Partition>:{}:<AWS::Region>"  # the form in which cdk-nag shows it
PULL_IMAGE = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"]
WRITE_LOG = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]


def allow_container(role: iam.Role, image: str, logs: str, write: Sequence[str] = WRITE_LOG) -> None:
    """Allow a role of SageMaker to pull its container's image and to write its log.

    Args:
        role: role that gets the permissions.
        image: container image URI; the account in it is AWS's own, or yours.
        logs: pattern of the log groups, such as "log-group:/aws/sagemaker/ProcessingJobs*".
        write: allowed actions on the log groups.
    """
    account = image.partition(".")[0]
    group = Stack.of(role).format_arn(service="logs", resource=logs, arn_format=ArnFormat.NO_RESOURCE_NAME)
    images = f"arn:{Aws.PARTITION}:ecr:{Aws.REGION}:{account}:repository/*"
    for actions, resource in ((PULL_IMAGE, images), (["ecr:GetAuthorizationToken"], "*"), (list(write), group)):
        role.add_to_policy(iam.PolicyStatement(actions=actions, resources=[resource]))
    acknowledge(
        role,
        {
            "IAM5[Resource::*]": "A registry's token is for the registry; ECR takes no resource for it.",
            f"IAM5[Resource::{HERE.format('ecr')}:{account}:repository/*]": "The images of that account, to read alone.",
            f"IAM5[Resource::{HERE.format('logs')}:<AWS::AccountId>:{logs}]": "SageMaker names the log streams.",
        },
    )


def allow_below(role: iam.Role, actions: Sequence[str], owner: Construct, arn: str, below: str, reason: str) -> None:
    """Allow a role actions below a resource, such as on the objects of a bucket.

    Args:
        role: role that gets the permissions.
        actions: allowed actions.
        owner: resource, in the stack of the role or in another stack.
        arn: ARN of the resource.
        below: pattern after the ARN, such as "/*".
        reason: reason why the pattern is as wide as it is.
    """
    role.add_to_principal_policy(iam.PolicyStatement(actions=list(actions), resources=[arn + below]))
    acknowledge(role, {f"IAM5[Resource::{_shown(role, owner, arn)}{below}]": reason})


def _shown(role: Construct, owner: Construct, arn: str) -> str:
    """Return an ARN in the form in which cdk-nag shows it: the attribute of a resource, or the export of another stack."""
    stack = Stack.of(owner)
    if stack is Stack.of(role) or stack.node.path == Stack.of(role).node.path:
        logical_id, attribute = stack.resolve(arn)["Fn::GetAtt"]
        return f"<{logical_id}.{attribute}>"
    return str(stack.resolve(stack.export_value(arn))["Fn::ImportValue"])
