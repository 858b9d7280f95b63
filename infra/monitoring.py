"""The dashboard and the alarms of a stage. docs/operations.md has one section per alarm, of the alarm's name."""

from collections.abc import Mapping, Sequence

from aws_cdk import Aws, Duration
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.bulk_indexer import PROBE_EVERY, BulkIndexer
from infra.buyer_events import BuyerEvents
from infra.event_stream import EventStream
from infra.item_states import ItemStates
from infra.item_store import ItemStore
from infra.nightly_batch import NightlyBatch
from infra.query_api import QueryApi
from infra.rebuild import Rebuild
from infra.stage import Stage
from infra.vector_index import VectorIndex

NAMESPACE = "Gavel"
RUN_BOOK = "docs/operations.md"
MAX_WAITING_S = 900  # age of a part in the queue
MAX_STATE_AGE_S = 60  # age of a state, such as a bid, in the queue
MAX_UNDELIVERED_S = 1_800  # age of an event on its way to S3: six times Firehose's buffer time
MAX_THROTTLED = 10  # refused requests to the table of buyers' interactions per minute
MAX_ERRORS = 0.01  # share of requests
MAX_HEAP_PERCENT = 85
MAX_FALLBACKS = 0.05  # share of searches
SEARCH_STAGES = ("encode", "retrieve", "rerank", "total")  # as named in lambdas/query_api/measurements.py
MIN_RECALL = 0.95  # same value as in retrieval/ingestion.py
MIN_FREE_SHARE = 0.2  # free share of a data node's volume
MINUTE = Duration.minutes(1)
BREACHING, FINE = cloudwatch.TreatMissingData.BREACHING, cloudwatch.TreatMissingData.NOT_BREACHING
AT_LEAST = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
BELOW = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD


