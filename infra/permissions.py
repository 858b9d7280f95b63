"""Permissions that reach below a resource, each with its reason: cdk-nag lets none through without one."""

from collections.abc import Sequence

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.acknowledgements import acknowledge


def allow_below(role: iam.Role, actions: Sequence[str], owner: Construct, arn: str, below: str, reason: str) -> None:
    """Allow a role actions on what lies below a resource, such as the objects of a bucket.

    Args:
        role: who may.
        actions: what.
        owner: the resource, in the stack of the role or another one.
        arn: its ARN.
        below: pattern after the ARN, such as "/*".
        reason: why the pattern is as wide as it is.
    """
    role.add_to_principal_policy(iam.PolicyStatement(actions=list(actions), resources=[arn + below]))
    acknowledge(role, {f"IAM5[Resource::{_shown(role, owner, arn)}{below}]": reason})


def _shown(role: Construct, owner: Construct, arn: str) -> str:
    """The ARN as cdk-nag shows it: the attribute of a resource, or the export of another stack."""
    stack = Stack.of(owner)
    if stack is Stack.of(role) or stack.node.path == Stack.of(role).node.path:
        logical_id, attribute = stack.resolve(arn)["Fn::GetAtt"]
        return f"<{logical_id}.{attribute}>"
    return str(stack.resolve(stack.export_value(arn))["Fn::ImportValue"])
