"""Outputs of a stack for `gavel aws` and people; their names do not depend on CloudFormation's names of resources."""

from aws_cdk import CfnOutput, Stack


def publish(stack: Stack, **outputs: str) -> None:
    """Give a stack outputs.

    Args:
        stack: the stack.
        outputs: name -> value; the name is the output's logical id.
    """
    for name, value in outputs.items():
        CfnOutput(stack, f"{name}Output", value=value).override_logical_id(name)
