"""What `gavel aws` and people look up in a stack: outputs whose names stay the same whatever CloudFormation calls the resource."""

from aws_cdk import CfnOutput, Stack


def publish(stack: Stack, **outputs: str) -> None:
    """Give a stack outputs.

    Args:
        stack: the stack.
        outputs: name -> value; the name is the output's logical id.
    """
    for name, value in outputs.items():
        CfnOutput(stack, f"{name}Output", value=value).override_logical_id(name)
