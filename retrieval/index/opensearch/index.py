"""One index on OpenSearch: HNSW and BM25 on the server, the order of the answers as in every adapter.

Scores and ties are settled here, from what the server returns: its own scores are scaled and rounded, and it breaks ties
by the place of a lot in a segment. So k + OVERFETCH hits are asked for, and semantic ones are scored again by cosine.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from opensearchpy import OpenSearch
from opensearchpy.helpers import scan

from retrieval.contracts.documents import DELETED_FIELD, Deletion, IndexedItem, UpsertReport, Vector, pop_vector
from retrieval.contracts.items import epoch_ms
from retrieval.deadline import Deadline
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.opensearch.bulk import BulkWriter
from retrieval.index.opensearch.client import opensearch_errors
from retrieval.index.opensearch.mapping import EPOCH_MILLIS, fusion_pipeline
from retrieval.index.opensearch.queries import (
    KEYWORD_QUERY,
    KNOWN_WORDS,
    corrections_body,
    depth_of,
    exact_body,
    filter_query,
    hybrid_body,
    keyword_body,
    sample_body,
    semantic_body,
    top_body,
)
from retrieval.index.opensearch.responses import ask_again, refreshed, whole_answer, whole_answers, whole_documents
from retrieval.index.port import REBUILD, Candidate, Filter, TopField, utc_now
from retrieval.index.ranking import add_ranks, fuse_candidates, rank_by_cosine, sort_by_score
from retrieval.text.spelling import can_be_misspelt

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 120.0  # a bulk request waits for HNSW graphs to be built
FETCH_CHUNK = 1_000
DELETION_RETENTION = timedelta(days=30)  # twice as long as any queue keeps the message of a part
LOTS = {"query": {"bool": {"must_not": {"exists": {"field": DELETED_FIELD}}}}}
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
        damaged: set[str],
        shards: int = 1,
    ) -> None:
        self._client = client
        self._name = name
        self._tower_id = tower_id
        self._dimensions = dimensions
        self._url = url
        self._pipeline = pipeline
        self._tuning = tuning
        self._damaged = damaged
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

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of lots that a search can see, ended ones included; with a filter, of those that pass it."""
        body = LOTS if filters is None else {"query": filter_query(filters)}
        return int(
            self._asked(lambda limits: whole_answer(self._client.count(index=self._name, body=body, params=limits)))["count"]
        )

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write lots and carry out tombstones, in order, in requests of bounded size.

        Args:
            entries: read once, as they are sent.
            overwrite: write an entry even where a newer version is stored; for a moment no search finds such a lot.

        Returns:
            What became of every entry.

        Raises:
            IndexMissing: the index was dropped; it is not made anew without its mapping.
            IndexUnavailable: the server does not answer, or stays too busy. It is safe to send all of it again.
        """
        with opensearch_errors(self._url):  # one that an older version made does not know the field
            self._client.indices.put_mapping(index=self._name, body={"properties": {DELETED_FIELD: EPOCH_MILLIS}})
        report = self._writer.write(entries, overwrite=overwrite)
        if report.deleted:
            self._purge_deletions(utc_now() - DELETION_RETENTION)
        return report

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""
        self._asked(lambda limits: refreshed(self._client.indices.refresh(index=self._name, params=limits)), WRITE_TIMEOUT_S)

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """The lots whose vectors have the highest cosine with `vector`.

        Args:
            vector: (dimensions,) float32.
            k: how many, up to 10,000.
            filters: which lots may come back.
            exact: compare with every allowed lot instead of walking the HNSW graph.
        """
        self._check_vector(vector)
        if k < 1:
            return []
        body = exact_body(vector, k, filters) if exact else semantic_body(vector, k, filters)
        found = rank_by_cosine(vector, self._candidates(self._hits(body)), k)
        return add_ranks(found, semantic=found)

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """The lots whose text has the highest BM25 score for `text` under its boosts; lots that share no word do not come."""
        if k < 1:
            return []
        body = keyword_body(text, k, filters, self._tuning.boosts)
        found = sort_by_score(self._candidates(self._hits(body, search_type=ALL_SHARDS_WORDS)))[:k]
        return add_ranks(found, keyword=found)

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
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
            return fuse_candidates(*self._both_lists(text, vector, k, filters), fusion, k)
        hits = self._hybrid_hits(hybrid_body(text, vector, k, filters, self._tuning.boosts), fusion)
        found = {candidate.item_id: candidate for candidate in self._candidates(hits)}
        semantic = rank_by_cosine(vector, found.values(), k)
        scores = [(hit["_id"], score) for hit in hits if hit["_id"] in found and (score := _keyword_score(hit)) > 0]
        scored = [replace(found[item_id], score=score) for item_id, score in scores]
        keyword = sort_by_score(scored)[:k]
        return fuse_candidates(keyword, semantic, fusion, k)

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """The lots with the most bids, or those listed last; lots that have no such number do not come."""
        if k < 1:
            return []
        found = self._candidates(self._hits(top_body(field, k, filters)))
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
            hits = (hit for hit in self._documents(body) if hit.get("found") and DELETED_FIELD not in hit["_source"])
            found += self._candidates(hits)
        return found

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """At most `count` stored (dimensions,) vectors of random lots that pass a filter; the same ones for the same seed."""
        return [found.vector for found in self._candidates(self._hits(sample_body(count, filters, seed)))] if count > 0 else []

    def deletions(self) -> list[Deletion]:
        """The lots that were withdrawn within DELETION_RETENTION and did not come back."""
        body = {"query": {"exists": {"field": DELETED_FIELD}}, "version": True, "_source": False}
        with opensearch_errors(self._url):
            hits = scan(
                self._client,
                query=body,
                index=self._name,
                size=FETCH_CHUNK,
                scroll="1m",
                clear_scroll=False,  # names no index: a role would need a permission on all; a scroll ends by itself
                request_timeout=WRITE_TIMEOUT_S,
            )
            return [Deletion(hit["_id"], hit["_version"]) for hit in hits]

    def within(self, seconds: float) -> "OpenSearchIndex":
        """The same index on the same connections, whose searches and fetches are given up after so many seconds."""
        limited = copy(self)
        limited._timeout_s = seconds
        return limited

    def damaged(self) -> int:
        """Number of lots that searches of this process came upon and could not read."""
        return len(self._damaged)

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._client.close()

    def _purge_deletions(self, before: datetime) -> None:
        """Remove the documents of lots that were withdrawn before a moment: no event that is so old is still on its way."""
        body = {"query": {"range": {DELETED_FIELD: {"lt": epoch_ms(before)}}}}
        params = {"conflicts": "proceed", "request_timeout": WRITE_TIMEOUT_S}
        try:
            with opensearch_errors(self._url):
                self._client.delete_by_query(index=self._name, body=body, params=params)
        except IndexUnavailable as error:  # what was written is written; the next deletion purges again
            logger.warning("index %s keeps the records of old deletions: %s", self._name, error)

    def _hybrid_hits(self, body: dict[str, Any], fusion: Fusion) -> list[dict[str, Any]]:
        """Hits of a hybrid query: reciprocal ranks by the pipeline of the alias, weights by one that the request brings along."""
        named = {"include_named_queries_score": "true"}
        if fusion.kind == "rrf":
            return self._hits(body, search_pipeline=self._pipeline, **named)
        return self._hits({**body, "search_pipeline": fusion_pipeline(fusion)}, **named)

    def _both_lists(self, text: str, vector: Vector, k: int, filters: Filter) -> tuple[list[Candidate], list[Candidate]]:
        """The lists of keyword() and semantic(), asked for together."""
        bodies = [keyword_body(text, depth_of(k), filters, self._tuning.boosts), semantic_body(vector, k, filters)]
        lines = [
            line
            for body, kind in zip(bodies, (ALL_SHARDS_WORDS, "query_then_fetch"), strict=True)
            for line in ({"search_type": kind, **WHOLE}, body)
        ]
        answers = self._asked(lambda limits: whole_answers(self._client.msearch(index=self._name, body=lines, params=limits)))
        keyword, semantic = (list(self._candidates(answer["hits"]["hits"])) for answer in answers)
        return sort_by_score(keyword)[:k], rank_by_cosine(vector, semantic, k)

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

    def _candidates(self, hits: Iterable[Mapping[str, Any]]) -> Iterator[Candidate]:
        """The lots of hits; one whose document or vector cannot be read is left out and logged once."""
        for hit in hits:
            try:
                document = dict(hit["_source"])
                vector = pop_vector(hit["_id"], document)
                if vector.shape != (self._dimensions,):
                    raise ValueError(f"its vector has shape {vector.shape}")
            except (KeyError, TypeError, ValueError, InvalidInput) as error:
                if hit["_id"] not in self._damaged:
                    self._damaged.add(hit["_id"])
                    logger.error("index %s: lot %r is damaged (%r) and left out; %s", self._name, hit["_id"], error, REBUILD)
                continue
            yield Candidate(hit["_id"], float(hit.get("_score") or 0.0), document, vector)

    def _check_vector(self, vector: Vector) -> None:
        if vector.shape != (self._dimensions,):
            raise InvalidInput(f"the query vector has shape {vector.shape}, index {self._name} holds ({self._dimensions},)")


def _options(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The suggester's options for one word, best first; none where its analyzer made several words of it."""
    tokens = answer["suggest"][name]
    return list(tokens[0]["options"]) if len(tokens) == 1 else []


def _keyword_score(hit: Mapping[str, Any]) -> float:
    """The BM25 score that a hit of the hybrid query had in the keyword list; 0 when it shares no word with the text."""
    return float((hit.get("matched_queries") or {}).get(KEYWORD_QUERY, 0.0))
