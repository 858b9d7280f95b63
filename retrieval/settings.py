"""Every setting of a Gavel process in one object, read from and written to GAVEL_* environment variables."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, cast, get_args

from retrieval.errors import InvalidSettings

IndexKind = Literal["faiss", "opensearch"]
OpenSearchAuth = Literal["none", "sigv4"]
QueryTowerKind = Literal["full", "small"]
IndexLanguage = Literal["en", "de", "fr", "es"]
PREFIX = "GAVEL_"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process must know about where it runs; nothing here changes what an answer means.

    Attributes:
        home: folder of everything that Gavel makes on one machine.
        index: which index holds the lots.
        opensearch_url: where OpenSearch answers; used with index="opensearch".
        opensearch_auth: "sigv4" signs requests with the AWS role of the process, as Amazon OpenSearch Service asks.
        index_alias: name behind which the live index stands.
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
        cached_queries: how many encoded queries a process keeps, >= 0.
        cached_answers_s: seconds for which an answer is kept; 0 keeps none.
        ranker_endpoint: name of the SageMaker endpoint that re-ranks; empty re-ranks in process, or not at all.
        ranker_timeout_s: seconds until the endpoint's answer is given up, and search answers in first-stage order.
        events_stream: Firehose delivery stream that POST /events sends to; empty writes files below home, or refuses on Lambda.
        stage: what measurements are filed under.
    """

    home: Path = Path(".gavel")
    index: IndexKind = "faiss"
    opensearch_url: str = "http://127.0.0.1:9200"
    opensearch_auth: OpenSearchAuth = "none"
    index_alias: str = "auction-items"
    index_replicas: int = 0
    language: IndexLanguage = "en"
    cors_origins: str = ""
    towers_uri: str = ""
    tower_id: str = ""
    query_tower: QueryTowerKind = "full"
    candidates: int = 50
    request_timeout_s: float = 10.0
    retrieve_timeout_s: float = 2.0
    deadline_s: float = 5.0
    cached_queries: int = 10_000
    cached_answers_s: float = 5.0  # as long as a swapped alias may go unseen
    ranker_endpoint: str = ""
    ranker_timeout_s: float = 0.05  # half of what a whole query may take; an endpoint that is well needs a fifth of it
    events_stream: str = ""
    stage: str = "local"

    @property
    def origins(self) -> list[str]:
        """cors_origins, one by one."""
        return [origin for origin in self.cors_origins.split(",") if origin]

    @property
    def towers(self) -> str:
        """Where tower artefacts lie: towers_uri, or the towers folder of home."""
        return self.towers_uri or str(self.home / "towers")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        """Read GAVEL_HOME, GAVEL_INDEX, GAVEL_OPENSEARCH_URL (or OPENSEARCH_URL) and so on; unset ones keep their default.

        Raises:
            InvalidSettings: a value cannot be read; the message names the variable and what it allows.
        """
        given = {f.name: env[PREFIX + f.name.upper()] for f in fields(cls) if env.get(PREFIX + f.name.upper())}
        if env.get("OPENSEARCH_URL"):
            given.setdefault("opensearch_url", env["OPENSEARCH_URL"])
        if given.get("index", "faiss") not in get_args(IndexKind):
            raise InvalidSettings(f"GAVEL_INDEX is {given['index']!r}; allowed are {', '.join(get_args(IndexKind))}")
        if given.get("opensearch_auth", "none") not in get_args(OpenSearchAuth):
            allowed = ", ".join(get_args(OpenSearchAuth))
            raise InvalidSettings(f"GAVEL_OPENSEARCH_AUTH is {given['opensearch_auth']!r}; allowed are {allowed}")
        if given.get("query_tower", "full") not in get_args(QueryTowerKind):
            raise InvalidSettings(
                f"GAVEL_QUERY_TOWER is {given['query_tower']!r}; allowed are {', '.join(get_args(QueryTowerKind))}"
            )
        language = given.get("language", cls().language)
        if language not in get_args(IndexLanguage):
            raise InvalidSettings(f"GAVEL_LANGUAGE is {language!r}; allowed are {', '.join(get_args(IndexLanguage))}")
        return cls(
            home=Path(given.get("home", cls().home)),
            index="opensearch" if given.get("index") == "opensearch" else "faiss",
            opensearch_url=given.get("opensearch_url", cls().opensearch_url),
            opensearch_auth="sigv4" if given.get("opensearch_auth") == "sigv4" else "none",
            index_alias=given.get("index_alias", cls().index_alias),
            index_replicas=_whole(given, "index_replicas", cls().index_replicas, least=0),
            language=cast(IndexLanguage, language),
            cors_origins=given.get("cors_origins", cls().cors_origins),
            towers_uri=given.get("towers_uri", cls().towers_uri),
            tower_id=given.get("tower_id", cls().tower_id),
            query_tower="small" if given.get("query_tower") == "small" else "full",
            candidates=_whole(given, "candidates", cls().candidates, least=1),
            request_timeout_s=_seconds(given, "request_timeout_s", cls().request_timeout_s),
            retrieve_timeout_s=_seconds(given, "retrieve_timeout_s", cls().retrieve_timeout_s),
            deadline_s=_seconds(given, "deadline_s", cls().deadline_s),
            cached_queries=_whole(given, "cached_queries", cls().cached_queries, least=0),
            cached_answers_s=_seconds(given, "cached_answers_s", cls().cached_answers_s, or_zero=True),
            ranker_endpoint=given.get("ranker_endpoint", cls().ranker_endpoint),
            ranker_timeout_s=_seconds(given, "ranker_timeout_s", cls().ranker_timeout_s),
            events_stream=given.get("events_stream", cls().events_stream),
            stage=given.get("stage", cls().stage),
        )

    def to_env(self) -> dict[str, str]:
        """The environment that from_env() reads back to an equal object."""
        return {PREFIX + f.name.upper(): str(getattr(self, f.name)) for f in fields(self)}


def _whole(given: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    number = _number(given, name, default)
    if number < least or number != int(number):
        raise InvalidSettings(f"{PREFIX}{name.upper()} is {number:g}; allowed are whole numbers from {least}")
    return int(number)


def _seconds(given: Mapping[str, str], name: str, default: float, *, or_zero: bool = False) -> float:
    number = _number(given, name, default)
    if number < 0 or (number == 0 and not or_zero):
        raise InvalidSettings(f"{PREFIX}{name.upper()} is {number:g}; allowed are seconds {'from' if or_zero else 'above'} 0")
    return number


def _number(given: Mapping[str, str], name: str, default: float) -> float:
    try:
        number = float(given.get(name, default))
        if not math.isfinite(number):
            raise ValueError
        return number
    except ValueError:
        raise InvalidSettings(f"{PREFIX}{name.upper()} is {given[name]!r}, not a number") from None
