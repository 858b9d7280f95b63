"""The settings of a stage, read from cdk.json and checked."""

import ipaddress
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from retrieval.config.settings import ITEM_FILE_VARIABLES, PREFIX, QueryTowerKind, ScoringParameters, write_pairs
from retrieval.errors import InvalidSettings
from retrieval.text.languages import IndexLanguage

ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)
ApiAuth = Literal["api_key", "iam"]
RERANKER_CONTEXT = "gavel:reranker:"  # with the stage's name: a key of cdk.context.json (gavel/workspace/cdk_context.py)


class StageError(ValueError):
    """The stage values of cdk.json cannot be used."""


@dataclass(frozen=True, slots=True)
class RerankerArtefact:
    """A trained re-ranker that a stage serves.

    Attributes:
        model_key: key of model.tar.gz in the towers bucket; the archive holds the booster and its inference script. None (absent
            in cdk.json) takes the key that `gavel aws publish-ranker` wrote into cdk.context.json; without one there is no
            endpoint yet.
        image: container image URI, which may contain `${AWS::Region}` and `${AWS::URLSuffix}`.
        instance: instance type, such as "ml.c7i.large".
        instances: minimum number of instances, > 0.
        most_instances: maximum number of instances.
    """

    model_key: str | None
    image: str
    instance: str
    instances: int
    most_instances: int


