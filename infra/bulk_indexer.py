"""The path of a part from the bucket into the index: queue -> Lambda -> OpenSearch."""

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from constructs import Construct

from infra.function_role import FunctionRole, function_arn
from infra.item_store import INDEXER_TIMEOUT, ItemStore
from infra.log_group import log_group
from infra.network import Network
from infra.permissions import allow_below
from infra.python_asset import bundled_code
from infra.stage import Stage
from infra.vector_index import WRITE_VERBS, WRITER, VectorIndex
from retrieval.config.settings import Settings

# RECEIPT_FILE, PART_RECEIPTS and INDEX_REJECTS_FILE of retrieval/contracts/release.py and CARD_FILE of
# retrieval/contracts/tower_card.py, which infra does not import; a test keeps them equal
PROBE_EVERY = Duration.hours(3)  # the engine may merge the live index's segments, and so their graphs, at any hour
RECEIPTS, CARDS = "indexed.json", "tower.json"
PART_RECEIPTS, REJECTS = "receipts", "index-rejects.ndjson"


def indexer_arn(scope: Construct, stage: Stage) -> str:
    """Build the function's ARN from its name. A reference would be circular: the function's stack uses the alarm topic of the
    nightly batch's stack.
    """
    return function_arn(scope, _name(stage))


def _name(stage: Stage) -> str:
    return f"gavel-{stage.name}-bulk-indexer"


class BulkIndexer(Construct):
    """The bulk-index Lambda: one S3 event per call, with a concurrency that the domain can bear.

    A message that fails is delivered again (ReportBatchItemFailures), DELIVERIES times in all; then it becomes a dead letter.
    The event source bounds how many run at a time. Where concurrency is reserved, it is one execution more, so that throttling
    loses no delivery and the state machines, which call the function directly, find one free. A young account cannot reserve any.

    Attributes:
        function: the Lambda function.
    """

    def __init__(
        self, scope: Construct, id: str, *, stage: Stage, network: Network, store: ItemStore, index: VectorIndex, settings: Settings
    ) -> None:
        super().__init__(scope, id)
        self.role = FunctionRole(self, "Role", log_group=log_group(self, "Logs", stage))
        self.function = network.function(
            self,
            "Function",
            function_name=_name(stage),
            description="Indexes embedding parts and publishes releases",
            handler="lambdas.bulk_indexer.handler.handler",
            code=bundled_code(self, "bulk_indexer"),
            role=self.role,
            memory_size=stage.indexer_memory_mib,
            timeout=INDEXER_TIMEOUT,
            reserved_concurrent_executions=stage.indexer_concurrency + 1 if stage.reserve_concurrency else None,
            tracing=lambda_.Tracing.ACTIVE,
            environment=settings.to_env() | stage.numbers.to_env(),
        )
        self.function.add_event_source(
            sources.SqsEventSource(
                store.arrivals, batch_size=1, max_concurrency=stage.indexer_concurrency, report_batch_item_failures=True
            )
        )
        events.Rule(
            self,
            "Probe",
            description="Measure the recall of the live index",
            schedule=events.Schedule.rate(PROBE_EVERY),
            targets=[targets.LambdaFunction(self.function, event=events.RuleTargetInput.from_object({"probe": {}}))],
        )
        self._allow(store, index)

    def _allow(self, store: ItemStore, index: VectorIndex) -> None:
        """Allow the function to read releases and towers' cards, write receipts beside releases, and write into the index."""
        embeddings = store.embeddings
        listed = [embeddings.bucket_arn, store.towers.bucket_arn]  # without this permission S3 answers 403 for a missing object
        self.role.add_to_principal_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=listed))
        allow_below(
            self.role,
            ["s3:GetObject"],
            store.towers,
            store.towers.bucket_arn,
            f"/*/{CARDS}",
            "The cards of all towers alone, which say how long their vectors are.",
        )
        allow_below(
            self.role,
            ["s3:GetObject"],
            embeddings,
            embeddings.bucket_arn,
            "/*",
            "The parts and manifests of every release, to read alone.",
        )
        for written, reason in (
            (RECEIPTS, "The receipts of releases alone, one for each."),
            (f"{PART_RECEIPTS}/*", "The receipts of parts alone, one for each."),
            (REJECTS, "The items that the index refused alone, one object a release."),
        ):
            allow_below(self.role, ["s3:PutObject"], embeddings, embeddings.bucket_arn, f"/*/{written}", reason)
        index.connect(self.role, WRITE_VERBS)
        index.grant_access(self, "Writer", self.role, WRITER)
