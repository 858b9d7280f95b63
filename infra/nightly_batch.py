"""The nightly run: schedules, rules for arriving files, the two state machines of nightly_states.py, the topic of notices."""

from aws_cdk import Aws, Duration, Fn, IgnoreMode
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as assets
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.bulk_indexer import indexer_arn
from infra.embedding_job import JobSize, Places
from infra.item_store import ItemStore
from infra.machine_roles import job_role, release_role, training_role
from infra.nightly_states import MARKER, embed_day, find_day
from infra.python_asset import ROOT, job_packages
from infra.query_snapshot import snapshot_arn
from infra.stage import Stage
from infra.state_machine import state_machine

JOB_SOURCES = ["/*", "!/retrieval", "!/catalog", "!/models", "!/processing", "__pycache__"]  # leaves out all other folders
# EventBridge's patterns have only one wildcard, for any number of characters, and refuse too many of them. So these patterns
# match other files, too; FindDay sorts these out
ARRIVALS = ("20*.parquet", f"20*/{MARKER}")
ATTEMPTS, PATIENCE = 10, Duration.hours(1)  # limits for starting FindDay; a start beyond them becomes a dead letter


class NightlyBatch(Construct):
    """The nightly run.

    Attributes:
        notices: topic for the results of nights and for alarms.
        places: resources that the machines use.
        find_day: state machine that a schedule or an arriving file starts.
        embed_day: state machine that embeds a day's items, one execution per date.
        training_role: role of training jobs, which are started by hand.
        dead_letters: queue of starts that could not be delivered.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage, store: ItemStore) -> None:
        super().__init__(scope, id)
        self._stage, self._store = stage, store
        self.notices = self._notices()
        self.places = self._places()
        size = JobSize(stage.instance_ladder, stage.instance_count, stage.embedding_hours)
        role = release_role(self, "EmbedDayRole", store, self.places)
        self.embed_day = state_machine(self, "EmbedDay", stage, embed_day(self.places, size), role)
        definition = find_day(self.places, self.embed_day.state_machine_arn)
        self.find_day = state_machine(self, "FindDay", stage, definition, self._starter_role())
        self.dead_letters = sqs.Queue(
            self,
            "DeadLetters",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        acknowledge(self.dead_letters, {"SQS3": "This queue is the dead-letter queue of the schedules and of arrivals."})
        self._schedule()
        self._watch_arrivals()

    def _notices(self) -> sns.Topic:
        """Create the topic of notices. Its policy allows the account's alarms, because the TLS policy replaces the default."""
        topic = sns.Topic(self, "Notices", display_name=f"Gavel {self._stage.name}", enforce_ssl=True)
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal(name) for name in ("cloudwatch.amazonaws.com", "budgets.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )
        if self._stage.alarm_email:
            topic.add_subscription(subscriptions.EmailSubscription(self._stage.alarm_email))
        return topic

    def _places(self) -> Places:
        store, stage = self._store, self._stage
        code = assets.Asset(self, "Code", path=str(ROOT), exclude=JOB_SOURCES, ignore_mode=IgnoreMode.GIT)
        packages = job_packages(self)
        self.training_role = training_role(self, stage, store, [code, packages])
        return Places(
            new_items=store.new_items.bucket_name,
            embeddings=store.embeddings.bucket_name,
            towers=store.towers.bucket_name,
            releases=store.releases.bucket_name,
            code_uri=code.s3_object_url,
            packages_uri=packages.s3_object_url,
            job_role_arn=job_role(self, stage, store, [code, packages]).role_arn,
            image=Fn.sub(stage.processing_image),
            isolated=stage.isolate_job,
            indexer_arn=indexer_arn(self, stage),
            snapshot_arn=snapshot_arn(self, stage),
            notices_arn=self.notices.topic_arn,
            partition=Aws.PARTITION,
            reading=stage.item_file_variables,
        )

    def _starter_role(self) -> iam.Role:
        role = iam.Role(self, "FindDayRole", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
        machine, items = self.embed_day.state_machine_arn, self._store.new_items.bucket_arn
        role.add_to_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=[items]))
        role.add_to_policy(iam.PolicyStatement(actions=["states:StartExecution"], resources=[machine]))
        role.add_to_policy(iam.PolicyStatement(actions=["sns:Publish"], resources=[self.notices.topic_arn]))
        return role

    def _schedule(self) -> None:
        """Add the schedules that start FindDay. A start that cannot be delivered within PATIENCE becomes a dead letter."""
        role = iam.Role(
            self,
            "ScheduleRole",
            assumed_by=iam.ServicePrincipal(
                "scheduler.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
            ),
        )
        self.find_day.grant_start_execution(role)
        self.dead_letters.grant_send_messages(role)
        for number, expression in enumerate(self._stage.schedules):
            scheduler.CfnSchedule(
                self,
                f"Schedule{number}",
                description="Look for the day's items and embed them",
                schedule_expression=expression,
                schedule_expression_timezone=self._stage.schedule_timezone,
                flexible_time_window={"mode": "OFF"},
                target={
                    "arn": self.find_day.state_machine_arn,
                    "roleArn": role.role_arn,
                    "input": '{"scheduled_time":"<aws.scheduler.scheduled-time>"}',
                    "retryPolicy": {"maximumRetryAttempts": ATTEMPTS, "maximumEventAgeInSeconds": PATIENCE.to_seconds()},
                    "deadLetterConfig": {"arn": self.dead_letters.queue_arn},
                },
            )

    def _watch_arrivals(self) -> None:
        """Add the rule that starts FindDay when the file, or the marker, of a day arrives."""
        events.Rule(
            self,
            "Arrivals",
            description="A day's items arrived",
            event_pattern=events.EventPattern(
                source=["aws.s3"],
                detail_type=["Object Created"],
                detail={
                    "bucket": {"name": [self._store.new_items.bucket_name]},
                    "object": {"key": [{"wildcard": pattern} for pattern in ARRIVALS]},
                },
            ),
            targets=[
                targets.SfnStateMachine(
                    self.find_day,
                    input=events.RuleTargetInput.from_object(
                        {"key": events.EventField.from_path("$.detail.object.key"), "time": events.EventField.time}
                    ),
                    dead_letter_queue=self.dead_letters,
                    retry_attempts=ATTEMPTS,
                    max_event_age=PATIENCE,
                )
            ],
        )
