"""States of lots, such as bids: the queue and the routes that take them, and the function that writes them into OpenSearch."""

from aws_cdk import Duration
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.function_role import FunctionRole
from infra.log_group import log_group
from infra.network import Network
from infra.python_asset import bundled_code
from infra.queues import queue_pair
from infra.stage import Stage
from infra.vector_index import STATE_WRITER, VectorIndex
from retrieval.config.settings import Settings

MEMORY_MIB = 512
TIMEOUT = Duration.seconds(10)
VISIBILITY = Duration.minutes(1)  # six times TIMEOUT, as AWS advises
DELIVERIES = 30  # of one message before it becomes a dead letter: half an hour, longer than a domain takes to fail over
BATCH = 10  # messages a call; more would wait for a second
CONCURRENCY = 10  # calls from the queue at a time; each message may hold 1,000 states
DETAIL_TYPE = "Item State"  # of events on the account's bus
WRITES = (("items/{item_id}/state", "PATCH"), ("items/state", "POST"), ("items/{item_id}", "DELETE"))  # path, method


class ItemStates(Construct):
    """Ways into the index of states: messages of a queue, events on the account's bus, and routes of the API.

    The queue takes what a burst of bids brings faster than the domain; states have versions, so that order and repetition do not
    matter. Events of the source `gavel.<stage>` with the type "Item State" go to the queue.

    Attributes:
        function: the function of lambdas/item_states.
        role: its role.
        queue: queue of states.
        dead_letters: queue of the messages that failed DELIVERIES times.
    """

    def __init__(
        self, scope: Construct, id: str, *, stage: Stage, network: Network, index: VectorIndex, settings: Settings
    ) -> None:
        super().__init__(scope, id)
        self.role = FunctionRole(self, "Role", log_group=log_group(self, "Logs", stage))
        self.function = network.function(
            self,
            "Function",
            description="Takes bids, ends and withdrawals of lots",
            handler="lambdas.item_states.handler.handler",
            code=bundled_code(self, "item_states"),
            role=self.role,
            memory_size=MEMORY_MIB,
            timeout=TIMEOUT,
            tracing=lambda_.Tracing.ACTIVE,
            environment=settings.to_env() | stage.numbers.to_env(),
        )
        self.queue, self.dead_letters = queue_pair(
            self, ("Queue", "DeadLetters"), stage=stage, visibility_timeout=VISIBILITY, deliveries=DELIVERIES
        )
        self.function.add_event_source(
            sources.SqsEventSource(self.queue, batch_size=BATCH, max_concurrency=CONCURRENCY, report_batch_item_failures=True)
        )
        events.Rule(
            self,
            "Events",
            description="Queue the states of lots that are sent as events",
            event_pattern=events.EventPattern(source=[f"gavel.{stage.name}"], detail_type=[DETAIL_TYPE]),
            targets=[targets.SqsQueue(self.queue)],
        )
        index.connect(self.role)
        index.grant_access(self, "StateWriter", self.role, STATE_WRITER)

    def add_routes(self, api: apigateway.RestApi) -> None:
        """Add the routes that write to an API. Callers sign with IAM in every stage: an API key may be in every page."""
        integration = apigateway.LambdaIntegration(self.function, proxy=True)
        for path, verb in WRITES:
            resource = api.root.resource_for_path(path)
            method = resource.add_method(verb, integration, authorization_type=apigateway.AuthorizationType.IAM)
            acknowledge(method, {"COG4": "Callers are the seller's own programs with an IAM signature."})
