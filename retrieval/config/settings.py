"""Settings of a Gavel process from GAVEL_* environment variables: its surroundings, and the parameters of searches.

The type and limits of a field determine how its variable is read. `gavel.toml` (gavel/workspace/config_file.py) is read in the same
way.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from retrieval.config.index_spec import AUTO_INDEX, INDEX_TYPES, IndexSpec, parse_bytes
from retrieval.errors import InvalidInput, InvalidSettings
from retrieval.text.analysis import check_text
from retrieval.text.languages import IndexLanguage

IndexKind = Literal["faiss", "opensearch"]
OpenSearchAuth = Literal["none", "sigv4"]
QueryTowerKind = Literal["full", "small"]
QueryExpansion = Literal["none", "rm3"]
PREFIX = "GAVEL_"
EVENTS_KEYS = PREFIX + "EVENTS_KEYS"  # a secret: not in Settings, because `gavel config` prints all settings
# Variables of the flags by which commands and the embedding job read catalogue files; not in Settings, because searches ignore them
ITEM_FILE_VARIABLES = {
    name: PREFIX + name.upper() for name in ("column", "decimal", "dates", "encoding", "attributes", "fetch", "photo_host")
}
T = TypeVar("T")


def limited(default: Any, *, least: float | None = None, above: float | None = None, most: float | None = None) -> Any:
    """Declare a numeric field with the limits that read_field() enforces: >= least, > above, <= most."""
    return field(default=default, metadata={"least": least, "above": above, "most": most})


def _index_text(text: str) -> str:
    """Return the text of an index spec, or "auto", after checking it."""
    if text != AUTO_INDEX:
        IndexSpec.parse(text)
    return text


def _memory_text(text: str) -> str:
    """Return the text of a size of memory after checking it; empty text means no size."""
    if text:
        parse_bytes(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """Split `HOST:PORT`, such as `127.0.0.1:9464` or `[::1]:9464`, into host and port.

    Raises:
        InvalidInput: the text has no host, or no port of 1 to 65535.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535) or (":" in host and host[0] != "["):
        raise InvalidInput("give a host and a port of 1 to 65535, such as 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def _address_text(text: str) -> str:
    """Return the text of an address after checking it; empty text means no address."""
    if text:
        split_address(text)
    return text


@dataclass(frozen=True, slots=True)
class Settings:
    """The surroundings of a process. Numbers that change search results are in ScoringParameters.

    Attributes:
        home: folder of all files that Gavel writes on one machine.
        index: kind of index that stores the items.
        embedded_index: vector index of an embedded index: "auto" chooses the index type by the number of items and the memory, any
            other text is a spec as `gavel index advise` prints it (IndexSpec). The vector index is built again from the items if
            its index type or its codes change. Parameters of a graph that it does not name are hnsw_m,
            hnsw_ef_construction and hnsw_ef_search.
        index_memory: memory that "auto" may plan for the vector index, such as 8GB; empty takes half of the machine's.
        opensearch_url: address of OpenSearch; several nodes of a cluster are separated by commas. Used with index="opensearch".
        opensearch_auth: "sigv4" signs requests with the AWS role of the process, as Amazon OpenSearch Service requires.
        index_alias: alias that points to the live index.
        index_shards: number of shards of a new index, 1 to 64: processes of an embedded index, primary shards on OpenSearch.
        index_replicas: copies per shard of a new index, >= 0; only for OpenSearch.
        old_indices: number of indices beside the live one that `gavel index` keeps for a rollback, >= 1; older ones are deleted.
        min_quality: least share of the live index's nDCG@10 that an index must have on judged val queries to replace it, 0 to 1; 0
            does not compare them.
        language: language by which a new index stems words in Latin letters; Arabic words are stemmed in every index.
        cors_origins: origins whose pages may read answers of the query API, separated by commas; empty for none.
        towers_uri: folder or s3:// prefix of the tower artefacts, with one sub-folder per tower_id; empty means home/towers.
        tower_id: id of the only tower that may encode queries; empty takes the tower of the live index.
        query_tower: query encoder: "full", or "small" for the one that `gavel distill query` makes of it.
        candidates: number of candidates that are re-ranked, >= 1.
        request_timeout_s: seconds until a request to OpenSearch is given up; searches have retrieve_timeout_s, writes at least 120.
        retrieve_timeout_s: seconds until a request of a search to the index is given up.
        deadline_s: seconds after which a search begins no further step; it answers without the step, or fails.
        max_wait_s: seconds that a request to `gavel serve` may wait for its turn; one that would wait longer is refused at once.
        cached_queries: maximum number of cached query vectors, and of cached buyer vectors, per process, >= 0.
        cached_answers_s: seconds that an answer is cached; 0 caches none.
        cached_mb: maximum megabytes of each cache of a process, >= 0. The caches hold query vectors, photo vectors, buyer
            vectors and answers.
        ranker_endpoint: name of the SageMaker endpoint that re-ranks; empty re-ranks in process, or not at all.
        ranker_timeout_s: seconds until the endpoint is given up; the search then answers in the order of retrieval.
        cross_encoder: hub name or folder of a cross-encoder that orders the best lots of a search on this machine; empty uses none.
        cross_encoder_candidates: number of lots that the cross-encoder orders, the best of the re-ranker, >= 1.
        cross_encoder_timeout_s: seconds until the cross-encoder is given up; the search then answers in the order of the re-ranker.
        query_expansion: "rm3" adds words of the best keyword matches to keyword searches; "none" searches with the words as typed.
        embeddings_bucket: bucket of releases, used if a message to the bulk indexer names only a key.
        events_stream: Firehose delivery stream for POST /events; without it events go to files below home, and Lambda refuses them.
        buyer_events_table: DynamoDB table of buyers' recent interactions; without it they go to a file below home, and on Lambda
            nowhere.
        buyer_events_days: days that an interaction is stored there, 1 to 3650.
        writes_per_second: maximum events and erasures per second from one client address of `gavel serve`; 0 for no limit.
        searches_per_second: maximum searches per second from one client address of `gavel serve`, where each query of a POST
            counts; 0 for no limit.
        queries_per_request: maximum number of queries in one POST /search, 1 to 20; set 1 if a quota counts requests.
        metrics_address: HOST:PORT where `gavel serve` answers /metrics for Prometheus; empty measures nothing.
        stage: name of the deployment; metrics have it as a dimension.
    """

    home: Path = Path(".gavel")
    index: IndexKind = "faiss"
    embedded_index: str = field(
        default=AUTO_INDEX,
        metadata={"read": _index_text, "words": f"auto, or a family, and name=number after a colon: {', '.join(INDEX_TYPES)}"},
    )
    index_memory: str = field(default="", metadata={"read": _memory_text, "words": "a size such as 8GB"})
    opensearch_url: str = "http://127.0.0.1:9200"
    opensearch_auth: OpenSearchAuth = "none"
    index_alias: str = "auction-items"
    index_shards: int = limited(1, least=1, most=64)
    index_replicas: int = limited(0, least=0)
    old_indices: int = limited(2, least=1)
    min_quality: float = limited(0.7, least=0, most=1)
    language: IndexLanguage = "en"
    cors_origins: str = ""
    towers_uri: str = ""
    tower_id: str = ""
    query_tower: QueryTowerKind = "full"
    candidates: int = limited(50, least=1)
    request_timeout_s: float = limited(10.0, above=0)
    retrieve_timeout_s: float = limited(2.0, above=0)
    deadline_s: float = limited(5.0, above=0)
    max_wait_s: float = limited(0.5, least=0)
    cached_queries: int = limited(10_000, least=0)
    cached_answers_s: float = limited(5.0, least=0)  # equal to the maximum delay until a swapped alias is noticed
    cached_mb: float = limited(64.0, least=0)
    ranker_endpoint: str = ""
    # half of the time that a whole query may take; a healthy endpoint needs a fifth of this
    ranker_timeout_s: float = limited(0.05, above=0)
    cross_encoder: str = ""
    cross_encoder_candidates: int = limited(20, least=1)
    cross_encoder_timeout_s: float = limited(0.5, above=0)
    query_expansion: QueryExpansion = "none"
    embeddings_bucket: str = ""
    events_stream: str = ""
    buyer_events_table: str = ""
    buyer_events_days: int = limited(90, least=1, most=3_650)
    writes_per_second: float = limited(10.0, least=0)
    searches_per_second: float = limited(0.0, least=0)
    queries_per_request: int = limited(20, least=1, most=20)
    metrics_address: str = field(default="", metadata={"read": _address_text, "words": "host:port"})
    stage: str = "local"

    @property
    def origins(self) -> list[str]:
        """Return cors_origins as a list."""
        return [origin for origin in self.cors_origins.split(",") if origin]

    @property
    def towers(self) -> str:
        """Return the folder or URI of tower artefacts: towers_uri, or home/towers if it is empty."""
        return self.towers_uri or str(self.home / "towers")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        """Read GAVEL_HOME, GAVEL_INDEX, GAVEL_OPENSEARCH_URL (or OPENSEARCH_URL) and so on; unset ones keep their default.

        Raises:
            InvalidSettings: a value cannot be read; the message names the variable and the allowed values.
        """
        common = {PREFIX + "OPENSEARCH_URL": env.get("OPENSEARCH_URL") or ""}
        return read_env(cls, common | {name: value for name, value in env.items() if value})

    def to_env(self) -> dict[str, str]:
        """Return the environment that from_env() reads back as an equal object."""
        return write_env(self)


@dataclass(frozen=True, slots=True)
class EventWeights:
    """The relative weight of each event type for a buyer's interest.

    Attributes:
        view: weight of looking at an item.
        add_to_cart: weight of putting an item into the cart or on a watch list.
        bid: weight of bidding on an item.
        purchase: weight of buying an item.
    """

    view: float = limited(1.0, above=0)
    add_to_cart: float = limited(5.0, above=0)
    bid: float = limited(7.0, above=0)
    purchase: float = limited(10.0, above=0)


@dataclass(frozen=True, slots=True)
class ScoringParameters:
    """The numbers that change search results; they must be equal in training and serving.

    Attributes:
        event_weights: weights of interactions, in buyers' vectors and in training.
        buyer_share: weight of the buyer's vector in the search vector, 0 to 1; the query vector has the rest. The default was set
            by hand: it decides between several meanings of a query, but does not change the subject.
        buyer_half_life_days: age in days at which an interaction has half its weight in the weighted average; None never decays.
        photo_words_share: weight of the words beside a photo in the search vector, 0 to 1; the photo has the rest.
        hnsw_m: links per vector in an HNSW graph, 2 to 512. An existing graph keeps its own until it is built again.
        hnsw_ef_construction: candidates that are held while a vector is added to a graph, >= 1. An existing graph keeps its own
            until it is built again.
        hnsw_ef_search: candidates that are held while a graph is searched; 0 derives them from the number of items in an embedded
            index (IndexSpec.ef_search_for), and means 100 on OpenSearch.
        bm25_k1: saturation of term frequency, > 0: the lower, the less repeated words add. On OpenSearch only for a new index.
        bm25_b: length normalisation, 0 to 1: the higher, the less long texts score. On OpenSearch only for a new index.
    """

    event_weights: EventWeights = EventWeights()
    buyer_share: float = limited(0.2, least=0, most=1)
    buyer_half_life_days: float | None = limited(None, above=0)
    photo_words_share: float = limited(0.5, least=0, most=1)
    hnsw_m: int = limited(16, least=2, most=512)
    hnsw_ef_construction: int = limited(256, least=1)
    hnsw_ef_search: int = limited(0, least=0)
    bm25_k1: float = limited(1.2, above=0)
    bm25_b: float = limited(0.75, least=0, most=1)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "ScoringParameters":
        """Read GAVEL_EVENT_WEIGHTS ("view=1,add_to_cart=5"), GAVEL_BUYER_SHARE and so on; unset ones keep their default.

        Raises:
            InvalidSettings: a value cannot be read; the message names the variable and the allowed values.
        """
        return read_env(cls, env)

    def to_env(self) -> dict[str, str]:
        """Return the environment that from_env() reads back as an equal object."""
        return write_env(self)


@cache
def scoring_parameters() -> ScoringParameters:
    """Return the scoring parameters of this process; the environment is read once, at the first call."""
    return ScoringParameters.from_env()


def read_env(cls: type[T], env: Mapping[str, str]) -> T:
    """Make a dataclass from the environment variables of its fields; an unset or empty variable keeps the default.

    Raises:
        InvalidSettings: a value cannot be read.
    """
    given = {f: env[name] for f in fields(cls) if env.get(name := PREFIX + f.name.upper())}  # type: ignore[arg-type]
    return cls(**{f.name: read_field(cls, f, text, PREFIX + f.name.upper()) for f, text in given.items()})


def write_env(values: Any) -> dict[str, str]:
    """Return variable name -> value, from which read_env() makes an equal dataclass."""
    return {PREFIX + f.name.upper(): _written(getattr(values, f.name)) for f in fields(values)}


def read_field(cls: type, of: Field[Any], text: str, name: str) -> Any:
    """Read the value of a field, by its type and limits.

    Args:
        cls: dataclass of the field.
        of: field to read.
        text: value as text. A nested dataclass is written `name=value,name=value`; names that are left out keep their default.
        name: name of the variable or key, for the message.

    Raises:
        InvalidSettings: the value cannot be read; the message names the allowed values.
    """
    try:
        check_text(text, name)
    except InvalidInput as error:
        raise InvalidSettings(str(error)) from error
    kinds = _kinds(cls, of.name)
    if NoneType in kinds and text.lower() == "none":
        return None
    kind = kinds[0]
    if is_dataclass(kind):
        return _read_pairs(kind, text, name)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise InvalidSettings(f"{name} is {text!r}; allowed are {', '.join(get_args(kind))}")
        return text
    if "read" in of.metadata:
        try:
            return of.metadata["read"](text)
        except InvalidInput as error:
            raise InvalidSettings(f"{name} is {text!r}: {error}") from error
    return _read_number(cls, of, text, name) if kind in (int, float) else kind(text)


def allowed(cls: type, of: Field[Any]) -> str:
    """Describe the allowed values of a field in words."""
    if "words" in of.metadata:
        return str(of.metadata["words"])
    kinds = _kinds(cls, of.name)
    words = {str: "text", Path: "a path", int: "whole numbers", float: "seconds" if of.name.endswith("_s") else "numbers"}
    if get_origin(kinds[0]) is Literal:
        return ", ".join(get_args(kinds[0]))
    if is_dataclass(kinds[0]):
        return ", ".join(f"{part.name}=<number>" for part in fields(kinds[0]))
    limits = {"least": "from", "above": "above", "most": "to"}
    ranges = [f"{word} {of.metadata[limit]:g}" for limit, word in limits.items() if of.metadata.get(limit) is not None]
    return " ".join([words[kinds[0]], *ranges, *(["or none"] if NoneType in kinds else [])])


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _kinds(cls: type, name: str) -> tuple[Any, ...]:
    """Return the types of a field; for an optional field first that of the value, then NoneType."""
    hint = _hints(cls)[name]
    return get_args(hint) if NoneType in get_args(hint) else (hint,)


def _read_number(cls: type, of: Field[Any], text: str, name: str) -> Any:
    kind = _kinds(cls, of.name)[0]
    try:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError
    except ValueError:
        raise InvalidSettings(f"{name} is {text!r}, not a number") from None
    least, above, most = (of.metadata.get(limit) for limit in ("least", "above", "most"))
    outside = (
        (least is not None and number < least) or (above is not None and number <= above) or (most is not None and number > most)
    )
    if outside or (kind is int and number != int(number)):
        raise InvalidSettings(f"{name} is {number:g}; allowed are {allowed(cls, of)}")
    return kind(number)


def _read_pairs(kind: Any, text: str, name: str) -> Any:
    parts = {part.name: part for part in fields(kind)}
    values = {}
    for pair in filter(None, (pair.strip() for pair in text.split(","))):
        key, _, value = (word.strip() for word in pair.partition("="))
        if key not in parts:
            raise InvalidSettings(f"{name} has no {key!r}; allowed are {', '.join(f'{part}=<number>' for part in parts)}")
        values[key] = read_field(kind, parts[key], value, f"{key} in {name}")
    return kind(**values)


def write_pairs(values: Mapping[str, Any]) -> str:
    """Write the fields of a nested dataclass as `name=value,…`, which read_field() reads back."""
    return ",".join(f"{name}={value}" for name, value in values.items())


def _written(value: Any) -> str:
    return write_pairs(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else str(value)
