"""The removal policy of resources with data."""

from aws_cdk import RemovalPolicy

from infra.stage import Stage


def removal_policy(stage: Stage) -> RemovalPolicy:
    """Return the policy of resources with data. Retained ones outlive updates and deletions, but not a creation that fails.

    What a failed creation kept would stand in the way of the next one. Retained resources have no fixed names for the same reason.
    """
    return RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if stage.retain_data else RemovalPolicy.DESTROY