@dataclass(frozen=True, slots=True)
class Stage:
    """The settings of one stage in cdk.json.

    Attributes:
        name: dev, prod or another key of `stages`.
        retain_data: True if data outlives the stack.
        protect: True protects the storage stack and the table of interactions against deletion. A first deployment that failed
            can be repeated only without it.
        azs: availability zones of the network, 1 to 3.
        zones: their names, such as ["us-west-1a", "us-west-1c"], for regions where some zones lack services; None (absent in
            cdk.json) takes the region's first ones.
        vpc_cidr: addresses of the network, such as "10.0.0.0/16"; None (absent in cdk.json) takes these.
        opensearch_version: engine version, 2.19 or newer.
        opensearch_instance: instance type of the data nodes.
        opensearch_nodes: number of data nodes, a multiple of azs.
        opensearch_volume_gib: size of each data node's gp3 volume in GiB.
        opensearch_dedicated_masters: number of dedicated masters, 0 or 3.
        index_shards: primary shards of new indices, 1 to 64.
        index_replicas: copies of each shard, fewer than opensearch_nodes.
        language: language by which new indices stem words in Latin letters.
        query_memory_mib: memory of the query Lambda in MiB; Lambda assigns CPU in proportion.
        hyperparameters: fields of retrieval.config.settings.ScoringParameters that differ in this stage; None if none does.
        query_tower: query tower that encodes queries: "full", or "small" if every published tower has a small query tower.
        indexer_memory_mib: memory of the bulk-index Lambda in MiB.
        indexer_concurrency: parts that are indexed at a time, >= 2 (the minimum of an SQS event source).
        reserve_concurrency: True reserves the bulk-index Lambda's concurrency. The account must keep 100 executions unreserved.
        requests_per_second: steady rate of requests of one API key.
        request_burst: requests above the steady rate that are let through at once.
        requests_per_day: daily quota of requests of one API key.
        cors_origins: origins whose pages may call the API; empty for none.
        operator_role: ARN of an IAM role that gets an operator's permissions inside OpenSearch, for people who have a way into
            the network; None (absent in cdk.json) for none. `gavel aws` needs none.
        api_auth: proof that callers show: "api_key" for an API key, "iam" for an IAM signature.
        waf: True if AWS WAF protects the API.
        processing_image: container image of the embedding job.
        instance_ladder: instance types of the embedding job; the first available type is used.
        instance_count: number of instances of the embedding job.
        embedding_hours: hours after which the embedding job is stopped.
        item_files: how the job reads catalogue files: decimal, dates, encoding, attributes, fetch ("true" fetches photos of http(s)
            addresses), photo_host, and column (a list such as ["image=img"]); None, or
            left out, if the files tell it themselves.
        isolate_job: True if the job has no network. Then photos must be in the bucket of new items, not behind s3:// URIs.
        rebuild_instance_count: number of instances of the job that embeds all items with a new tower.
        rebuild_hours: hours after which that job is stopped, 1 to 120.
        schedules: expressions of EventBridge Scheduler; the later schedules find a late file.
        schedule_timezone: IANA name of the schedules' time zone; the date of a night is always the UTC date.
        reranker: re-ranker to serve once one is published; None (absent in cdk.json) serves none, then searches answer in
            first-stage order.
        log_retention_days: days for which log groups keep lines.
        expiry_days: days after which objects of expiring buckets, and old versions of all objects, are deleted.
        alarm_email: e-mail address for alarms and notices; None (absent in cdk.json) for no e-mail.
        p99_latency_ms: p99 latency of the query API in milliseconds at which an alarm rings.
        release_age_hours: hours without a published release after which an alarm rings, 1 to 168.
        monthly_budget_usd: monthly budget in dollars; notices come at 80 % of actual and 100 % of forecast spending.
    """

    name: str
    retain_data: bool
    protect: bool
    azs: int
    zones: list[str] | None
    vpc_cidr: str | None
    opensearch_version: str
    opensearch_instance: str
    opensearch_nodes: int
    opensearch_volume_gib: int
    opensearch_dedicated_masters: int
    index_shards: int
    index_replicas: int
    language: IndexLanguage
    query_memory_mib: int
    hyperparameters: dict[str, Any] | None
    query_tower: QueryTowerKind
    indexer_memory_mib: int
    indexer_concurrency: int
    reserve_concurrency: bool
    requests_per_second: int
    request_burst: int
    requests_per_day: int
    cors_origins: list[str]
    operator_role: str | None
    api_auth: ApiAuth
    waf: bool
    processing_image: str
    instance_ladder: list[str]
    instance_count: int
    embedding_hours: int
    item_files: dict[str, Any] | None
    isolate_job: bool
    rebuild_instance_count: int
    rebuild_hours: int
    schedules: list[str]
    schedule_timezone: str
    reranker: RerankerArtefact | None
    log_retention_days: int
    expiry_days: int
    alarm_email: str | None
    p99_latency_ms: int
    release_age_hours: int
    monthly_budget_usd: int

    def __post_init__(self) -> None:
        rules = (
            (1 <= self.azs <= 3, "azs", "1 to 3"),
            (self.zones is None or len(set(self.zones)) == self.azs, "zones", f"{self.azs} different names, as azs says"),
            (
                self.vpc_cidr is None or _holds_subnets(self.vpc_cidr, self.azs),
                "vpc_cidr",
                "IPv4 networks from /16, with a /24 for each zone",
            ),
            (_version(self.opensearch_version) >= (2, 19), "opensearch_version", "2.19 or newer"),
            (self.opensearch_nodes > 0 and self.opensearch_nodes % self.azs == 0, "opensearch_nodes", "multiples of azs"),
            (self.opensearch_dedicated_masters in (0, 3), "opensearch_dedicated_masters", "0 or 3"),
            (1 <= self.index_shards <= 64, "index_shards", "1 to 64"),
            (0 <= self.index_replicas < self.opensearch_nodes, "index_replicas", "numbers from 0, below opensearch_nodes"),
            (self.language in typing.get_args(IndexLanguage), "language", ", ".join(typing.get_args(IndexLanguage))),
            (self.indexer_concurrency >= 2, "indexer_concurrency", "whole numbers from 2"),
            (bool(self.instance_ladder), "instance_ladder", "one instance type or more"),
            (self.instance_count > 0, "instance_count", "whole numbers from 1"),
            (self.rebuild_instance_count > 0, "rebuild_instance_count", "whole numbers from 1"),
            (1 <= self.rebuild_hours <= 120, "rebuild_hours", "1 to 120"),  # SageMaker's maximum
            (bool(self.schedules), "schedules", "one schedule or more"),
            (
                self.operator_role is None or ROLE_ARN.fullmatch(self.operator_role) is not None,
                "operator_role",
                "ARNs of IAM roles, such as arn:aws:iam::123456789012:role/on-call",
            ),
            (self.api_auth in typing.get_args(ApiAuth), "api_auth", " or ".join(typing.get_args(ApiAuth))),
            (1 <= self.release_age_hours <= 168, "release_age_hours", "1 to 168"),
        )
        for holds, name, allowed in rules:
            if not holds:
                raise StageError(f"cdk.json: stages.{self.name}.{name} is {getattr(self, name)!r}; allowed are {allowed}")
        _ = self.numbers, self.item_file_variables

    @property
    def numbers(self) -> ScoringParameters:
        """Scoring parameters of the stage, with defaults for those that `hyperparameters` does not name."""
        values = self.hyperparameters or {}
        names = [field.name for field in fields(ScoringParameters)]
        if unknown := sorted(set(values) - set(names)):
            raise StageError(f"cdk.json: stages.{self.name}.hyperparameters.{unknown[0]} is unknown; it takes {', '.join(names)}")
        texts = {name: write_pairs(value) if isinstance(value, Mapping) else str(value) for name, value in values.items()}
        try:
            return ScoringParameters.from_env({PREFIX + name.upper(): text for name, text in texts.items()})
        except InvalidSettings as error:
            raise StageError(f"cdk.json: stages.{self.name}.hyperparameters: {error}") from error

    @property
    def item_file_variables(self) -> dict[str, str]:
        """Environment variables of the embedding job for `item_files`."""
        variables = {}
        for name, value in (self.item_files or {}).items():
            texts = [value] if isinstance(value, str) else value
            where = f"cdk.json: stages.{self.name}.item_files.{name}"
            if name not in ITEM_FILE_VARIABLES:
                raise StageError(f"{where} is unknown; it takes {', '.join(ITEM_FILE_VARIABLES)}")
            if (
                not isinstance(texts, list)
                or not texts
                or any(not isinstance(text, str) or len(text.split()) != 1 for text in texts)
            ):
                raise StageError(f"{where} is {value!r}; it must be a text, or a list of texts, without spaces")
            variables[ITEM_FILE_VARIABLES[name]] = " ".join(texts)
        return variables


