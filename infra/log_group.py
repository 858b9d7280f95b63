"""Log groups with the retention of the stage."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.removal import removal_policy
from infra.stage import Stage


def log_group(scope: Construct, id: str, stage: Stage, name: str | None = None) -> logs.LogGroup:
    """Create a log group with the retention of the stage.

    Args:
        scope: construct that holds the log group.
        id: id of the log group in the scope.
        stage: stage whose log_retention_days and retain_data are read.
        name: name in CloudWatch, for services that need a certain prefix; None lets CloudFormation choose.

    Raises:
        ValueError: CloudWatch does not allow this number of days.
    """
    try:
        days = logs.RetentionDays[DAYS[stage.log_retention_days]]
    except KeyError:
        raise ValueError(
            f"cdk.json: stages.{stage.name}.log_retention_days is {stage.log_retention_days}; "
            f"CloudWatch allows {', '.join(map(str, DAYS))}"
        ) from None
    removal = removal_policy(stage) if name is None else RemovalPolicy.DESTROY  # the next deployment needs the name
    return logs.LogGroup(scope, id, log_group_name=name, retention=days, removal_policy=removal)


DAYS = {
    1: "ONE_DAY",
    7: "ONE_WEEK",
    14: "TWO_WEEKS",
    30: "ONE_MONTH",
    90: "THREE_MONTHS",
    180: "SIX_MONTHS",
    365: "ONE_YEAR",
}
