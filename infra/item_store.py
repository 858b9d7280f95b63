"""The buckets of Gavel, and the queue of S3 events about new parts and manifests."""

from aws_cdk import Aws, Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.queues import queue_pair
from infra.removal import removal_policy
from infra.stage import Stage

INDEXED_SUFFIXES = (".ndjson.gz", ".json")  # parts and manifests; rejects.ndjson is only for people
INDEXER_TIMEOUT = Duration.minutes(2)  # time for one part, which has 5,000 lots (processing/embedding/plan.py)
VISIBILITY = Duration.minutes(3)  # then a manifest that arrived before its parts is delivered again
DELIVERIES = 20  # of one message before it becomes a dead letter; a manifest may wait an hour for its last part


class ItemStore(Construct):
    """Buckets of lots, embeddings, towers and records of releases.

    The queue is in the stack of its bucket, so that no part is lost while the serving stack is replaced.

    Attributes:
        new_items: bucket of photos and of each day's items: `2026-11-21.parquet`, or several files below `2026-11-21/`.
        embeddings: bucket of releases: parts and manifests below `<release_id>/`.
        towers: bucket of towers below `<tower_id>/`, re-rankers below `rerankers/`, and `current.json`, which names the tower of
            the nightly run.
        releases: bucket of the results of nightly runs, `<date>.json`, and of rebuilds, `<release_id>.json`.
        events: bucket of buyers' interactions with lists, below `events/<year>/<month>/<day>/`.
        access_logs: bucket of the other buckets' access logs.
        arrivals: queue of S3 events about parts and manifests.
        dead_letters: queue of the events that failed DELIVERIES times.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage) -> None:
        super().__init__(scope, id)
        self._stage = stage
        self.access_logs = self._bucket("AccessLogs", logged=False, expires=True)
        self.new_items = self._bucket("NewItems", expires=True)
        self.embeddings = self._bucket("Embeddings", expires=True)
        self.towers = self._bucket("Towers")
        self.releases = self._bucket("Releases")
        self.events = self._bucket("Events", expires=True)
        self.arrivals, self.dead_letters = queue_pair(
            self, ("Arrivals", "DeadLetters"), stage=stage, visibility_timeout=VISIBILITY, deliveries=DELIVERIES
        )
        self._announce_arrivals()
        self._tell_eventbridge()

    def _bucket(self, id: str, *, logged: bool = True, expires: bool = False) -> s3.Bucket:
        days = Duration.days(self._stage.expiry_days)
        bucket = s3.Bucket(
            self,
            id,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            versioned=True,
            removal_policy=removal_policy(self._stage),
            server_access_logs_bucket=self.access_logs if logged else None,
            server_access_logs_prefix=f"{id}/" if logged else None,
            lifecycle_rules=[
                s3.LifecycleRule(
                    expiration=days if expires else None,
                    noncurrent_version_expiration=days,
                    abort_incomplete_multipart_upload_after=Duration.days(7),
                )
            ],
        )
        if not logged:
            acknowledge(bucket, {"S1": "This bucket receives the access logs; logging it into itself would never end."})
        return bucket

    def _announce_arrivals(self) -> None:
        """Let S3 notify the queue of new objects.

        The notification is set on the bucket resource itself, because Bucket.add_event_notification() would add a Lambda that may
        change every bucket's notifications. The queue's policy names the account, not the bucket, because the bucket is created
        after the queue.
        """
        self.arrivals.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("s3.amazonaws.com")],
                actions=["sqs:SendMessage"],
                resources=[self.arrivals.queue_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )
        bucket = self.embeddings.node.default_child
        assert isinstance(bucket, s3.CfnBucket)
        bucket.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            queue_configurations=[
                s3.CfnBucket.QueueConfigurationProperty(
                    event="s3:ObjectCreated:*",
                    queue=self.arrivals.queue_arn,
                    filter=s3.CfnBucket.NotificationFilterProperty(
                        s3_key=s3.CfnBucket.S3KeyFilterProperty(
                            rules=[s3.CfnBucket.FilterRuleProperty(name="suffix", value=suffix)]
                        )
                    ),
                )
                for suffix in INDEXED_SUFFIXES
            ]
        )
        bucket.node.add_dependency(self.arrivals)  # S3 tests the queue when the notification is set

    def _tell_eventbridge(self) -> None:
        """Let S3 notify EventBridge of new items; set on the bucket itself for the reason in _announce_arrivals()."""
        bucket = self.new_items.node.default_child
        assert isinstance(bucket, s3.CfnBucket)
        bucket.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
        )
