"""The Firehose delivery stream that writes buyers' events from the query Lambda into a bucket."""

from aws_cdk import Aws, Duration, RemovalPolicy
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.item_store import ItemStore
from infra.log_group import log_group
from infra.permissions import allow_below
from infra.stage import Stage

BUFFER_S, BUFFER_MIB = 300, 5  # an object ends when either limit is reached
PREFIX = "events/"
DAY = "!{timestamp:yyyy/MM/dd}/"  # UTC date at which the first record of an object arrived
ERROR_PREFIX = "errors/"


class EventStream(Construct):
    """A delivery stream into the bucket of events: gzip files, one prefix per day.

    If S3 refuses a write, Firehose retries for 24 hours and then loses the records. An alarm must ring before
    (infra/monitoring.py).

    Attributes:
        name: name of the stream.
        stream: the delivery stream.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage, store: ItemStore) -> None:
        super().__init__(scope, id)
        self.name = f"gavel-{stage.name}-events"
        group = log_group(self, "Logs", stage)
        deliveries = logs.LogStream(
            self, "LogStream", log_group=group, log_stream_name="delivery", removal_policy=RemovalPolicy.DESTROY
        )
        role = self._role(store, group)
        self.stream = firehose.CfnDeliveryStream(
            self,
            "Stream",
            delivery_stream_name=self.name,
            delivery_stream_type="DirectPut",
            delivery_stream_encryption_configuration_input={"keyType": "AWS_OWNED_CMK"},
            extended_s3_destination_configuration=firehose.CfnDeliveryStream.ExtendedS3DestinationConfigurationProperty(
                bucket_arn=store.events.bucket_arn,
                role_arn=role.role_arn,
                prefix=PREFIX + DAY,
                error_output_prefix=f"{ERROR_PREFIX}!{{firehose:error-output-type}}/{DAY}",
                file_extension=".ndjson.gz",
                compression_format="GZIP",
                buffering_hints={"intervalInSeconds": BUFFER_S, "sizeInMBs": BUFFER_MIB},
                cloud_watch_logging_options={
                    "enabled": True,
                    "logGroupName": group.log_group_name,
                    "logStreamName": deliveries.log_stream_name,
                },
            ),
        )
        self.stream.node.add_dependency(role)  # so that the first delivery is already allowed

    def allow_put(self, role: iam.Role) -> None:
        """Allow a role to send records, and nothing else."""
        role.add_to_principal_policy(iam.PolicyStatement(actions=["firehose:PutRecordBatch"], resources=[self.stream.attr_arn]))

    def age(self, period: Duration) -> cloudwatch.Metric:
        """Return the metric of the age in seconds of the oldest record that is not written yet."""
        return cloudwatch.Metric(
            namespace="AWS/Firehose",
            metric_name="DeliveryToS3.DataFreshness",
            dimensions_map={"DeliveryStreamName": self.name},
            statistic="max",
            period=period,
        )

    def _role(self, store: ItemStore, group: logs.ILogGroup) -> iam.Role:
        """Create the role of the stream, which may write events, undelivered records and the log of deliveries."""
        own = {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("firehose.amazonaws.com", conditions=own))
        bucket = store.events
        look = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
        role.add_to_policy(iam.PolicyStatement(actions=look, resources=[bucket.bucket_arn]))
        for prefix in (PREFIX, ERROR_PREFIX):
            write = ["s3:PutObject", "s3:AbortMultipartUpload"]
            allow_below(role, write, bucket, bucket.bucket_arn, f"/{prefix}*", "Firehose names its objects by time.")
        group.grant(role, "logs:PutLogEvents")
        return role