def read_stage(stages: Any, name: Any, published_reranker: Any = None) -> Stage:
    """Read one stage of the context's `stages`.

    Args:
        stages: stage name -> values, as in cdk.json.
        name: name of the stage.
        published_reranker: key of the re-ranker that was published last, from cdk.context.json; None if none was. A `model_key`
            in cdk.json overrides it.
    """
    if not isinstance(stages, Mapping) or name not in stages:
        have = ", ".join(stages) if isinstance(stages, Mapping) else "none"
        raise StageError(f"cdk.json has no stage {name!r}; it has {have}: pass -c stage=NAME")
    stage = Stage(name=name, **_values(Stage, stages[name], f"stages.{name}", exclude={"name"}))
    if stage.reranker is None or stage.reranker.model_key or published_reranker is None:
        return stage
    if not isinstance(published_reranker, str) or not published_reranker.endswith(".tar.gz"):
        raise StageError(
            f"{RERANKER_CONTEXT}{name} of cdk.context.json is {published_reranker!r}; it must be the key of a model.tar.gz: "
            f"`gavel aws publish-ranker --stage {name}` writes it"
        )
    return replace(stage, reranker=replace(stage.reranker, model_key=published_reranker))


def _values(kind: type, values: Mapping[str, Any], where: str, exclude: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    """Check the values of a dataclass against its annotations."""
    field_types = {field.name: typing.get_type_hints(kind)[field.name] for field in fields(kind) if field.name not in exclude}
    nulls = {name: None for name, field_type in field_types.items() if type(None) in typing.get_args(field_type)}
    values = nulls | dict(values)  # CDK drops nulls
    if wrong := sorted(set(values) ^ set(field_types)):
        state = "is unknown" if wrong[0] in values else "is missing"
        raise StageError(f"cdk.json: {where}.{wrong[0]} {state}; {where} takes {', '.join(field_types)}")
    return {name: _checked(values[name], field_types[name], f"{where}.{name}") for name in field_types}


def _checked(value: Any, field_type: Any, where: str) -> Any:
    allowed = typing.get_args(field_type) if isinstance(field_type, types.UnionType) else (field_type,)
    if RerankerArtefact in allowed and isinstance(value, Mapping):
        return RerankerArtefact(**_values(RerankerArtefact, value, where))
    plain = [str if typing.get_origin(kind) is Literal else typing.get_origin(kind) or kind for kind in allowed]
    if type(value) not in plain:  # type(), because isinstance takes a bool for an int
        raise StageError(f"cdk.json: {where} is {value!r}; it must be {' or '.join(kind.__name__ for kind in plain)}")
    return value


def _holds_subnets(cidr: str, subnets: int) -> bool:
    """True for an IPv4 network with room for so many subnets of 256 addresses."""
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError:
        return False
    return 16 <= network.prefixlen <= 24 and 2 ** (24 - network.prefixlen) >= subnets


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))
