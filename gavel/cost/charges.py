"""Charges of each type of resource, one function per type."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gavel.cost.machines import Machines
from gavel.cost.price_table import Price, PriceTable, Unpriced
from gavel.cost.stage_templates import Resource

HOURS = 730.0  # per month
NIGHTS = HOURS / 24
MONTH_S = HOURS * 3600
SNAPSHOTS = 2  # lambdas/query_snapshot publishes a version whenever the live index has another tower, and deletes its older ones
GB, GIB_MIB = 1e9, 1024.0
# causes of charges. idle: no use is needed; night: the nightly run; kept: upload and storage of items; queries: requests
When = Literal["idle", "night", "kept", "queries"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Use of a stage.

    Attributes:
        items_per_night: number of new lots per night, each with a photo.
        queries_per_month: number of requests to the API per month.
        items_per_second: items that one instance embeds per second; None takes the price table's value for the instance type.
    """

    items_per_night: float
    queries_per_month: float
    items_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """One quantity at one price.

    Attributes:
        what: description of the quantity.
        quantity: number of units per month.
        price: price of one unit.
        when: cause of the charge.
    """

    what: str
    quantity: float
    price: Price
    when: When

    @property
    def usd(self) -> float:
        """Dollars per month."""
        return self.quantity * self.price.usd


class Meter:
    """Computes the charges of a stage's resources.

    Args:
        table: prices and assumptions about use.
        usage: use of the stage.
        resources: resources of all templates of the stage.
    """

    def __init__(self, table: PriceTable, usage: Usage, resources: Sequence[Resource]) -> None:
        self.table, self.usage, self.resources = table, usage, resources
        self.machines = Machines(resources)
        self.parts = math.ceil(usage.items_per_night / table.number("items_per_part")) * NIGHTS  # per month
        self.items = usage.items_per_night * NIGHTS  # per month
        self.event_requests = usage.queries_per_month * table.number("event_share")

    def charges(self, resource: Resource) -> list[Charge]:
        """Return the charges of a resource; empty if its type is free.

        Raises:
            Unpriced: the type is unknown, or the table lacks one of its prices.
        """
        if self.table.is_free(resource.kind):
            return []
        if resource.kind not in CHARGED:
            raise Unpriced(f"{resource.kind} has no price and is not among the free types of prices.yaml")
        return list(CHARGED[resource.kind](self, resource))

    def charge(self, what: str, quantity: float, price: str, when: When) -> Charge:
        """Create a charge at a price of the table."""
        return Charge(what, quantity, self.table.price(price), when)

    def job_hours(self, instance: str, instances: int) -> float:
        """Return the hours for which each instance runs in one night's job.

        Raises:
            Unpriced: the table assumes no throughput for the type, and `usage` has none.
        """
        rate = self.usage.items_per_second or self.table.assumed["items_per_second"].get(instance)
        if not rate:
            raise Unpriced(f"prices.yaml assumes no items_per_second for {instance}; add it, or give --items-per-second")
        return (self.usage.items_per_night / (rate * instances) + self.table.number("job_start_s")) / 3600


def _domain(meter: Meter, domain: Resource) -> Iterator[Charge]:
    cluster, volume = domain.properties["ClusterConfig"], domain.properties["EBSOptions"]
    nodes, kind = cluster["InstanceCount"], cluster["InstanceType"]
    yield meter.charge(f"{nodes} data node(s) {kind}", nodes * HOURS, f"opensearch.{kind}", "idle")
    if cluster.get("DedicatedMasterEnabled"):
        masters, kind = cluster["DedicatedMasterCount"], cluster["DedicatedMasterType"]
        yield meter.charge(f"{masters} dedicated masters {kind}", masters * HOURS, f"opensearch.{kind}", "idle")
    yield meter.charge("storage of the data nodes", nodes * volume["VolumeSize"], f"opensearch.{volume['VolumeType']}", "idle")


