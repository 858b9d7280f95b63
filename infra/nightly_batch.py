"""Every night: a schedule, two state machines (nightly_states.py), and what the embedding job may touch."""

from aws_cdk import ArnFormat, Aws, Duration, Fn, IgnoreMode, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as assets
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as stepfunctions
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.bulk_indexer import RECEIPTS
from infra.embedding_job import Places, State
from infra.item_store import ItemStore
from infra.log_group import log_group
from infra.nightly_states import CURRENT_TOWER, embed_day, find_day
from infra.permissions import allow_below
from infra.python_asset import ROOT
from infra.stage import Stage

JOB_SOURCES = ["/*", "!/retrieval", "!/catalog", "!/models", "!/processing", "__pycache__"]  # all is left out but these rooms
JOBS = "gavel-*"
CATALOGS = "catalogs"  # in the new-items bucket, what `gavel aws train` puts there
HERE = "arn:<AWS::Partition>:{}:<AWS::Region>"  # as cdk-nag shows it
DELIVERY = "CloudWatch Logs and X-Ray take no resource for log deliveries and traces."
NAMED = "Job names are made by the night: gavel-<date>-<uuid>."


class NightlyBatch(Construct):
    """The nightly run.

    Attributes:
        notices: topic that is told how each night went, and of alarms.
        find_day: the machine that a schedule starts.
        embed_day: the machine that does the work, one execution a date.
        places: what the machines work with.
        training_role: what a training job that is started by hand runs as.
        dead_letters: starts that the scheduler could not deliver.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage, store: ItemStore) -> None:
        super().__init__(scope, id)
        self._stage, self._store = stage, store
        self.notices = self._notices()
        self._code = assets.Asset(self, "Code", path=str(ROOT), exclude=JOB_SOURCES, ignore_mode=IgnoreMode.GIT)
        self._job = self._job_role()
        self.training_role = self._training_role()
        self.places = places = self._places()
        definition = embed_day(places, stage.instance_ladder, stage.instance_count, stage.embedding_hours)
        self.embed_day = self._machine("EmbedDay", definition, self._embed_day_role())
        starter = self._starter_role()
        self.find_day = self._machine("FindDay", find_day(places, self.embed_day.state_machine_arn), starter)
        self.dead_letters = sqs.Queue(
            self,
            "DeadLetters",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        acknowledge(self.dead_letters, {"SQS3": "This queue is the dead-letter queue of the schedules."})
        self._schedule()

    def _notices(self) -> sns.Topic:
        """The topic; a policy that asks for TLS takes the place of the one that lets the account's alarms in."""
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
        store = self._store
        return Places(
            new_items=store.new_items.bucket_name,
            embeddings=store.embeddings.bucket_name,
            towers=store.towers.bucket_name,
            releases=store.releases.bucket_name,
            code_uri=self._code.s3_object_url,
            job_role_arn=self._job.role_arn,
            image=Fn.sub(self._stage.processing_image),
            notices_arn=self.notices.topic_arn,
            partition=Aws.PARTITION,
        )

    def _machine(self, id: str, definition: State, role: iam.Role) -> stepfunctions.StateMachine:
        machine = stepfunctions.StateMachine(
            self,
            id,
            definition_body=stepfunctions.DefinitionBody.from_string(Stack.of(self).to_json_string(definition)),
            role=role,
            tracing_enabled=True,
            logs=stepfunctions.LogOptions(
                destination=log_group(self, f"{id}Logs", self._stage, f"/aws/vendedlogs/states/gavel-{self._stage.name}-{id}"),
                level=stepfunctions.LogLevel.ALL,
                include_execution_data=True,
            ),
        )
        acknowledge(role, {"IAM5[Resource::*]": DELIVERY})
        return machine

    def _job_role(self) -> iam.Role:
        """The embedding job: reads items, tower and code, writes releases and its log."""
        role = iam.Role(self, "JobRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        store = self._store
        for bucket in (store.new_items, store.towers):
            allow_below(
                role, ["s3:GetObject"], bucket, bucket.bucket_arn, "/*", "The files of the day and of the tower, to read alone."
            )
        allow_below(
            role,
            ["s3:PutObject"],
            store.embeddings,
            store.embeddings.bucket_arn,
            "/*",
            "The parts of a release, whose name is new every night.",
        )
        buckets = [store.new_items.bucket_arn, store.towers.bucket_arn, store.embeddings.bucket_arn, self._code.bucket.bucket_arn]
        role.add_to_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=buckets))
        code = self._code.bucket.arn_for_objects(self._code.s3_object_key)
        role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[code]))
        self._allow_container(role)
        return role

    def _training_role(self) -> iam.Role:
        """A training job: reads catalogues, towers and code, writes towers and its log; the night's job may not write towers."""
        role = iam.Role(self, "TrainingRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        items, towers, code = self._store.new_items, self._store.towers, self._code
        allow_below(
            role, ["s3:GetObject"], items, items.bucket_arn, f"/{CATALOGS}/*", "The catalogues that were put up to train on."
        )
        allow_below(
            role, ["s3:GetObject", "s3:PutObject"], towers, towers.bucket_arn, "/*", "A tower's folder is named when it is trained."
        )
        listed = [items.bucket_arn, towers.bucket_arn, code.bucket.bucket_arn]
        role.add_to_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=listed))
        source = code.bucket.arn_for_objects(code.s3_object_key)
        role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[source]))
        self._allow_container(role)
        return role

    def _allow_container(self, role: iam.Role) -> None:
        """Pull the image, write logs and measures."""
        stack = Stack.of(self)
        account = self._stage.processing_image.partition(".")[0]  # of AWS's own containers, or yours
        group = "log-group:/aws/sagemaker/ProcessingJobs*"
        logs = stack.format_arn(service="logs", resource=group, arn_format=ArnFormat.NO_RESOURCE_NAME)
        images = f"arn:{Aws.PARTITION}:ecr:{Aws.REGION}:{account}:repository/*"
        pull = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"]
        write = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
        role.add_to_policy(iam.PolicyStatement(actions=pull, resources=[images]))
        role.add_to_policy(iam.PolicyStatement(actions=["ecr:GetAuthorizationToken"], resources=["*"]))
        role.add_to_policy(iam.PolicyStatement(actions=write, resources=[logs]))
        acknowledge(
            role,
            {
                "IAM5[Resource::*]": "A registry's token is for the registry; ECR takes no resource for it.",
                f"IAM5[Resource::{HERE.format('ecr')}:{account}:repository/*]": "The images of that account, to read alone.",
                f"IAM5[Resource::{HERE.format('logs')}:<AWS::AccountId>:{group}]": "SageMaker names the log streams of a job.",
            },
        )

    def _embed_day_role(self) -> iam.Role:
        role = iam.Role(self, "EmbedDayRole", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
        store, stack = self._store, Stack.of(self)
        embeddings = store.embeddings
        current = store.towers.arn_for_objects(CURRENT_TOWER)
        role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[current]))
        listed = [store.towers.bucket_arn, embeddings.bucket_arn]  # without it a missing object reads as a refusal
        role.add_to_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=listed))
        allow_below(role, ["s3:GetObject"], embeddings, embeddings.bucket_arn, "/*", "Manifests and receipts of every release.")
        allow_below(
            role,
            ["s3:DeleteObject"],
            embeddings,
            embeddings.bucket_arn,
            f"/*/{RECEIPTS}",
            "The receipts of releases alone, one for each.",
        )
        allow_below(
            role, ["s3:PutObject"], store.releases, store.releases.bucket_arn, "/*", "The record of each night, named by its date."
        )
        jobs = stack.format_arn(service="sagemaker", resource="processing-job", resource_name=JOBS)
        actions = ["sagemaker:CreateProcessingJob", "sagemaker:DescribeProcessingJob", "sagemaker:StopProcessingJob"]
        role.add_to_policy(iam.PolicyStatement(actions=actions, resources=[jobs]))
        acknowledge(role, {f"IAM5[Resource::{HERE.format('sagemaker')}:<AWS::AccountId>:processing-job/{JOBS}]": NAMED})
        watched = stack.format_arn(
            service="events", resource="rule", resource_name="StepFunctionsGetEventsForSageMakerProcessingJobsRule"
        )
        watch = ["events:PutTargets", "events:PutRule", "events:DescribeRule"]
        role.add_to_policy(iam.PolicyStatement(actions=watch, resources=[watched]))
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["iam:PassRole"],
                resources=[self._job.role_arn],
                conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
            )
        )
        role.add_to_policy(iam.PolicyStatement(actions=["sns:Publish"], resources=[self.notices.topic_arn]))
        return role

    def _starter_role(self) -> iam.Role:
        role = iam.Role(self, "FindDayRole", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
        machine, items = self.embed_day.state_machine_arn, self._store.new_items.bucket_arn
        role.add_to_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=[items]))
        role.add_to_policy(iam.PolicyStatement(actions=["states:StartExecution"], resources=[machine]))
        role.add_to_policy(iam.PolicyStatement(actions=["sns:Publish"], resources=[self.notices.topic_arn]))
        return role

    def _schedule(self) -> None:
        """Start the first machine; what cannot be delivered in an hour lies with the dead letters."""
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
                    "retryPolicy": {"maximumRetryAttempts": 10, "maximumEventAgeInSeconds": 3600},
                    "deadLetterConfig": {"arn": self.dead_letters.queue_arn},
                },
            )
