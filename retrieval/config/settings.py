"""Settings of a Gavel process from GAVEL_* environment variables: its surroundings, and the parameters of searches.

A field's type and limits say how its variable is read; `gavel.toml` (gavel/workspace/config_file.py) is read by the same rule.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from retrieval.config.index_spec import INDEX_TYPES, IndexSpec
from retrieval.errors import InvalidInput, InvalidSettings
from retrieval.text.analysis import check_text
from retrieval.text.languages import IndexLanguage

IndexKind = Literal["faiss", "opensearch"]
OpenSearchAuth = Literal["none", "sigv4"]
QueryTowerKind = Literal["full", "small"]
PREFIX = "GAVEL_"
EVENTS_KEYS = PREFIX + "EVENTS_KEYS"  # a secret, so no field of Settings: those are printed
T = TypeVar("T")


def limited(default: Any, *, least: float | None = None, above: float | None = None, most: float | None = None) -> Any:
    """Declare a numeric field with the limits that read_field() enforces."""
    return field(default=default, metadata={"least": least, "above": above, "most": most})


def _index_text(text: str) -> str:
    """Return the text of an index spec after checking it."""
    IndexSpec.parse(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """Split `HOST:PORT`, such as `127.0.0.1:9464` or `[::1]:9464`.

    Raises:
        InvalidInput: it has no host or no port of 1 to 65535.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535) or (":" in host and host[0] != "["):
        raise InvalidInput("give a host and a port of 1 to 65535, such as 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def _address_text(text: str) -> str:
    """Return an address after checking it; empty is none."""
    if text:
        split_address(text)
    return text


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of where a process runs; those that change results are in ScoringParameters.

    Attributes:
        home: folder of everything that Gavel makes on one machine.
        index: which index holds the lots.
        embedded_index: vector index of an embedded index, as `gavel index advise` prints it (IndexSpec); built again from the lots
            when its family or its codes change. What it leaves open of a graph is as the hyperparameters have it.
        opensearch_url: where OpenSearch answers, the nodes of a cluster with commas between; used with index="opensearch".
        opensearch_auth: "sigv4" signs requests with the AWS role of the process, as Amazon OpenSearch Service asks.
        index_alias: name behind which the live index stands.
        index_shards: parts that the lots of an index made from now on are cut into: processes of an embedded one, primary shards
            on OpenSearch.
        index_replicas: copies of each shard of an index that is made, >= 0; OpenSearch alone.
        language: of words in Latin letters, by which an index that is made stems them; Arabic words are stemmed in every index.
        cors_origins: origins whose pages may read answers of the query API, with commas between; empty for none.
        towers_uri: folder or s3:// prefix of the tower artefacts, one sub-folder a tower_id; empty means home/towers.
        tower_id: the only tower that queries may be encoded with; empty takes the one that the live index names.
        query_tower: what encodes queries: "full", or the "small" one that `gavel distill query` made of it.
        candidates: how many first-stage candidates go to the re-ranker, >= 1.
        request_timeout_s: seconds until one request to the index is given up.
        retrieve_timeout_s: seconds until one request of a search to the index is given up.
        deadline_s: seconds after which a search begins no further stage, and answers without it or not at all.
        max_wait_s: seconds that a request to `gavel serve` may wait for its turn; one that would wait longer is refused at once.
        cached_queries: how many encoded queries, and how many buyer vectors, a process keeps, >= 0.
        cached_answers_s: seconds for which an answer is kept; 0 keeps none.
        cached_mb: megabytes that each cache of a process may take, >= 0: encoded queries, encoded photos, buyer
            vectors, answers.
        ranker_endpoint: name of the SageMaker endpoint that re-ranks; empty re-ranks in process, or not at all.
        ranker_timeout_s: seconds until the endpoint's answer is given up, and search answers in first-stage order.
        embeddings_bucket: bucket of releases, for a message to the bulk indexer that names a key alone.
        events_stream: Firehose delivery stream that POST /events sends to; empty writes files below home, or refuses on Lambda.
        buyer_events_table: DynamoDB table of buyers' recent acts; empty keeps a file below home, or none on Lambda.
        buyer_events_days: how long an interaction is stored there, 1 to 3650 days.
        writes_per_second: events and erasures that `gavel serve` takes from one client address; 0 for no limit.
        searches_per_second: searches that it takes from one client address, each query of a POST counted; 0 for no limit.
        queries_per_request: queries that one POST /search may hold, 1 to 20; 1 where a quota counts requests.
        metrics_address: where `gavel serve` answers /metrics for Prometheus, as HOST:PORT; empty measures nothing.
        stage: what measurements are filed under.
    """

    home: Path = Path(".gavel")
    index: IndexKind = "faiss"
    embedded_index: str = field(
        default="hnsw",
        metadata={"read": _index_text, "words": f"a family, and name=number after a colon: {', '.join(INDEX_TYPES)}"},
    )
    opensearch_url: str = "http://127.0.0.1:9200"
    opensearch_auth: OpenSearchAuth = "none"
    index_alias: str = "auction-items"
    index_shards: int = limited(1, least=1, most=64)
    index_replicas: int = limited(0, least=0)
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
    cached_answers_s: float = limited(5.0, least=0)  # as long as a swapped alias may go unseen
    cached_mb: float = limited(64.0, least=0)
    ranker_endpoint: str = ""
    ranker_timeout_s: float = limited(
        0.05, above=0
    )  # half of what a whole query may take; an endpoint that is well needs a fifth of it
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
        """cors_origins, one by one."""
        return [origin for origin in self.cors_origins.split(",") if origin]

    @property
    def towers(self) -> str:
        """Folder or URI of tower artefacts: towers_uri, or the towers folder of home."""
        return self.towers_uri or str(self.home / "towers")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        """Read GAVEL_HOME, GAVEL_INDEX, GAVEL_OPENSEARCH_URL (or OPENSEARCH_URL) and so on; unset ones keep their default.

        Raises:
            InvalidSettings: a value cannot be read; the message names the variable and what it allows.
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
        view: looked at a lot.
        add_to_cart: put it into the cart, or on a watch list.
        bid: bid on it.
        purchase: bought it.
    """

    view: float = limited(1.0, above=0)
    add_to_cart: float = limited(5.0, above=0)
    bid: float = limited(7.0, above=0)
    purchase: float = limited(10.0, above=0)


@dataclass(frozen=True, slots=True)
class ScoringParameters:
    """The numbers that change search results; they must be equal in training and serving.

    Attributes:
        event_weights: what acts count, in buyers' vectors and in training.
        buyer_share: how far a buyer's acts draw a query's vector, 0 to 1: enough to settle which of several meanings is meant,
            too little to change the subject. Set by hand.
        buyer_half_life_days: age at which an act counts half in the weighted average; None counts every act in full.
        photo_words_share: share of the words beside a photo in the vector that is searched with, 0 to 1.
        hnsw_m: edges of a vector in the HNSW graph; of an index that is made from now on.
        hnsw_ef_construction: vectors looked at when one is added to the graph.
        hnsw_ef_search: vectors looked at by a search; 0 takes as many as suit the lots in an embedded index
            (IndexSpec.ef_search_for), and 100 on OpenSearch.
        bm25_k1: how soon more of the same word counts no more; on OpenSearch of an index that is made from now on.
        bm25_b: how much long texts count less, 0 to 1; as bm25_k1.
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
            InvalidSettings: a value cannot be read; the message names the variable and what it allows.
        """
        return read_env(cls, env)

    def to_env(self) -> dict[str, str]:
        """Return the environment that from_env() reads back as an equal object."""
        return write_env(self)


@cache
def scoring_parameters() -> ScoringParameters:
    """Return those of this process; its environment is read once, at the first use."""
    return ScoringParameters.from_env()


def read_env(cls: type[T], env: Mapping[str, str]) -> T:
    """Make a dataclass of the variables of its fields; one that is unset or empty keeps its default.

    Raises:
        InvalidSettings: a value cannot be read.
    """
    given = {f: env[name] for f in fields(cls) if env.get(name := PREFIX + f.name.upper())}  # type: ignore[arg-type]
    return cls(**{f.name: read_field(cls, f, text, PREFIX + f.name.upper()) for f, text in given.items()})


def write_env(values: Any) -> dict[str, str]:
    """Return the variables from which read_env() makes an equal dataclass."""
    return {PREFIX + f.name.upper(): _written(getattr(values, f.name)) for f in fields(values)}


def read_field(cls: type, of: Field[Any], text: str, name: str) -> Any:
    """Read the value of a field, by its type and limits.

    Args:
        cls: the dataclass.
        of: the field.
        text: as it was written; a dataclass as `name=value,name=value`, of which those that are left out keep their default.
        name: of the value at its source, for the message.

    Raises:
        InvalidSettings: the message says what is allowed.
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
    """Describe in words which values a field takes."""
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
    """Return the types of a field; of an optional one, that of the value first."""
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
    """Write a dataclass as the text that read_field() reads back."""
    return ",".join(f"{name}={value}" for name, value in values.items())


def _written(value: Any) -> str:
    return write_pairs(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else str(value)
