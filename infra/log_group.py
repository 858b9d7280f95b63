"""Log groups with the retention of the stage."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.stage import Stage


def log_group(scope: Construct, id: str, stage: Stage, name: str | None = None) -> logs.LogGroup:
    """Make a log group with the retention of the stage.

    Args:
        scope: what holds it.
        id: its name in the scope.
        stage: says for how many days.
        name: its name in CloudWatch, for services that insist on one; None lets CloudFormation choose.
    """
    try:
        days = logs.RetentionDays[DAYS[stage.log_retention_days]]
    except KeyError:
        raise ValueError(
            f"cdk.json: stages.{stage.name}.log_retention_days is {stage.log_retention_days}; "
            f"CloudWatch allows {', '.join(map(str, DAYS))}"
        ) from None
    removal = RemovalPolicy.RETAIN if stage.retain_data else RemovalPolicy.DESTROY
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