def _function(meter: Meter, function: Resource) -> Iterator[Charge]:
    """Yield the charges of a function's requests and time. A handler that the table lacks runs only at deployment or by hand."""
    use = meter.table.assumed["functions"].get(function.properties.get("Handler", ""))
    gib = function.properties.get("MemorySize", 128) / GIB_MIB
    if use is None:
        yield meter.charge("no regular use assumed", 0, "lambda.gb_seconds", "idle")
        return
    per_query = use["per"] == "query"
    calls = meter.usage.queries_per_month if per_query else 2 * meter.parts  # one manifest per part at most
    when: When = "queries" if per_query else "night"
    yield meter.charge("requests", calls, "lambda.requests", when)
    yield meter.charge(f"{gib:.1f} GiB for {use['billed_ms']} ms", calls * gib * use["billed_ms"] / 1000, "lambda.gb_seconds", when)
    if _snapshots(function):
        restored = calls * meter.table.number("cold_share") * gib
        yield meter.charge("snapshots restored", restored, "lambda.snapstart_restore", when)


def _version(meter: Meter, version: Resource) -> Iterator[Charge]:
    """Yield the charge of SnapStart's snapshots: of the deployment's version, and of the one that followed the last release."""
    name = version.properties["FunctionName"].get("Ref")
    function = next(r for r in meter.resources if r.stack == version.stack and r.logical_id == name)
    gib = function.properties.get("MemorySize", 128) / GIB_MIB if _snapshots(function) else 0.0
    yield meter.charge("snapshots stored", SNAPSHOTS * gib * MONTH_S, "lambda.snapstart_cache", "idle")


def _snapshots(function: Resource) -> bool:
    return bool(function.properties.get("SnapStart", {}).get("ApplyOn") == "PublishedVersions")


def _event_source(meter: Meter, _: Resource) -> Iterator[Charge]:
    polls = meter.table.number("sqs_pollers") * MONTH_S / meter.table.number("sqs_poll_s")
    yield meter.charge("polls of an empty queue", polls, "sqs.requests", "idle")


def _queue(meter: Meter, queue: Resource) -> Iterator[Charge]:
    use = meter.table.use_of("queues", queue.logical_id)
    yield meter.charge(_of(use, "messages"), use.get("per_part", 0) * 2 * meter.parts, "sqs.requests", "night")


def _machine(meter: Meter, machine: Resource) -> Iterator[Charge]:
    """Yield the charges of every state once per run, and of the job's hours on the first instance type of the ladder."""
    runs = meter.machines.runs(machine) * NIGHTS
    at_night = not meter.machines.scheduled(machine)
    if at_night and not meter.usage.items_per_night:
        runs = 0
    when: When = "night" if at_night else "idle"
    states = meter.machines.states(machine)
    idle = "no schedule starts it" if at_night and meter.usage.items_per_night else "no items"
    yield meter.charge(f"{len(states)} states" if runs else idle, runs * len(states), "states.transitions", when)
    for job in meter.machines.jobs(machine)[:1] if runs else ():
        hours = meter.job_hours(job.instance, job.instances) * job.instances * runs
        yield meter.charge(f"embedding on {job.instances} x {job.instance}", hours, f"sagemaker.{job.instance}", when)
        yield meter.charge(f"its volume, {job.volume_gb} GB", hours * job.volume_gb / HOURS, "sagemaker.volume", when)


def _schedule(meter: Meter, _: Resource) -> Iterator[Charge]:
    yield meter.charge("once a night", NIGHTS, "scheduler.invocations", "idle")


def _topic(meter: Meter, _: Resource) -> Iterator[Charge]:
    yield meter.charge("notices", meter.table.number("notices_per_night") * NIGHTS, "sns.publishes", "idle")