class StageMonitoring(Construct):
    """The dashboard, alarms and budget of a stage.

    Attributes:
        alarms: name, as in the run book -> alarm.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        stage: Stage,
        store: ItemStore,
        index: VectorIndex,
        nightly: NightlyBatch,
        rebuild: Rebuild,
        indexer: BulkIndexer,
        api: QueryApi,
        events: EventStream,
        buyers: BuyerEvents,
        states: ItemStates,
        guards: Sequence[cloudwatch.Alarm],
    ) -> None:
        super().__init__(scope, id)
        self._stage, self._nightly = stage, nightly
        self._tell = actions.SnsAction(nightly.notices)
        self.alarms: dict[str, cloudwatch.Alarm] = {}
        domain = index.domain.ref  # its name
        releases = self._logged(indexer, "Releases", "release checked", "1")
        indexed = self._logged(indexer, "Indexed", "part indexed", "$.indexed")
        self._watch_queries(api)
        self._alarm("events-undelivered", events.age(Duration.minutes(5)), MAX_UNDELIVERED_S, 3)
        self._alarm("buyers-throttled", buyers.throttles(MINUTE), MAX_THROTTLED, 5)
        self._watch_indexing(store, releases, self._logged(indexer, "Refused", "part indexed", "$.refused"))
        self._alarm("states-waiting", _age(states.queue), MAX_STATE_AGE_S, 3)
        self._alarm("states-dead-letters", _visible(states.dead_letters), 1)
        recall = self._logged(indexer, "Recall", "index probed", "$.recall", statistic="min", period=PROBE_EVERY)
        self._alarm("index-recall", recall, MIN_RECALL, 2, comparison_operator=BELOW, treat_missing_data=BREACHING)
        self._watch_nights(rebuild)
        self._watch_opensearch(domain)
        for guard in guards:
            guard.add_alarm_action(self._tell)
        self._dashboard(api, store, states, [releases, indexed, recall], domain)
        self._budget()

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        threshold: float,
        periods: int = 1,
        *,
        comparison_operator: cloudwatch.ComparisonOperator = AT_LEAST,
        treat_missing_data: cloudwatch.TreatMissingData = FINE,
    ) -> None:
        """Add an alarm that rings after `periods` bad periods in a row. It sends a notice when it rings and when it ends."""
        alarm = cloudwatch.Alarm(
            self,
            name.title().replace("-", ""),
            alarm_name=f"gavel-{self._stage.name}-{name}",
            alarm_description=f"{RUN_BOOK}#{name}",
            metric=metric,
            threshold=threshold,
            evaluation_periods=periods,
            comparison_operator=comparison_operator,
            treat_missing_data=treat_missing_data,
        )
        alarm.add_alarm_action(self._tell)
        alarm.add_ok_action(self._tell)
        self.alarms[name] = alarm

    def _watch_queries(self, api: QueryApi) -> None:
        self._alarm("query-latency", api.api.metric_latency(statistic="p99", period=MINUTE), self._stage.p99_latency_ms, 5)
        self._alarm("query-errors", api.api.metric_server_error(statistic="avg", period=MINUTE), MAX_ERRORS, 5)
        self._alarm("rerank-fallbacks", self._share("rerank_fallbacks"), MAX_FALLBACKS, 5)
        self._alarm("half-searches", self._share("half_searches"), MAX_FALLBACKS, 5)

    def _share(self, fallbacks: str) -> cloudwatch.MathExpression:
        """Return the metric of the share of searches with a fallback."""
        return cloudwatch.MathExpression(
            expression="fallbacks / searches",
            using_metrics={"fallbacks": self._measured(fallbacks, "sum"), "searches": self._measured("searches", "sum")},
            period=MINUTE,
            label=f"{fallbacks} per search",
        )

    def _measured(self, name: str, statistic: str) -> cloudwatch.Metric:
        """Return a metric that the query function emits (lambdas/query_api/measurements.py)."""
        return cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=name,
            dimensions_map={"stage": self._stage.name},
            statistic=statistic,
            period=MINUTE,
            label=f"{name} {statistic}",
        )

    def _logged(
        self,
        indexer: BulkIndexer,
        id: str,
        words: str,
        value: str,
        statistic: str = "sum",
        period: Duration = Duration.hours(1),  # noqa: B008 -- it never changes
    ) -> cloudwatch.Metric:
        """Return a metric of the indexer's log lines with a message (lambdas/bulk_indexer), by default summed.

        Args:
            indexer: construct whose log is read.
            id: id of the metric filter; its lower-case form begins the metric's name.
            words: message of the counted lines.
            value: value per line: "1", or the path of a field of the line.
            statistic: statistic of the metric.
            period: period of the metric.
        """
        counted = logs.MetricFilter(
            self,
            id,
            log_group=indexer.role.log_group,
            filter_pattern=logs.FilterPattern.string_value("$.message", "=", words),
            metric_namespace=NAMESPACE,
            metric_name=f"{id.lower()}-{self._stage.name}",
            metric_value=value,
        )
        return counted.metric(statistic=statistic, period=period)

    def _watch_indexing(self, store: ItemStore, releases: cloudwatch.Metric, refused: cloudwatch.Metric) -> None:
        self._alarm("dead-letters", _visible(store.dead_letters), 1)
        self._alarm("parts-waiting", _age(store.arrivals), MAX_WAITING_S, 5)
        hours = self._stage.release_age_hours
        self._alarm("items-refused", refused, 1)
        self._alarm("release-age", releases, 1, hours, comparison_operator=BELOW, treat_missing_data=BREACHING)

    def _watch_nights(self, rebuild: Rebuild) -> None:
        machine, period = self._nightly.embed_day, Duration.minutes(5)
        failed = cloudwatch.MathExpression(
            expression="failed + late + finding + rebuilding + rebuilding_late",
            using_metrics={
                "failed": machine.metric_failed(statistic="sum", period=period),
                "late": machine.metric_timed_out(statistic="sum", period=period),
                "finding": self._nightly.find_day.metric_failed(statistic="sum", period=period),
                "rebuilding": rebuild.machine.metric_failed(statistic="sum", period=period),
                "rebuilding_late": rebuild.machine.metric_timed_out(statistic="sum", period=period),
            },
            period=period,
            label="nights and rebuilds that failed",
        )
        self._alarm("night-failed", failed, 1)
        self._alarm("schedule-dead-letters", _visible(self._nightly.dead_letters), 1)

    def _watch_opensearch(self, domain: str) -> None:
        gib = self._stage.opensearch_volume_gib
        self._alarm("index-red", _domain_metric(domain, "ClusterStatus.red", "max"), 1)
        self._alarm("index-yellow", _domain_metric(domain, "ClusterStatus.yellow", "max"), 1, 30)
        self._alarm("index-heap", _domain_metric(domain, "JVMMemoryPressure", "max"), MAX_HEAP_PERCENT, 15)
        self._alarm("index-writes-blocked", _domain_metric(domain, "ClusterIndexWritesBlocked", "max"), 1)
        free = _domain_metric(domain, "FreeStorageSpace", "min")  # in MiB
        self._alarm("index-disk", free, gib * 1024 * MIN_FREE_SHARE, comparison_operator=BELOW)

    def _dashboard(self, api: QueryApi, store: ItemStore, states: ItemStates, logged: list[cloudwatch.Metric], domain: str) -> None:
        latencies = [api.api.metric_latency(statistic=s, label=f"API {s}") for s in ("p50", "p99")]
        latencies += [api.function.metric_duration(statistic="p99", label="function p99")]
        domain_latency = [_domain_metric(domain, "SearchLatency", "p99"), _domain_metric(domain, "JVMMemoryPressure", "max")]
        rows: Mapping[str, Sequence[cloudwatch.IMetric]] = {
            "Query latency": latencies,
            "Latency by stage of a search": [self._measured(f"{s}_ms", q) for s in SEARCH_STAGES for q in ("p50", "p99")],
            "Searches, and those without the re-ranker": [self._measured(n, "sum") for n in ("searches", "rerank_fallbacks")],
            "Requests and errors": [api.api.metric_count(), api.api.metric_client_error(), api.api.metric_server_error()],
            "Cold starts": [_cold_starts(api)],
            "Parts that wait, dead letters": [_visible(store.arrivals), _visible(store.dead_letters)],
            "States that wait, dead letters": [_visible(states.queue), _visible(states.dead_letters)],
            "Releases, lots indexed, recall": logged,
            "OpenSearch": domain_latency,
            "Lots in OpenSearch": [_domain_metric(domain, "SearchableDocuments", "max")],
        }
        board = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=f"gavel-{self._stage.name}")
        board.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", width=24, alarms=list(self.alarms.values())))
        for title, metrics in rows.items():
            board.add_widgets(cloudwatch.GraphWidget(title=title, left=list(metrics), width=12))

    def _budget(self) -> None:
        """Add a budget that sends notices of spending under the stage's tag. Activate the tag for billing once per account."""
        subscriber = {"subscriptionType": "SNS", "address": self._nightly.notices.topic_arn}
        budgets.CfnBudget(
            self,
            "Budget",
            budget={
                "budgetName": f"gavel-{self._stage.name}",
                "budgetType": "COST",
                "timeUnit": "MONTHLY",
                "budgetLimit": {"amount": self._stage.monthly_budget_usd, "unit": "USD"},
                "costFilters": {"TagKeyValue": [f"user:gavel:stage${self._stage.name}"]},
            },
            notifications_with_subscribers=[
                {
                    "notification": {
                        "notificationType": kind,
                        "comparisonOperator": "GREATER_THAN",
                        "threshold": percent,
                        "thresholdType": "PERCENTAGE",
                    },
                    "subscribers": [subscriber],
                }
                for kind, percent in (("ACTUAL", 80), ("FORECASTED", 100))
            ],
        )


def _cold_starts(api: QueryApi) -> cloudwatch.Metric:
    """Return the metric of cold starts, which Powertools emits by function name."""
    return cloudwatch.Metric(
        namespace=NAMESPACE,
        metric_name="ColdStart",
        dimensions_map={"function_name": api.function.function_name},
        statistic="sum",
    )


def _visible(queue: sqs.IQueue) -> cloudwatch.Metric:
    return queue.metric_approximate_number_of_messages_visible(statistic="max", period=MINUTE)


def _age(queue: sqs.IQueue) -> cloudwatch.Metric:
    return queue.metric_approximate_age_of_oldest_message(statistic="max", period=MINUTE)


def _domain_metric(domain: str, name: str, statistic: str) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="AWS/ES",
        metric_name=name,
        dimensions_map={"DomainName": domain, "ClientId": Aws.ACCOUNT_ID},
        statistic=statistic,
        period=MINUTE,
    )
