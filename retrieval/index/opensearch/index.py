"""One index on OpenSearch: HNSW and BM25 run on the server, the final scores and order are computed here.

The server scales and rounds its scores, and breaks ties by the place of an item in a segment. So this module fetches k + OVERFETCH
hits, scores semantic hits again by the exact cosine, and breaks ties by item_id, as every adapter does.
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
from retrieval.contracts.item_states import ItemState, StateOutcome, StateUpdate
from retrieval.contracts.items import epoch_ms
from retrieval.deadline import Deadline
from retrieval.errors import IndexUnavailable, InvalidInput, InvalidQuery
from retrieval.index.filters import Filter, matches, utc_now
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.opensearch.bulk import BulkWriter
from retrieval.index.opensearch.client import opensearch_errors
from retrieval.index.opensearch.mapping import EPOCH_MILLIS, fusion_pipeline
from retrieval.index.opensearch.queries import (
    KEYWORD_QUERY,
    KNOWN_WORDS,
    Query,
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
from retrieval.index.opensearch.responses import check_answer, check_documents, check_refresh, check_searches, retry_read
from retrieval.index.opensearch.states import StateIndex, row_fields
from retrieval.index.port import REBUILD, Candidate, TopField
from retrieval.index.ranking import add_ranks, fuse_candidates, rank_by_cosine, sort_by_score
from retrieval.text.spelling import can_be_misspelt

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 120.0  # long, because a bulk request waits until HNSW graphs are built
FETCH_CHUNK = 1_000
DELETION_RETENTION = timedelta(days=30)  # twice the longest retention of a queue, from which late operations may come
ALL_ITEMS = {"query": {"bool": {"must_not": {"exists": {"field": DELETED_FIELD}}}}}
# Word weights come from the items of all shards. With weights from single shards, the order would depend on the distribution of
# the items over the shards. For an index of one shard the server skips the extra phase.
GLOBAL_WORD_WEIGHTS = "dfs_query_then_fetch"

T = TypeVar("T")
# because a failed shard must not look like an answer with fewer hits
NO_PARTIAL_RESULTS = {"allow_partial_search_results": "false"}
WITH_VERSION = {"version": True}  # part of every body, because versions of rows are compared with those of states


class OpenSearchIndex:
    """One physical index on a server; OpenSearchStore opens it."""

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
        states: StateIndex,
        boosts: Mapping[str, float],
        has_attributes: bool,
        shards: int = 1,
    ) -> None:
        self._client = client
        self._name = name
        self._tower_id = tower_id
        self._dimensions = dimensions
        self._url = url
        self._pipeline = pipeline
        self._tuning, self._boosts, self._has_attributes = tuning, boosts, has_attributes
        self._damaged = damaged
        self._states = states
        self._writer = BulkWriter(client, name, dimensions, url, max(timeout_s, WRITE_TIMEOUT_S))
        self._shards = shards
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """Return the physical name, <alias>-<tower_id>-<UTC stamp>."""
        return self._name

    @property
    def tower_id(self) -> str:
        """Return the id of the tower that encoded the vectors."""
        return self._tower_id

    @property
    def dimensions(self) -> int:
        """Return the length of the vectors."""
        return self._dimensions

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of items that searches can find, ended ones included; with filters, the number that match."""
        self._check_filters(filters)
        body = ALL_ITEMS if filters is None else {"query": self._matching(filters)}
        return int(self._read(lambda limits: check_answer(self._client.count(index=self._name, body=body, params=limits)))["count"])

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write items and apply deletions, in order, in requests of bounded size.

        Args:
            entries: operations; the iterable is read once, while they are sent.
            overwrite: True writes an operation even over a newer stored version; for a moment no search finds such an item.

        Returns:
            The outcomes of all operations.

        Raises:
            IndexMissing: the index was dropped. The server does not create it again.
            IndexUnavailable: the server does not answer, or stays too busy. It is safe to send everything again.
        """
        with opensearch_errors(self._url):  # indices of older versions lack the field
            self._client.indices.put_mapping(index=self._name, body={"properties": {DELETED_FIELD: EPOCH_MILLIS}})
        rows: dict[str, tuple[int, Mapping[str, Any]] | None] = {}
        report = self._writer.write(_noting_rows(entries, rows), overwrite=overwrite)
        for item_id in (*report.stale_ids, *(item_id for item_id, _ in report.rejected)):
            rows.pop(item_id, None)
        if rows and self._states.rows_of() == self._name:
            self._states.take_rows(rows, force=overwrite)
        if report.deleted:
            self._purge_deletions(utc_now() - DELETION_RETENTION)
        return report

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""
        self._read(lambda limits: check_refresh(self._client.indices.refresh(index=self._name, params=limits)), WRITE_TIMEOUT_S)
        self._states.refresh(WRITE_TIMEOUT_S)

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """Return the items with the highest cosine to `vector`.

        Args:
            vector: (dimensions,) float32, the query vector.
            k: maximum number of items, up to 10,000.
            filters: conditions on the items.
            exact: True compares with every matching item instead of searching the HNSW graph.
        """
        self._check_vector(vector)
        self._check_filters(filters)
        if k < 1:
            return []
        matching = self._matching(filters)
        body = exact_body(vector, k, matching) if exact else semantic_body(vector, k, matching)
        candidates = rank_by_cosine(vector, self._candidates(self._hits(body), filters), k)
        return add_ranks(candidates, semantic=candidates)

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest tuned BM25 score for `text`; items that share no word with it are left out."""
        self._check_filters(filters)
        if k < 1:
            return []
        body = keyword_body(text, depth_of(k), self._matching(filters), self._boosts)
        candidates = sort_by_score(self._candidates(self._hits(body, search_type=GLOBAL_WORD_WEIGHTS), filters))[:k]
        return add_ranks(candidates, keyword=candidates)

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """Return the k best of the fused lists of semantic() and keyword(); fusion=None takes the tuned fusion.

        One request fetches both lists. The server's fusion ranks every shard separately, has no weights in rrf, and breaks ties by
        the place in a segment. So this method sorts the hits by cosine and by BM25, and fuses them again. With several shards the
        server does not fuse, because its fusion loses items if words are weighted over all shards.
        """
        fusion = fusion or self._tuning.fusion
        self._check_vector(vector)
        self._check_filters(filters)
        if k < 1:
            return []
        if self._shards > 1:
            return fuse_candidates(*self._both_lists(text, vector, k, filters), fusion, k)
        hits = self._hybrid_hits(hybrid_body(text, vector, k, self._matching(filters), self._boosts), fusion)
        by_id = {candidate.item_id: candidate for candidate in self._candidates(hits, filters)}
        semantic = rank_by_cosine(vector, by_id.values(), k)
        scores = [(hit["_id"], score) for hit in hits if hit["_id"] in by_id and (score := _keyword_score(hit)) > 0]
        scored = [replace(by_id[item_id], score=score) for item_id, score in scores]
        keyword = sort_by_score(scored)[:k]
        return fuse_candidates(keyword, semantic, fusion, k)

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest values of a field; items without the field are left out."""
        self._check_filters(filters)
        if k < 1:
            return []
        matching = self._matching(filters)
        candidates = self._candidates(self._hits(top_body(field, k, matching)), filters)
        if field == "bid_count":
            candidates += self._most_bids(k, matching, filters, {candidate.item_id for candidate in candidates})
        scored = [replace(one, score=float(one.document[field])) for one in candidates if field in one.document]
        return sort_by_score(scored)[:k]

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """Return misspelt word -> the most similar word of a title, for words in lower case that no item has; in one request."""
        if not words:
            return {}
        answer = self._search(corrections_body(words, self._boosts))
        counts = answer["aggregations"][KNOWN_WORDS]["buckets"]
        nearest = {
            word: next((option["text"] for option in _options(answer, str(n)) if can_be_misspelt(option["text"])), None)
            for n, word in enumerate(words)
            if not counts[str(n)]["doc_count"]
        }
        return {word: near for word, near in nearest.items() if near is not None}

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """Return the items of these ids in the order of the ids; unknown ids are left out, ended items are not."""
        candidates: list[Candidate] = []
        for start in range(0, len(item_ids), FETCH_CHUNK):
            body = {"ids": list(item_ids[start : start + FETCH_CHUNK])}
            hits = (hit for hit in self._documents(body) if hit.get("found") and DELETED_FIELD not in hit["_source"])
            candidates += self._candidates(hits)
        return candidates

    def update_states(self, updates: Sequence[StateUpdate]) -> list[StateOutcome]:
        """Carry out updates of states, in order, and return the outcome of each; acknowledged updates are durable."""
        if not updates:
            return []
        self._states.create(self._name)
        return self._states.update(updates, self._name)

    def states(self, item_ids: Sequence[str]) -> dict[str, ItemState]:
        """Return item_id -> state of these items; items without a state are left out."""
        return self._states.of_items(item_ids, self._timeout_s)

    def state_stamp(self, filters: Filter) -> int:
        """Return a number that changes when an update of a state may have made an item match the filters."""
        return self._states.stamp("changes" if filters.state_ranges else "openings", self._timeout_s)

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """Return at most `count` stored (dimensions,) vectors of random matching items; a seed gives the same until a write."""
        self._check_filters(filters)
        return (
            [candidate.vector for candidate in self._candidates(self._hits(sample_body(count, self._matching(filters), seed)))]
            if count > 0
            else []
        )

    def newest_update(self) -> int | None:
        """Return the latest `updated_at` of an item, in ms since 1970; None if no item has one."""
        answer = self._search({"size": 0, "aggs": {"newest": {"max": {"field": "updated_at"}}}})
        newest = answer["aggregations"]["newest"]["value"]
        return None if newest is None else int(newest)

    def deletions(self) -> list[Deletion]:
        """Return the deletions of items that were not written again; those older than DELETION_RETENTION may be missing."""
        body = {"query": {"exists": {"field": DELETED_FIELD}}, "version": True, "_source": False}
        with opensearch_errors(self._url):
            hits = scan(
                self._client,
                query=body,
                index=self._name,
                size=FETCH_CHUNK,
                scroll="1m",
                clear_scroll=False,  # clearing would need a permission on all indices; a scroll expires anyway
                request_timeout=WRITE_TIMEOUT_S,
            )
            return [Deletion(hit["_id"], hit["_version"]) for hit in hits]

    def within(self, seconds: float) -> "OpenSearchIndex":
        """Return the same index on the same connections, with a time limit, in seconds, for searches and fetches."""
        limited = copy(self)
        limited._timeout_s = seconds
        return limited

    def damaged(self) -> int:
        """Return the number of items that were left out so far by this process, because their data cannot be read."""
        return len(self._damaged)

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._client.close()

    def _purge_deletions(self, before: datetime) -> None:
        """Remove the records of deletions before a time, because no queue still has operations of that age."""
        body = {"query": {"range": {DELETED_FIELD: {"lt": epoch_ms(before)}}}}
        params = {"conflicts": "proceed", "request_timeout": WRITE_TIMEOUT_S}
        try:
            with opensearch_errors(self._url):
                self._client.delete_by_query(index=self._name, body=body, params=params)
        except IndexUnavailable as error:  # only logged, because the writes are done, and the next deletion purges again
            logger.warning("index %s keeps the records of old deletions: %s", self._name, error)

    def _hybrid_hits(self, body: dict[str, Any], fusion: Fusion) -> list[dict[str, Any]]:
        """Return the hits of a hybrid query; rrf uses the alias's pipeline, other kinds a pipeline in the request."""
        options = {"include_named_queries_score": "true"}
        if fusion.kind == "rrf":
            return self._hits(body, search_pipeline=self._pipeline, **options)
        return self._hits({**body, "search_pipeline": fusion_pipeline(fusion)}, **options)

    def _both_lists(self, text: str, vector: Vector, k: int, filters: Filter) -> tuple[list[Candidate], list[Candidate]]:
        """Return the lists of keyword() and of semantic(), fetched in one request."""
        matching = self._matching(filters)
        bodies = [keyword_body(text, depth_of(k), matching, self._boosts), semantic_body(vector, k, matching)]
        lines = [
            line
            for body, kind in zip(bodies, (GLOBAL_WORD_WEIGHTS, "query_then_fetch"), strict=True)
            for line in ({"search_type": kind, **NO_PARTIAL_RESULTS}, {**body, **WITH_VERSION})
        ]
        answers = self._read(lambda limits: check_searches(self._client.msearch(index=self._name, body=lines, params=limits)))
        keyword, semantic = (self._candidates(answer["hits"]["hits"], filters) for answer in answers)
        return sort_by_score(keyword)[:k], rank_by_cosine(vector, semantic, k)

    def _matching(self, filters: Filter) -> Query:
        """Return the query for the lots that match the filters by their states."""
        return filter_query(filters, self._states.changes(filters, self._timeout_s))

    def _most_bids(self, k: int, matching: Query, filters: Filter, known: set[str]) -> list[Candidate]:
        """Return matching items whose states have the most bids, without the known ones; k of them are enough."""
        candidates: list[Candidate] = []
        for page in self._states.most_bids(filters, self._timeout_s):
            ids = [item_id for item_id in page if item_id not in known]
            body = {"size": len(page), "query": {"bool": {"filter": [matching, {"terms": {"item_id": ids}}]}}}
            candidates += self._candidates(self._hits(body), filters) if ids else []
            if len(candidates) >= k:
                break
        return candidates

    def _hits(self, body: Mapping[str, Any], **params: str) -> list[dict[str, Any]]:
        return list(self._search(body, **params)["hits"]["hits"])

    def _search(self, body: Mapping[str, Any], **params: str) -> dict[str, Any]:
        def send(limits: dict[str, Any]) -> dict[str, Any]:
            params_of_all = {**NO_PARTIAL_RESULTS, **params, **limits}
            return check_answer(self._client.search(index=self._name, body={**body, **WITH_VERSION}, params=params_of_all))

        return self._read(send)

    def _documents(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._read(lambda limits: check_documents(self._client.mget(index=self._name, body=body, params=limits)))

    def _read(self, send: Callable[[dict[str, Any]], T], seconds: float | None = None) -> T:
        """Return the result of a read request; retry it if a node is lost.

        Args:
            send: function that sends the request with the given limits as parameters.
            seconds: time limit of all attempts together; None takes that of this index.
        """
        seconds = seconds or self._timeout_s
        deadline = Deadline(seconds)
        with opensearch_errors(self._url):
            return retry_read(lambda: send({"request_timeout": deadline.limit(seconds)}))

    def _candidates(self, hits: Iterable[Mapping[str, Any]], filters: Filter | None = None) -> list[Candidate]:
        """Return the items of hits with their newest states, without damaged ones; with filters, those that still match them."""
        read = [(int(hit.get("_version", 0)), candidate) for hit in hits if (candidate := self._read_hit(hit))]
        states = self._states.of_items([candidate.item_id for _, candidate in read], self._timeout_s)
        candidates: list[Candidate] = []
        for version, candidate in read:
            state = states.get(candidate.item_id)
            if state is None:
                candidates.append(candidate)
                continue
            document = state.over(candidate.document, version)
            if filters is None or matches(filters, document):
                candidates.append(replace(candidate, document=document))
        return candidates

    def _read_hit(self, hit: Mapping[str, Any]) -> Candidate | None:
        """Return the item of a hit; None for one whose document or vector cannot be read, which is logged once."""
        try:
            document = dict(hit["_source"])
            vector = pop_vector(hit["_id"], document)
            if vector.shape != (self._dimensions,):
                raise ValueError(f"its vector has shape {vector.shape}")
        except (KeyError, TypeError, ValueError, InvalidInput) as error:
            if hit["_id"] not in self._damaged:
                self._damaged.add(hit["_id"])
                logger.error("index %s: lot %r is damaged (%r) and left out; %s", self._name, hit["_id"], error, REBUILD)
            return None
        return Candidate(hit["_id"], float(hit.get("_score") or 0.0), document, vector)

    def _check_filters(self, filters: Filter | None) -> None:
        if filters is not None and (filters.attributes or filters.not_attributes) and not self._has_attributes:
            raise InvalidQuery(
                f"index {self._name} was built before lots had attributes, so nothing is filtered by them; {REBUILD}"
            )

    def _check_vector(self, vector: Vector) -> None:
        if vector.shape != (self._dimensions,):
            raise InvalidInput(f"the query vector has shape {vector.shape}, index {self._name} holds ({self._dimensions},)")


def _noting_rows(
    entries: Iterable[IndexedItem | Deletion], rows: dict[str, tuple[int, Mapping[str, Any]] | None]
) -> Iterator[IndexedItem | Deletion]:
    """Yield the operations, and note in `rows` what the last row of each item says, for StateIndex.take_rows()."""
    for entry in entries:
        rows[entry.item_id] = (entry.version, row_fields(entry.document)) if isinstance(entry, IndexedItem) else None
        yield entry


def _options(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the suggester's options for one word, best first; none if the analyzer cuts it into several words."""
    tokens = answer["suggest"][name]
    return list(tokens[0]["options"]) if len(tokens) == 1 else []


def _keyword_score(hit: Mapping[str, Any]) -> float:
    """Return the BM25 score of a hybrid hit in the keyword list; 0 if it shares no word with the text."""
    return float((hit.get("matched_queries") or {}).get(KEYWORD_QUERY, 0.0))
