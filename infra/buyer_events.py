"""The DynamoDB table of recent interactions, which the query function reads for searches with a buyer_id."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.removal import removal_policy
from infra.stage import Stage

RECOVERY_DAYS = 7  # for this long the table can be restored to any moment, and the backup holds an erased buyer
READ_AND_WRITE = ["dynamodb:Query", "dynamodb:BatchWriteItem"]


class BuyerEvents(Construct):
    """An on-demand table of interactions by buyer and time; items expire (retrieval/buyers/dynamodb_history.py).

    DynamoDB encrypts every table; the key is AWS's own, as for the delivery stream.

    Attributes:
        table: the DynamoDB table.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage) -> None:
        super().__init__(scope, id)
        text = dynamodb.AttributeType.STRING
        self.table = dynamodb.Table(
            self,
            "Table",
            partition_key=dynamodb.Attribute(name="buyer_id", type=text),
            sort_key=dynamodb.Attribute(name="act", type=text),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            time_to_live_attribute="expires_at",
            deletion_protection=stage.protect,
            removal_policy=removal_policy(stage),
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=stage.retain_data,
                recovery_period_in_days=RECOVERY_DAYS if stage.retain_data else None,
            ),
        )
        if not stage.retain_data:
            acknowledge(self.table, {"DDB3": "A development stage keeps nothing: its buyers' acts need no way back."})

    def allow_use(self, role: iam.Role) -> None:
        """Allow a role to query, write and erase the interactions of buyers in this table, without scans."""
        role.add_to_principal_policy(iam.PolicyStatement(actions=READ_AND_WRITE, resources=[self.table.table_arn]))

    def throttles(self, period: Duration) -> cloudwatch.MathExpression:
        """Return the metric of reads and writes that DynamoDB refused because there were too many."""
        kinds = {"reads": "ReadThrottleEvents", "writes": "WriteThrottleEvents"}
        return cloudwatch.MathExpression(
            expression="FILL(reads, 0) + FILL(writes, 0)",
            using_metrics={name: self.table.metric(kind, statistic="sum", period=period) for name, kind in kinds.items()},
            period=period,
            label="throttled requests",
        )
