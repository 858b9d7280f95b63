"""Outputs of a stack for `gavel aws` and people. Names of outputs do not depend on CloudFormation's names of resources."""

from aws_cdk import CfnOutput, Stack


def publish(stack: Stack, **outputs: str) -> None:
    """Add outputs to a stack.

    Args:
        stack: stack that gets the outputs.
        outputs: name -> value; the name becomes the output's logical id.
    """
    for name, value in outputs.items():
        CfnOutput(stack, f"{name}Output", value=value).override_logical_id(name)
