"""The index store on an OpenSearch server or cluster: its physical indices, one of them live behind the alias."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from opensearchpy import OpenSearch, Urllib3AWSV4SignerAuth
from opensearchpy.exceptions import NotFoundError

from retrieval.config.settings import Settings
from retrieval.contracts.items import EPOCH
from retrieval.errors import IndexMissing, InvalidInput, InvalidSettings
from retrieval.index.filters import Filter, utc_now
from retrieval.index.hybrid_tuning import Tuning, untuned
from retrieval.index.opensearch.client import connect, opensearch_errors
from retrieval.index.opensearch.index import OpenSearchIndex
from retrieval.index.opensearch.mapping import ATTRIBUTES_META, HYBRID_PIPELINE, Engine, index_body, pipeline_name
from retrieval.index.opensearch.responses import retry_read
from retrieval.index.opensearch.states import StateIndex, states_name
from retrieval.index.port import REBUILD, IndexSummary, created_at, index_name
from retrieval.text.analysis import ANALYSIS
from retrieval.text.languages import DEFAULT_LANGUAGE, check_language

__all__ = ["OpenSearchIndex", "OpenSearchStore"]

logger = logging.getLogger(__name__)
logging.getLogger("opensearch").setLevel(logging.ERROR)  # its warnings are stack traces of errors that are raised anyway

DEFAULT_TIMEOUT_S = 10.0
PREVIOUS_META = "previous"  # key in `_meta` of an index with the name of the index that was live before it
PLAIN_BM25 = range(3, 7)  # versions whose BM25 lacks the factor k1 + 1; version 7 is what an OpenSearch 1 or 2 may call itself
SIGNING_NAME = "es"  # name of Amazon OpenSearch Service in signatures


class OpenSearchStore:
    """The physical indices of one alias on an OpenSearch server or cluster.

    Args:
        server: URL such as "http://127.0.0.1:9200", or URLs of several nodes, separated by commas; or a client of connect() with
            the credentials of the cluster.
        alias: alias of the live index; physical names and the name of the hybrid pipeline begin with it.
        timeout_s: seconds until a request is given up; writes have at least WRITE_TIMEOUT_S.
        engine: k-NN engine of new indices.
        shards: number of primary shards of new indices.
        replicas: number of copies per shard of new indices.
        language: language of words in Latin letters in new indices; a key of mapping.STEMMERS.
        tuning: tower_id -> tuning of searches in an index of that tower.

    Raises:
        InvalidInput: a URL cannot be read, or there is no stemmer for the language.
    """

    def __init__(
        self,
        server: str | OpenSearch,
        alias: str = "auction-items",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        engine: Engine = "lucene",
        shards: int = 1,
        replicas: int = 0,
        language: str = DEFAULT_LANGUAGE,
        tuning: Callable[[str], Tuning] = untuned,
    ) -> None:
        check_language(language)
        self._client = connect(server, timeout_s) if isinstance(server, str) else server
        # taken from the client, because `server` may contain a password
        self._url = ", ".join(str(connection.host) for connection in self._client.transport.connection_pool.connections)
        self._alias = alias
        self._timeout_s = timeout_s
        self._engine: Engine = engine
        self._shards = shards
        self._replicas = replicas
        self._language = language
        self._tuning = tuning
        self._damaged: dict[str, set[str]] = defaultdict(set)  # index -> ids of damaged items
        self._states = StateIndex(self._client, states_name(alias), self._url, replicas)
        self._warned: set[str] = set()  # indices whose state was logged

    def create(self, tower_id: str, dimensions: int) -> OpenSearchIndex:
        """Create an empty index for a tower and the alias's hybrid pipeline, and return the index; it is not live."""
        name = index_name(self._alias, tower_id, utc_now())
        with opensearch_errors(self._url):
            major = int(str(self._client.info()["version"]["number"]).partition(".")[0])
        body = index_body(
            tower_id,
            dimensions,
            engine=self._engine,
            shards=self._shards,
            replicas=self._replicas,
            language=self._language,
            boosts=self._tuning(tower_id).boosts,
            scaled_bm25=major not in PLAIN_BM25,
        )
        with opensearch_errors(self._url):
            self._client.search_pipeline.put(id=pipeline_name(self._alias), body=HYBRID_PIPELINE)
            self._client.indices.create(index=name, body=body)
        return self._index(name, body["mappings"]["_meta"])

    def find(self, tower_id: str) -> OpenSearchIndex | None:
        """Return the live index if it is of this tower, else the newest index of this tower, else None."""
        metas = self._metas()
        names = [name for name, meta in metas.items() if meta["tower_id"] == tower_id]
        if not names:
            return None
        live = self._live_name()
        name = live if live is not None and live in names else max(names)  # names of one tower differ only in their time stamp
        if metas[name].get("analysis") != ANALYSIS:
            logger.warning("index %s cuts words as an older version did; `gavel index --rebuild` cuts them anew", name)
        return self._index(name, metas[name])

    def live(self) -> OpenSearchIndex:
        """Return the index behind the alias.

        Raises:
            IndexMissing: nothing is published yet.
        """
        # ask any node, because without a cluster manager, until another one is elected, no node can answer for the cluster
        name = self._live_name(local=True)
        if name is None:
            raise IndexMissing(
                f"nothing is published behind alias {self._alias!r} at {self._url}; build an index with `gavel index`"
            )
        with opensearch_errors(self._url):
            mapping = retry_read(lambda: self._client.indices.get_mapping(index=name, params={"local": "true"}))
        return self._index(name, mapping[name]["mappings"].get("_meta", {}))

    def list_indices(self) -> list[IndexSummary]:
        """Return every index of the alias, also those that Gavel did not make, the newest name of each tower first.

        The index of states is none of them: it outlives them all.
        """
        pattern = f"{self._alias}-*"
        with opensearch_errors(self._url):
            mappings = self._client.indices.get_mapping(index=pattern)
            stats = self._client.indices.stats(index=pattern, metric="store")["indices"]
        live, summaries = self._live_name(), []
        for name in sorted(mappings.keys() - {states_name(self._alias)}, reverse=True):
            meta = mappings[name]["mappings"].get("_meta", {})
            index = self._index(name, meta) if {"tower_id", "dimensions"} <= meta.keys() else None
            summaries.append(
                IndexSummary(
                    name,
                    None if index is None else index.tower_id,
                    None if index is None else index.count(),
                    None if index is None else index.count(Filter()),
                    int(stats.get(name, {}).get("primaries", {}).get("store", {}).get("size_in_bytes", 0)),
                    name == live,
                )
            )
        return summaries

    def open_index(self, name: str) -> OpenSearchIndex:
        """Return an index by its physical name.

        Raises:
            IndexMissing: there is no index of this name, or Gavel did not make it.
        """
        with opensearch_errors(self._url):
            mapping = self._client.indices.get_mapping(index=name)
        return self._index(name, mapping[name]["mappings"].get("_meta", {}))

    def names(self) -> list[str]:
        """Return the names of the indices that create() made for this alias, the newest first."""
        return sorted(self._metas(), key=lambda name: created_at(name) or EPOCH, reverse=True)

    def previous(self) -> str | None:
        """Return the name of the index that was live before the live one; None if none was, or it was dropped."""
        live, metas = self._live_name(), self._metas()
        name = metas[live].get(PREVIOUS_META) if live in metas else None
        return name if name in metas else None

    def live_tower(self) -> str | None:
        """Return the tower of the index behind the alias; None if nothing is published."""
        name = self._live_name()
        return None if name is None else name.removeprefix(f"{self._alias}-").rpartition("-")[0]

    def publish(self, name: str) -> None:
        """Point the alias at this index, in one atomic step; the previous index stays for rollback.

        Raises:
            IndexMissing: there is no index of this name.
        """
        live = self._live_name()
        actions: list[dict[str, Any]] = [{"add": {"index": name, "alias": self._alias}}]
        if live not in (None, name):
            actions.insert(0, {"remove": {"index": f"{self._alias}-*", "alias": self._alias}})
            meta = self._metas().get(name)
            if meta is not None:
                with opensearch_errors(self._url):
                    self._client.indices.put_mapping(index=name, body={"_meta": {**meta, PREVIOUS_META: live}})
        self._states.take_all_rows(name)
        with opensearch_errors(self._url):
            self._client.indices.update_aliases(body={"actions": actions})

    def drop(self, name: str) -> None:
        """Delete an index that is not live.

        Raises:
            InvalidInput: the index is live.
            IndexMissing: there is no index of this name.
        """
        if name == self._live_name():
            raise InvalidInput(f"index {name} is live behind alias {self._alias!r}; publish another one first")
        with opensearch_errors(self._url):
            self._client.indices.delete(index=name)

    def _metas(self) -> dict[str, dict[str, Any]]:
        """Return name -> `_meta` of the indices that create() made for this alias; the name of another alias may begin with it."""
        with opensearch_errors(self._url):
            mappings = self._client.indices.get_mapping(index=f"{self._alias}-*")
        metas = {name: dict(value["mappings"].get("_meta", {})) for name, value in mappings.items()}
        return {
            name: meta
            for name, meta in metas.items()
            if "tower_id" in meta and name.startswith(f"{self._alias}-{meta['tower_id']}-")
        }

    def _live_name(self, *, local: bool = False) -> str | None:
        params = {"local": "true"} if local else {}
        indices = f"{self._alias}-*"  # fine-grained access control judges a request without an index in its path over all indices
        with opensearch_errors(self._url):
            try:
                names = retry_read(lambda: self._client.indices.get_alias(index=indices, name=self._alias, params=dict(params)))
            except NotFoundError:
                return None
        return max(names, default=None)

    def _index(self, name: str, meta: Mapping[str, Any]) -> OpenSearchIndex:
        try:
            tower_id, dimensions = str(meta["tower_id"]), int(meta["dimensions"])
        except KeyError as error:
            raise IndexMissing(
                f"index {name} at {self._url} was not made by Gavel: its mapping has no _meta.{error.args[0]}"
            ) from None
        tuning = self._tuning(tower_id)
        return OpenSearchIndex(
            self._client,
            name,
            tower_id,
            dimensions,
            url=self._url,
            pipeline=pipeline_name(self._alias),
            timeout_s=self._timeout_s,
            tuning=tuning,
            boosts=self._boosts(name, meta, tuning),
            has_attributes=ATTRIBUTES_META in meta,
            shards=int(meta.get("shards", 1)),  # old indices do not store the number and have one
            damaged=self._damaged[name],
            states=self._states,
        )

    def _boosts(self, name: str, meta: Mapping[str, Any], tuning: Tuning) -> dict[str, float]:
        """Return field -> boost for queries of an index; the attributes' is scaled as the server's BM25 needs."""
        boosts = tuning.boosts.nonzero
        if "attributes" not in boosts:
            return boosts
        built = meta.get(ATTRIBUTES_META)
        if built is None:
            del boosts["attributes"]
            fault = "was built before lots had attributes, which are not searched"
        else:
            boosts["attributes"] *= float(built["scale"])
            tuned = tuning.boosts.attributes_k1, tuning.boosts.attributes_b
            fault = "" if (built["k1"], built["b"]) == tuned else "was built before the tuning of attributes changed k1 and b"
        if fault and name not in self._warned:
            self._warned.add(name)
            logger.warning("index %s %s; %s", name, fault, REBUILD)
        return boosts


