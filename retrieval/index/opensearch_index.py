"""One index on OpenSearch: HNSW and BM25 on the server, the order of the answers as in every adapter.

Scores and ties are settled here, from what the server returns: its own scores are scaled and rounded, and it breaks ties
by the place of a lot in a segment. So k + OVERFETCH hits are asked for, and semantic ones are scored again by cosine.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

from opensearchpy import OpenSearch

from retrieval.deadline import Deadline
from retrieval.errors import IndexMissing, InvalidInput
from retrieval.fuse import Fusion
from retrieval.index.base import (
    Candidate,
    Filter,
    IndexedItem,
    Tombstone,
    TopField,
    UpsertReport,
    Vector,
    fused_candidates,
    in_order,
    rank_by_cosine,
    with_ranks,
)
from retrieval.index.opensearch_answers import ask_again, refreshed, whole_answer, whole_answers, whole_documents
from retrieval.index.opensearch_bulk import BulkWriter
from retrieval.index.opensearch_errors import opensearch_errors
from retrieval.index.opensearch_queries import (
    KEYWORD_QUERY,
    KNOWN_WORDS,
    corrections_body,
    depth_of,
    exact_body,
    hybrid_body,
    keyword_body,
    sample_body,
    semantic_body,
    top_body,
)
from retrieval.schema import fusion_pipeline, pop_vector
from retrieval.spelling import can_be_misspelt
from retrieval.tuning import Tuning

WRITE_TIMEOUT_S = 120.0  # a bulk request waits for HNSW graphs to be built
FETCH_CHUNK = 1_000
# Words are weighed by how many lots of all shards have them; a shard of its own would weigh them by its own lots, so that the
# order hung on which lots lie together. An index of one shard is not asked twice: the server sees that there is no need.
ALL_SHARDS_WORDS = "dfs_query_then_fetch"


T = TypeVar("T")
# A shard that fails must not pass for an answer with fewer hits
WHOLE = {"allow_partial_search_results": "false"}


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
        shards: int = 1,
    ) -> None:
        self._client = client
        self._name = name
        self._tower_id = tower_id
        self._dimensions = dimensions
        self._url = url
        self._pipeline = pipeline
        self._tuning = tuning
        self._writer = BulkWriter(client, name, dimensions, url, max(timeout_s, WRITE_TIMEOUT_S))
        self._shards = shards
        self._timeout_s = timeout_s

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
        return int(self._asked(lambda limits: whole_answer(self._client.count(index=self._name, params=limits)))["count"])

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
        self._asked(lambda limits: refreshed(self._client.indices.refresh(index=self._name, params=limits)), WRITE_TIMEOUT_S)

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
        body = keyword_body(text, k, where, self._tuning.boosts)
        found = in_order(map(_candidate, self._hits(body, search_type=ALL_SHARDS_WORDS)))[:k]
        return with_ranks(found, keyword=found)

    def hybrid(self, text: str, vector: Vector, k: int, where: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """The k best of semantic() and of keyword(), fused as the request or the tuning says; both lists come in one request.

        The server's own fusion ranks every shard for itself, has no weights in rrf, and breaks ties by place, so the hits'
        cosines and BM25 scores are put in order and fused once more here; where none of this matters, that gives its order.
        An index of several shards is not asked for its fusion, which loses lots when words are weighed over all shards.
        """
        fusion = fusion or self._tuning.fusion
        self._check_vector(vector)
        if k < 1:
            return []
        if self._shards > 1:
            return fused_candidates(*self._both_lists(text, vector, k, where), fusion, k)
        hits = self._hybrid_hits(hybrid_body(text, vector, k, where, self._tuning.boosts), fusion)
        found = {hit["_id"]: _candidate(hit) for hit in hits}
        semantic = rank_by_cosine(vector, found.values(), k)
        scored = [replace(found[hit["_id"]], score=score) for hit in hits if (score := _keyword_score(hit)) > 0]
        keyword = in_order(scored)[:k]
        return fused_candidates(keyword, semantic, fusion, k)

    def top(self, field: TopField, k: int, where: Filter) -> list[Candidate]:
        """The lots with the most bids, or those listed last; lots that have no such number do not come."""
        if k < 1:
            return []
        found = map(_candidate, self._hits(top_body(field, k, where)))
        return [replace(candidate, score=float(candidate.document[field])) for candidate in found]

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """What words in lower case that no lot has were meant to be: word -> the nearest word of a title; in one request."""
        if not words:
            return {}
        answer = self._search(corrections_body(words))
        known = answer["aggregations"][KNOWN_WORDS]["buckets"]
        nearest = {
            word: next((option["text"] for option in _options(answer, str(n)) if can_be_misspelt(option["text"])), None)
            for n, word in enumerate(words)
            if not known[str(n)]["doc_count"]
        }
        return {word: near for word, near in nearest.items() if near is not None}

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """The stored lots of these ids, in the order of the ids, score 0; unknown ids are left out, ended lots are not."""
        found: list[Candidate] = []
        for start in range(0, len(item_ids), FETCH_CHUNK):
            body = {"ids": list(item_ids[start : start + FETCH_CHUNK])}
            found += [_candidate(hit) for hit in self._documents(body) if hit.get("found")]
        return found

    def sample(self, count: int, where: Filter, seed: int) -> list[Vector]:
        """At most `count` stored (dimensions,) vectors of random lots that pass a filter; the same ones for the same seed."""
        return [_candidate(hit).vector for hit in self._hits(sample_body(count, where, seed))] if count > 0 else []

    def within(self, seconds: float) -> "OpenSearchIndex":
        """The same index on the same connections, whose searches and fetches are given up after so many seconds."""
        limited = copy(self)
        limited._timeout_s = seconds
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

    def _both_lists(self, text: str, vector: Vector, k: int, where: Filter) -> tuple[list[Candidate], list[Candidate]]:
        """The lists of keyword() and semantic(), asked for together."""
        bodies = [keyword_body(text, depth_of(k), where, self._tuning.boosts), semantic_body(vector, k, where)]
        lines = [
            line
            for body, kind in zip(bodies, (ALL_SHARDS_WORDS, "query_then_fetch"), strict=True)
            for line in ({"search_type": kind, **WHOLE}, body)
        ]
        answers = self._asked(lambda limits: whole_answers(self._client.msearch(index=self._name, body=lines, params=limits)))
        keyword, semantic = (list(map(_candidate, answer["hits"]["hits"])) for answer in answers)
        return in_order(keyword)[:k], rank_by_cosine(vector, semantic, k)

    def _hits(self, body: Mapping[str, Any], **params: str) -> list[dict[str, Any]]:
        return list(self._search(body, **params)["hits"]["hits"])

    def _search(self, body: Mapping[str, Any], **params: str) -> dict[str, Any]:
        def ask(limits: dict[str, Any]) -> dict[str, Any]:
            return whole_answer(self._client.search(index=self._name, body=body, params={**WHOLE, **params, **limits}))

        return self._asked(ask)

    def _documents(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._asked(lambda limits: whole_documents(self._client.mget(index=self._name, body=body, params=limits)))

    def _asked(self, ask: Callable[[dict[str, Any]], T], seconds: float | None = None) -> T:
        """What the server answers within so many seconds, or the time that this index gives it; asked again when a node is lost."""
        seconds = seconds or self._timeout_s
        deadline = Deadline(seconds)
        with opensearch_errors(self._url):
            return ask_again(lambda: ask({"request_timeout": deadline.limit(seconds)}))

    def _check_vector(self, vector: Vector) -> None:
        if vector.shape != (self._dimensions,):
            raise InvalidInput(f"the query vector has shape {vector.shape}, index {self._name} holds ({self._dimensions},)")


def _candidate(hit: Mapping[str, Any]) -> Candidate:
    document = dict(hit["_source"])
    vector = pop_vector(hit["_id"], document)
    return Candidate(hit["_id"], float(hit.get("_score") or 0.0), document, vector)


def _options(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The suggester's options for one word, best first; none where its analyzer made several words of it."""
    tokens = answer["suggest"][name]
    return list(tokens[0]["options"]) if len(tokens) == 1 else []


def _keyword_score(hit: Mapping[str, Any]) -> float:
    """The BM25 score that a hit of the hybrid query had in the keyword list; 0 when it shares no word with the text."""
    return float((hit.get("matched_queries") or {}).get(KEYWORD_QUERY, 0.0))
