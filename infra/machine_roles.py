"""Roles of the jobs and of their state machines."""

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.bulk_indexer import RECEIPTS
from infra.embedding_job import Places
from infra.item_store import ItemStore
from infra.nightly_states import CURRENT_TOWER
from infra.permissions import HERE, WRITE_LOG, allow_below, allow_container
from infra.stage import Stage

JOBS = "gavel-*"
JOB_LOGS = "log-group:/aws/sagemaker/ProcessingJobs*"
WRITE_JOB_LOG = [*WRITE_LOG, "logs:DescribeLogStreams"]
NAMED = "Job names are made by the machines: gavel-<date>-<uuid>."


def job_role(scope: Construct, stage: Stage, store: ItemStore, code: list[assets.Asset]) -> iam.Role:
    """Create the embedding job's role, which may read items, towers and code, and write releases and its log."""
    role = iam.Role(scope, "JobRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
    for bucket in (store.new_items, store.towers):
        allow_below(
            role, ["s3:GetObject"], bucket, bucket.bucket_arn, "/*", "The files of the day and of the tower, to read alone."
        )
    embeddings = store.embeddings
    allow_below(
        role,
        ["s3:PutObject"],
        embeddings,
        embeddings.bucket_arn,
        "/*",
        "The parts of a release, whose name is new every night.",
    )
    _allow_sources(role, [bucket.bucket_arn for bucket in (store.new_items, store.towers, embeddings)], code)
    allow_container(role, stage.processing_image, JOB_LOGS, WRITE_JOB_LOG)
    return role


def training_role(scope: Construct, stage: Stage, store: ItemStore, code: list[assets.Asset]) -> iam.Role:
    """Create a training job's role, which may read catalogues, towers and code, and write towers.

    It is not the nightly job's role, because that job may not write towers.
    """
    role = iam.Role(scope, "TrainingRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
    towers = store.towers
    allow_below(
        role,
        ["s3:GetObject", "s3:PutObject"],
        towers,
        towers.bucket_arn,
        "/*",
        "Catalogues to train on lie there; a tower's folder is named when it is trained.",
    )
    _allow_sources(role, [towers.bucket_arn], code)
    allow_container(role, stage.processing_image, JOB_LOGS, WRITE_JOB_LOG)
    return role


def _allow_sources(role: iam.Role, listed: list[str], code: list[assets.Asset]) -> None:
    """Allow a role to list buckets, and to read the zips that a container starts from."""
    role.add_to_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=[*listed, code[0].bucket.bucket_arn]))
    zips = [asset.bucket.arn_for_objects(asset.s3_object_key) for asset in code]
    role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=zips))


def release_role(scope: Construct, id: str, store: ItemStore, places: Places) -> iam.Role:
    """Create the role of a machine that builds a release: it may make the calls of release_states.py and write the record."""
    role = iam.Role(scope, id, assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
    embeddings = store.embeddings
    current = store.towers.arn_for_objects(CURRENT_TOWER)
    role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[current]))
    listed = [
        store.new_items.bucket_arn,
        store.towers.bucket_arn,
        embeddings.bucket_arn,
    ]  # without this permission S3 answers 403 for a missing object
    role.add_to_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=listed))
    for actions, bucket, below, reason in (
        (["s3:GetObject"], embeddings, "/*", "Manifests and receipts of every release."),
        (["s3:DeleteObject"], embeddings, f"/*/{RECEIPTS}", "The receipts of releases alone, one for each."),
        (["s3:PutObject"], store.releases, "/*", "The record of each release, named by its date."),
    ):
        allow_below(role, actions, bucket, bucket.bucket_arn, below, reason)
    role.add_to_policy(iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[places.indexer_arn, places.snapshot_arn]))
    role.add_to_policy(iam.PolicyStatement(actions=["sns:Publish"], resources=[places.notices_arn]))
    _allow_jobs(role, places)
    return role


def _allow_jobs(role: iam.Role, places: Places) -> None:
    """Allow a role what createProcessingJob.sync needs: to start, tag and stop jobs, and to be notified of their end."""
    stack = Stack.of(role)
    jobs = stack.format_arn(service="sagemaker", resource="processing-job", resource_name=JOBS)
    actions = ("CreateProcessingJob", "DescribeProcessingJob", "StopProcessingJob", "AddTags")  # Step Functions tags its jobs
    role.add_to_policy(iam.PolicyStatement(actions=[f"sagemaker:{action}" for action in actions], resources=[jobs]))
    acknowledge(role, {f"IAM5[Resource::{HERE.format('sagemaker')}:<AWS::AccountId>:processing-job/{JOBS}]": NAMED})
    rule = "StepFunctionsGetEventsForSageMakerProcessingJobsRule"
    watched = stack.format_arn(service="events", resource="rule", resource_name=rule)
    watch = ["events:PutTargets", "events:PutRule", "events:DescribeRule"]
    role.add_to_policy(iam.PolicyStatement(actions=watch, resources=[watched]))
    role.add_to_policy(
        iam.PolicyStatement(
            actions=["iam:PassRole"],
            resources=[places.job_role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        )
    )