def open_store(settings: Settings, tuning: Callable[[str], Tuning] = untuned) -> OpenSearchStore:
    """Return the store at settings.opensearch_url; with opensearch_auth="sigv4" its requests are signed.

    Args:
        settings: settings of the process.
        tuning: tower_id -> tuning of searches in an index of that tower.

    Raises:
        InvalidInput: a URL cannot be read.
        InvalidSettings: requests must be signed, and this process has no AWS credentials or region.
    """
    server = _signing_client(settings) if settings.opensearch_auth == "sigv4" else settings.opensearch_url
    return OpenSearchStore(
        server,
        alias=settings.index_alias,
        timeout_s=settings.request_timeout_s,
        shards=settings.index_shards,
        replicas=settings.index_replicas,
        language=settings.language,
        tuning=tuning,
    )


def _signing_client(settings: Settings) -> OpenSearch:
    import boto3

    session = boto3.Session()
    credentials = session.get_credentials()
    if credentials is None or session.region_name is None:
        raise InvalidSettings(
            "GAVEL_OPENSEARCH_AUTH is 'sigv4', and there are no AWS credentials or no region; "
            "set AWS_PROFILE and AWS_DEFAULT_REGION, or GAVEL_OPENSEARCH_AUTH=none"
        )
    auth = Urllib3AWSV4SignerAuth(credentials, session.region_name, SIGNING_NAME)
    return connect(settings.opensearch_url, settings.request_timeout_s, http_auth=auth)