def _bucket(meter: Meter, bucket: Resource) -> Iterator[Charge]:
    """Yield the charges of requests, and of the storage that is reached when as much expires as arrives."""
    use = meter.table.use_of("buckets", bucket.logical_id)
    days = _storage_days(bucket, int(meter.table.number("keep_days")))
    items, table_of = meter.usage.items_per_night, use.get
    daily_events = meter.event_requests * table_of("bytes_per_event_request", 0) / NIGHTS
    daily_bytes = daily_events + items * table_of("bytes_per_item", 0) + table_of("bytes_per_night", 0)
    stored_bytes = table_of("bytes", 0) + days * daily_bytes
    nights = NIGHTS if items else 0
    parts = meter.parts
    yield meter.charge(_of(use, f"storage for {days} days"), stored_bytes / GB, "s3.storage", "kept")
    yield meter.charge("uploads of lots", meter.items * table_of("puts_per_item", 0), "s3.puts", "kept")
    puts = parts * table_of("puts_per_part", 0) + nights * table_of("puts_per_night", 0)
    yield meter.charge("writes of the run", puts, "s3.puts", "night")
    if objects := table_of("puts_per_buffer", 0) * _event_objects(meter):
        yield meter.charge("objects of events", objects, "s3.puts", "queries")
    gets = meter.items * table_of("gets_per_item", 0) + parts * table_of("gets_per_part", 0)
    yield meter.charge("reads of the run", gets, "s3.gets", "night")


def _event_objects(meter: Meter) -> float:
    """Return the objects that Firehose writes per month: one per buffer interval, but not more than there are requests."""
    return min(meter.event_requests, MONTH_S / meter.table.number("firehose_buffer_s"))


def _delivery(meter: Meter, _: Resource) -> Iterator[Charge]:
    size = meter.event_requests * meter.table.number("firehose_record_bytes")
    yield meter.charge("events taken in", size / GB, "firehose.ingested", "queries")


def _table(meter: Meter, table: Resource) -> Iterator[Charge]:
    """Yield the charges of interactions written, read, and stored until they expire. Expiry itself is free."""
    written = meter.event_requests * meter.table.number("interactions_per_event_request")
    searches = meter.usage.queries_per_month - meter.event_requests
    stored_gb = written / NIGHTS * meter.table.number("buyer_days") * meter.table.number("bytes_per_interaction") / GB
    yield meter.charge("interactions written", written, "dynamodb.writes", "queries")
    yield meter.charge("buyers looked up", searches * meter.table.number("read_units_per_query"), "dynamodb.reads", "queries")
    yield meter.charge("interactions stored", stored_gb, "dynamodb.storage", "queries")
    if table.properties.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
        yield meter.charge("point-in-time recovery", stored_gb, "dynamodb.backup", "queries")


def _storage_days(bucket: Resource, without_rule: int) -> int:
    """Return the days for which an object is stored: until it expires, and then as a noncurrent version until that expires."""
    for rule in bucket.properties.get("LifecycleConfiguration", {}).get("Rules", []):
        if "ExpirationInDays" in rule:
            return int(rule["ExpirationInDays"] + rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 0))
    return without_rule


def _log_group(meter: Meter, group: Resource) -> Iterator[Charge]:
    use = meter.table.use_of("log_groups", group.logical_id)
    nights = NIGHTS if meter.usage.items_per_night else 0
    counted: dict[When, float] = {
        "idle": use.get("per_month", 0),
        "night": use.get("per_part", 0) * meter.parts + use.get("per_night", 0) * nights,
        "queries": use.get("per_query", 0) * meter.usage.queries_per_month,
    }
    months = group.properties.get("RetentionInDays", meter.table.number("keep_days")) * 24 / HOURS
    for when, size in counted.items():
        if size or (when == "idle" and not any(counted.values())):
            yield meter.charge(_of(use, "log lines"), size / GB, "logs.ingested", when)
            yield meter.charge("log lines stored", size / GB * months, "logs.stored", when)


