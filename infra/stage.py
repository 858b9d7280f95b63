"""The settings of a stage, read from cdk.json and checked."""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from retrieval.config.settings import PREFIX, QueryTowerKind, ScoringParameters, write_pairs
from retrieval.errors import InvalidSettings
from retrieval.text.languages import IndexLanguage

ApiAuth = Literal["api_key", "iam"]


class StageError(ValueError):
    """The stage values of cdk.json cannot be used."""


@dataclass(frozen=True, slots=True)
class RerankerArtefact:
    """A trained re-ranker that a stage serves.

    Attributes:
        model_key: key of model.tar.gz in the towers bucket, with the booster and its inference script.
        image: container image URI; `${AWS::Region}` and `${AWS::URLSuffix}` may stand in it.
        instance: such as "ml.c7i.large".
        instances: minimum, > 0.
        most_instances: to which the endpoint may grow.
    """

    model_key: str
    image: str
    instance: str
    instances: int
    most_instances: int


@dataclass(frozen=True, slots=True)
class Stage:
    """The settings of one stage in cdk.json.

    Attributes:
        name: dev, prod or another key of `stages`.
        retain_data: data outlives the stack, which is protected against deletion.
        azs: availability zones of the network, 1 to 3.
        opensearch_version: engine version, 2.19 or newer.
        opensearch_instance: instance type of the data nodes.
        opensearch_nodes: data nodes, a multiple of azs.
        opensearch_volume_gib: gp3 volume of each data node.
        opensearch_dedicated_masters: 0 or 3.
        index_shards: primary shards of an index that is made from now on.
        index_replicas: copies of each shard, fewer than opensearch_nodes.
        language: of words in Latin letters, by which an index that is made stems them.
        query_memory_mib: memory of the query Lambda; CPU follows it.
        hyperparameters: fields of retrieval.config.settings.ScoringParameters that differ in this stage; None if none does.
        query_tower: what encodes queries: full, or small where every tower that is published has a small query tower.
        indexer_memory_mib: memory of the bulk-index Lambda.
        indexer_concurrency: parts that are indexed at once, >= 2 (the least that an SQS event source allows).
        requests_per_second: steady rate that one API key may have.
        request_burst: requests above it that are let through at once.
        requests_per_day: quota of one API key.
        cors_origins: origins whose pages may call the API; empty for none.
        api_auth: what a caller shows: an API key, or an IAM signature beside it.
        waf: True if AWS managed rules protect the API.
        processing_image: container image of the embedding job.
        instance_ladder: instance types of the embedding job, the first that can be had is taken.
        instance_count: instances of the embedding job.
        embedding_hours: when the embedding job is stopped.
        isolate_job: True if the job has no network; then photos must be in the bucket of new items, none behind s3:// URIs.
        rebuild_instance_count: instances of the job that embeds everything anew for a new tower.
        rebuild_hours: when that job is stopped, 1 to 120.
        schedules: EventBridge Scheduler expressions; the later ones find a late file.
        schedule_timezone: IANA name of the schedules; the date of a night is always that of UTC.
        reranker: absent, None, until one is trained: then search answers in first-stage order.
        log_retention_days: of every log group.
        expiry_days: after how many days new items and old versions of objects are deleted.
        alarm_email: who is told of alarms; absent, None, for nobody.
        p99_latency_ms: of the query API, above which an alarm rings.
        release_age_hours: without a published release, after which an alarm rings; 1 to 168.
        monthly_budget_usd: spending above which the budget warns.
    """

    name: str
    retain_data: bool
    azs: int
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
    requests_per_second: int
    request_burst: int
    requests_per_day: int
    cors_origins: list[str]
    api_auth: ApiAuth
    waf: bool
    processing_image: str
    instance_ladder: list[str]
    instance_count: int
    embedding_hours: int
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
            (1 <= self.rebuild_hours <= 120, "rebuild_hours", "1 to 120"),  # SageMaker's longest
            (bool(self.schedules), "schedules", "one schedule or more"),
            (self.api_auth in typing.get_args(ApiAuth), "api_auth", " or ".join(typing.get_args(ApiAuth))),
            (1 <= self.release_age_hours <= 168, "release_age_hours", "1 to 168"),
        )
        for holds, name, allowed in rules:
            if not holds:
                raise StageError(f"cdk.json: stages.{self.name}.{name} is {getattr(self, name)!r}; allowed are {allowed}")
        _ = self.numbers

    @property
    def numbers(self) -> ScoringParameters:
        """Return the scoring parameters of the stage, with defaults for those that it does not name."""
        values = self.hyperparameters or {}
        names = [field.name for field in fields(ScoringParameters)]
        if unknown := sorted(set(values) - set(names)):
            raise StageError(f"cdk.json: stages.{self.name}.hyperparameters.{unknown[0]} is unknown; it takes {', '.join(names)}")
        texts = {name: write_pairs(value) if isinstance(value, Mapping) else str(value) for name, value in values.items()}
        try:
            return ScoringParameters.from_env({PREFIX + name.upper(): text for name, text in texts.items()})
        except InvalidSettings as error:
            raise StageError(f"cdk.json: stages.{self.name}.hyperparameters: {error}") from error


def read_stage(stages: Any, name: Any) -> Stage:
    """Read one stage of the context's `stages`.

    Args:
        stages: stage name -> its values, as cdk.json has them.
        name: of the stage.

    Raises:
        StageError: there is no such stage, or a value is missing, unknown, of the wrong type or out of range.
    """
    if not isinstance(stages, Mapping) or name not in stages:
        have = ", ".join(stages) if isinstance(stages, Mapping) else "none"
        raise StageError(f"cdk.json has no stage {name!r}; it has {have}: pass -c stage=NAME")
    return Stage(name=name, **_values(Stage, stages[name], f"stages.{name}", exclude={"name"}))


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


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))
