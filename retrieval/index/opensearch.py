"""The index on OpenSearch: HNSW and BM25 on the server, the order of the answers as in every adapter.

Scores and ties are settled here, from what the server returns: its own scores are scaled and rounded, and it breaks ties
by the place of a lot in a segment. So k + OVERFETCH hits are asked for, and semantic ones are scored again by cosine.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from opensearchpy import OpenSearch

from retrieval.errors import IndexMissing, InvalidInput
from retrieval.fuse import Fusion, fuse
from retrieval.index.base import (
    Candidate,
    Filter,
    IndexedItem,
    Tombstone,
    UpsertReport,
    Vector,
    in_order,
    index_name,
    rank_by_cosine,
    scores_of,
    utc_now,
    with_ranks,
)
from retrieval.index.opensearch_bulk import BulkWriter
from retrieval.index.opensearch_errors import opensearch_errors
from retrieval.index.opensearch_queries import (
    KEYWORD_QUERY,
    exact_body,
    hybrid_body,
    keyword_body,
    semantic_body,
)
from retrieval.schema import (
    HYBRID_PIPELINE,
    VECTOR_FIELD,
    Engine,
    fusion_pipeline,
    index_body,
    pipeline_name,
    vector_from_json,
)
from retrieval.tuning import Tuning, untuned

logging.getLogger("opensearch").setLevel(logging.ERROR)  # its warnings are stack traces of what comes back as an exception

DEFAULT_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 120.0  # a bulk request waits for HNSW graphs to be built
FETCH_CHUNK = 1_000
# One more try finds out that a kept connection was closed by the server; waiting longer is the caller's choice
CONNECTION_RETRIES = 1


class OpenSearchIndex:
    """One physical index on a server. Made by OpenSearchStore."""

    def __init__(
        self,
        client: OpenSearch,
        name: str,
        tower_id: str,
        dimensions: int,
        *,
        url: str,
        pipeline: str,
        timeout_s: float,
        tuning: Tuning,
    ) -> None:
        self._client = client
        self._name = name
        self._tower_id = tower_id
        self._dimensions = dimensions
        self._url = url
        self._pipeline = pipeline
        self._tuning = tuning
        self._writer = BulkWriter(client, name, dimensions, url, max(timeout_s, WRITE_TIMEOUT_S))
        self._limits: dict[str, float] = {}

    @property
    def name(self) -> str:
        """Physical name."""
        return self._name

    @property
    def tower_id(self) -> str:
        """The tower whose vectors it holds."""
        return self._tower_id

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""
        return self._dimensions

    def count(self) -> int:
        """Number of lots that a search can see, ended ones included."""
        with opensearch_errors(self._url):
            return int(self._client.count(index=self._name)["count"])

    def upsert(self, entries: Iterable[IndexedItem | Tombstone]) -> UpsertReport:
        """Write lots and carry out tombstones, in order, in requests of bounded size.

        Args:
            entries: read once, as they are sent.

        Returns:
            What became of every entry.

        Raises:
            IndexMissing: the index was dropped; it is not made anew without its mapping.
            IndexUnavailable: the server does not answer, or stays too busy. It is safe to send all of it again.
        """
        with opensearch_errors(self._url):
            if not self._client.indices.exists(index=self._name):
                raise IndexMissing(f"OpenSearch at {self._url} has no index {self._name}; build one with `gavel index`")
        return self._writer.write(entries)

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""
        with opensearch_errors(self._url):
            self._client.indices.refresh(index=self._name, params={"request_timeout": WRITE_TIMEOUT_S})

    def semantic(self, vector: Vector, k: int, where: Filter, *, exact: bool = False) -> list[Candidate]:
        """The lots whose vectors have the highest cosine with `vector`.

        Args:
            vector: (dimensions,) float32.
            k: how many, up to 10,000.
            where: which lots may come back.
            exact: compare with every allowed lot instead of walking the HNSW graph.
        """
        self._check_vector(vector)
        if k < 1:
            return []
        body = exact_body(vector, k, where) if exact else semantic_body(vector, k, where)
        found = rank_by_cosine(vector, map(_candidate, self._hits(body)), k)
        return with_ranks(found, semantic=found)

    def keyword(self, text: str, k: int, where: Filter) -> list[Candidate]:
        """The lots whose text has the highest BM25 score for `text` under its boosts; lots that share no word do not come."""
        if k < 1:
            return []
        found = in_order(map(_candidate, self._hits(keyword_body(text, k, where, self._tuning.boosts))))[:k]
        return with_ranks(found, keyword=found)

    def hybrid(self, text: str, vector: Vector, k: int, where: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """The k best of semantic() and of keyword(), fused as the request or the tuning says; both lists come in one request.

        The server's own fusion ranks every shard for itself, has no weights in rrf, and breaks ties by place, so the hits'
        cosines and BM25 scores are put in order and fused once more here; where none of this matters, that gives its order.
        """
        fusion = fusion or self._tuning.fusion
        self._check_vector(vector)
        if k < 1:
            return []
        hits = self._hybrid_hits(hybrid_body(text, vector, k, where, self._tuning.boosts), fusion)
        found = {hit["_id"]: _candidate(hit) for hit in hits}
        semantic = rank_by_cosine(vector, found.values(), k)
        scored = [replace(found[hit["_id"]], score=score) for hit in hits if (score := _keyword_score(hit)) > 0]
        keyword = in_order(scored)[:k]
        fused = fuse(scores_of(keyword), scores_of(semantic), fusion)
        best = [Candidate(i, score, found[i].document, found[i].vector) for i, score in fused[:k]]
        return with_ranks(best, semantic, keyword)

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """The stored lots of these ids, in the order of the ids, score 0; unknown ids are left out, ended lots are not."""
        found: list[Candidate] = []
        for start in range(0, len(item_ids), FETCH_CHUNK):
            ids = list(item_ids[start : start + FETCH_CHUNK])
            with opensearch_errors(self._url):
                answer = self._client.mget(index=self._name, body={"ids": ids}, params=dict(self._limits))
            found += [_candidate(hit) for hit in answer["docs"] if hit.get("found")]
        return found

    def within(self, seconds: float) -> "OpenSearchIndex":
        """The same index on the same connections, whose searches and fetches are given up after so many seconds."""
        limited = copy(self)
        limited._limits = {"request_timeout": seconds}
        return limited

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._client.close()

    def _hybrid_hits(self, body: dict[str, Any], fusion: Fusion) -> list[dict[str, Any]]:
        """Hits of a hybrid query: reciprocal ranks by the pipeline of the alias, weights by one that the request brings along."""
        named = {"include_named_queries_score": "true"}
        if fusion.kind == "rrf":
            return self._hits(body, search_pipeline=self._pipeline, **named)
        return self._hits({**body, "search_pipeline": fusion_pipeline(fusion)}, **named)

    def _hits(self, body: Mapping[str, Any], **params: str) -> list[dict[str, Any]]:
        with opensearch_errors(self._url):
            # A shard that fails must not pass for an answer with fewer hits
            strict = {"allow_partial_search_results": "false", **params, **self._limits}
            answer = self._client.search(index=self._name, body=body, params=strict)
        return list(answer["hits"]["hits"])

    def _check_vector(self, vector: Vector) -> None:
        if vector.shape != (self._dimensions,):
            raise InvalidInput(f"the query vector has shape {vector.shape}, index {self._name} holds ({self._dimensions},)")


class OpenSearchStore:
    """The physical indices of one alias on an OpenSearch server or cluster.

    Args:
        server: URL such as "http://127.0.0.1:9200", or a client that was made with the credentials that the cluster asks for.
        alias: name behind which the live index stands; physical names and the hybrid pipeline begin with it.
        timeout_s: seconds until one request is given up; of a client that is passed in, its own counts.
        engine: k-NN engine of the indices that create() makes.
        shards: their primary shards.
        replicas: copies of each shard.
        tuning: tower_id -> how an index of that tower is searched.

    Raises:
        InvalidInput: the URL cannot be read.
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
        tuning: Callable[[str], Tuning] = untuned,
    ) -> None:
        try:
            made = OpenSearch(server, timeout=timeout_s, max_retries=CONNECTION_RETRIES) if isinstance(server, str) else server
        except ValueError as error:  # not quoting the URL, which may hold a password
            raise InvalidInput(f"the URL of OpenSearch cannot be read ({error}); write it like http://127.0.0.1:9200") from None
        self._client = made
        # As the client tells it: without the password that a URL may hold
        self._url = ", ".join(str(connection.host) for connection in self._client.transport.connection_pool.connections)
        self._alias = alias
        self._timeout_s = timeout_s
        self._engine: Engine = engine
        self._shards = shards
        self._replicas = replicas
        self._tuning = tuning

    def create(self, tower_id: str, dimensions: int) -> OpenSearchIndex:
        """Make a new, empty index for a tower, and the pipeline that its hybrid queries pass through; it is not live."""
        name = index_name(self._alias, tower_id, utc_now())
        body = index_body(tower_id, dimensions, engine=self._engine, shards=self._shards, replicas=self._replicas)
        with opensearch_errors(self._url):
            self._client.search_pipeline.put(id=pipeline_name(self._alias), body=HYBRID_PIPELINE)
            self._client.indices.create(index=name, body=body)
        return self._index(name, {"tower_id": tower_id, "dimensions": dimensions})

    def find(self, tower_id: str) -> OpenSearchIndex | None:
        """The live index if it is of this tower, else the newest index of this tower, else None."""
        with opensearch_errors(self._url):
            mappings = self._client.indices.get_mapping(index=f"{self._alias}-*")
        metas = {name: value["mappings"].get("_meta", {}) for name, value in mappings.items()}
        start = f"{self._alias}-{tower_id}-"  # another alias may begin with this one
        names = [name for name, meta in metas.items() if meta.get("tower_id") == tower_id and name.startswith(start)]
        if not names:
            return None
        live = self._live_name()
        name = live if live is not None and live in names else max(names)  # names of one tower differ in their time stamp alone
        return self._index(name, metas[name])

    def live(self) -> OpenSearchIndex:
        """The index behind the alias.

        Raises:
            IndexMissing: nothing was published yet.
        """
        name = self._live_name()
        if name is None:
            raise IndexMissing(
                f"nothing is published behind alias {self._alias!r} at {self._url}; build an index with `gavel index`"
            )
        with opensearch_errors(self._url):
            mapping = self._client.indices.get_mapping(index=name)
        return self._index(name, mapping[name]["mappings"].get("_meta", {}))

    def publish(self, name: str) -> None:
        """Point the alias at the index of this name, in one atomic step; the one before stays for rollback.

        Raises:
            IndexMissing: there is no index of this name.
        """
        live = self._live_name()
        actions: list[dict[str, Any]] = [{"add": {"index": name, "alias": self._alias}}]
        if live not in (None, name):
            actions.insert(0, {"remove": {"index": f"{self._alias}-*", "alias": self._alias}})
        with opensearch_errors(self._url):
            self._client.indices.update_aliases(body={"actions": actions})

    def drop(self, name: str) -> None:
        """Delete an index that is not live.

        Raises:
            InvalidInput: it is live.
            IndexMissing: there is no index of this name.
        """
        if name == self._live_name():
            raise InvalidInput(f"index {name} is live behind alias {self._alias!r}; publish another one first")
        with opensearch_errors(self._url):
            self._client.indices.delete(index=name)

    def _live_name(self) -> str | None:
        with opensearch_errors(self._url):
            if not self._client.indices.exists_alias(name=self._alias):
                return None
            name: str = max(self._client.indices.get_alias(name=self._alias))
        return name

    def _index(self, name: str, meta: Mapping[str, Any]) -> OpenSearchIndex:
        try:
            tower_id, dimensions = str(meta["tower_id"]), int(meta["dimensions"])
        except KeyError as error:
            raise IndexMissing(
                f"index {name} at {self._url} was not made by Gavel: its mapping has no _meta.{error.args[0]}"
            ) from None
        return OpenSearchIndex(
            self._client,
            name,
            tower_id,
            dimensions,
            url=self._url,
            pipeline=pipeline_name(self._alias),
            timeout_s=self._timeout_s,
            tuning=self._tuning(tower_id),
        )


def _candidate(hit: Mapping[str, Any]) -> Candidate:
    document = dict(hit["_source"])
    vector = vector_from_json(document.pop(VECTOR_FIELD))
    return Candidate(hit["_id"], float(hit.get("_score") or 0.0), document, vector)


def _keyword_score(hit: Mapping[str, Any]) -> float:
    """The BM25 score that a hit of the hybrid query had in the keyword list; 0 when it shares no word with the text."""
    return float((hit.get("matched_queries") or {}).get(KEYWORD_QUERY, 0.0))