def _api_stage(meter: Meter, stage: Resource) -> Iterator[Charge]:
    queries = meter.usage.queries_per_month
    yield meter.charge("requests", queries, "apigateway.requests", "queries")
    detailed = any(settings.get("MetricsEnabled") for settings in stage.properties.get("MethodSettings", []))
    if detailed and queries:
        methods = sum(r.kind == "AWS::ApiGateway::Method" for r in meter.resources)
        metrics = methods * meter.table.number("metrics_per_method")
        yield meter.charge(f"metrics of {methods} methods", metrics, "cloudwatch.metrics", "queries")
    if stage.properties.get("TracingEnabled"):
        first = min(queries, MONTH_S)
        traces = first + meter.table.number("xray_share") * (queries - first)
        yield meter.charge("traces", traces, "xray.traces", "queries")


def _firewall(meter: Meter, acl: Resource) -> Iterator[Charge]:
    yield meter.charge("the list", 1, "waf.acl", "idle")
    yield meter.charge("its rules", len(acl.properties.get("Rules", [])), "waf.rule", "idle")
    yield meter.charge("requests", meter.usage.queries_per_month, "waf.requests", "queries")


def _alarm(meter: Meter, alarm: Resource) -> Iterator[Charge]:
    metrics = [m for m in alarm.properties.get("Metrics", []) if "MetricStat" in m]
    yield meter.charge("metrics watched", len(metrics) or 1, "cloudwatch.alarm_metrics", "idle")


def _endpoint_config(meter: Meter, config: Resource) -> Iterator[Charge]:
    for production in config.properties["ProductionVariants"]:
        count, kind = production["InitialInstanceCount"], production["InstanceType"]
        yield meter.charge(f"{count} instance(s) {kind}", count * HOURS, f"sagemaker.{kind}", "idle")


def _network_endpoint(meter: Meter, endpoint: Resource) -> Iterator[Charge]:
    if endpoint.properties.get("VpcEndpointType", "Gateway") == "Gateway":
        yield meter.charge("gateway endpoint", HOURS, "vpc.gateway_endpoint", "idle")
        return
    zones = len(endpoint.properties["SubnetIds"])
    yield meter.charge(f"interface in {zones} zone(s)", zones * HOURS, "vpc.interface_endpoint", "idle")


def _one(what: str, price: str) -> Callable[[Meter, Resource], Iterator[Charge]]:
    def charged(meter: Meter, _: Resource) -> Iterator[Charge]:
        yield meter.charge(what, 1, price, "idle")

    return charged


def _of(use: object, what: str) -> str:
    return what if use else "no regular use assumed"


CHARGED: dict[str, Callable[[Meter, Resource], Iterable[Charge]]] = {
    "AWS::ApiGateway::Stage": _api_stage,
    "AWS::CloudWatch::Alarm": _alarm,
    "AWS::CloudWatch::Dashboard": _one("dashboard", "cloudwatch.dashboards"),
    "AWS::DynamoDB::Table": _table,
    "AWS::EC2::VPCEndpoint": _network_endpoint,
    "AWS::KMS::Key": _one("key", "kms.keys"),
    "AWS::KinesisFirehose::DeliveryStream": _delivery,
    "AWS::Lambda::EventSourceMapping": _event_source,
    "AWS::Lambda::Function": _function,
    "AWS::Lambda::Version": _version,
    "AWS::Logs::LogGroup": _log_group,
    "AWS::Logs::MetricFilter": _one("metric", "cloudwatch.metrics"),
    "AWS::OpenSearchService::Domain": _domain,
    "AWS::S3::Bucket": _bucket,
    "AWS::SNS::Topic": _topic,
    "AWS::SQS::Queue": _queue,
    "AWS::SageMaker::EndpointConfig": _endpoint_config,
    "AWS::Scheduler::Schedule": _schedule,
    "AWS::SecretsManager::Secret": _one("secret", "secrets.secrets"),
    "AWS::StepFunctions::StateMachine": _machine,
    "AWS::WAFv2::WebACL": _firewall,
}
