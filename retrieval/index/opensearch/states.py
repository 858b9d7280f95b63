"""Store the states of items in an index of their own, beside the indices of the lots, and join both at query time.

A partial update of a lot would write its vector and words again. A state is a small document without either. It also holds what the
live index's document of the lot says (`row`). So two queries find all lots whose state and row differ on a filter: those that it
passes by their row alone are excluded, and those that it passes by their state alone are added (docs/adr/0028-live-states.md).
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError, RequestError, TransportError
from opensearchpy.helpers import scan

from retrieval.contracts.documents import DELETED_FIELD
from retrieval.contracts.item_states import OPEN, STATUSES, ItemState, Outcome, StateOutcome, StateUpdate
from retrieval.contracts.items import epoch_ms
from retrieval.errors import IndexUnavailable
from retrieval.index.filters import Filter, utc_now
from retrieval.index.opensearch.bulk import BUSY, Busy, retry_while_busy, send_bulk
from retrieval.index.opensearch.client import opensearch_errors
from retrieval.index.opensearch.mapping import EPOCH_MILLIS
from retrieval.index.opensearch.responses import check_searches

logger = logging.getLogger(__name__)

ROW_FIELDS = ("ends_at", "current_price", "bid_count")  # fields of a state that the document of a lot may have, too
UPDATES_PER_REQUEST = 1_000
CONFLICT, CONFLICT_RETRIES = 409, 5  # status of an update beside another one of the same state, and attempts of the server
PAGE = 10_000  # ids of a page of changes
TOP_PAGE = 100  # ids of a page of the items with the most bids
REFRESH = "500ms"  # a bid counts in searches after at most this time
CLOSED = [status for status in STATUSES if status != OPEN]

# Painless. `row` is null if the update says nothing about the row, and {} if the lot was deleted.
SCRIPT = """
Map s = ctx._source;
if (s.values == null) { s.values = new HashMap(); s.versions = new HashMap(); s.changes = 0L; s.openings = 0L; }
boolean changed = false;
boolean may_open = false;
for (def entry : params.values.entrySet()) {
  String name = entry.getKey();
  def version = s.versions.get(name);
  if (version == null || params.version >= version) {
    s.values.put(name, entry.getValue());
    s.versions.put(name, params.version);
    changed = true;
    if (name == 'ends_at' || name == 'status') { may_open = true; }
  }
}
boolean any_row = params.force || s.row_version == null;
if (params.row != null && (any_row || params.row_version >= s.row_version)) {
  s.row = params.row;
  s.row_version = params.row_version;
  changed = true;
}
if (!changed) { ctx.op = 'none'; return; }
Map row = s.row == null ? new HashMap() : s.row;
Map live = new HashMap();
for (String name : ['ends_at', 'current_price', 'bid_count', 'status']) {
  def version = s.versions.get(name);
  def of_row = row.get(name);
  boolean from_row = version == null || (of_row != null && s.row_version != null && version < s.row_version);
  live.put(name, from_row ? of_row : s.values.get(name));
}
if (may_open) {
  boolean closed_now = (live.status != null && live.status != 'open') || (live.ends_at != null && live.ends_at <= params.now);
  boolean open_before = s.live != null && (s.live.status == null || s.live.status == 'open')
    && s.live.containsKey('ends_at') && s.live.ends_at != null && s.live.ends_at > params.now;
  if (!closed_now && !open_before) { s.openings += 1; }
}
s.live = live;
s.changes += 1;
"""


@dataclass(frozen=True, slots=True)
class StateChanges:
    """The lots whose state and row differ on a filter.

    Attributes:
        excluded: ids of lots that the filter passes by their row, but not by their state.
        added: ids of lots that it passes by their state, but not by their row.
    """

    excluded: Sequence[str] = ()
    added: Sequence[str] = ()


NO_CHANGES = StateChanges()


def states_name(alias: str) -> str:
    """Return the name of the index of the states of an alias."""
    return f"{alias}-states"


def states_body(replicas: int, lots: str) -> dict[str, Any]:
    """Return the settings and mapping of the index of states; `lots` is the index whose rows they know."""
    fields = {
        "ends_at": EPOCH_MILLIS,
        "current_price": {"type": "float"},
        "bid_count": {"type": "integer"},
        "status": {"type": "keyword"},
    }
    stored = {"type": "object", "enabled": False}
    return {
        "settings": {"index": {"number_of_shards": 1, "number_of_replicas": replicas, "refresh_interval": REFRESH, "knn": False}},
        "mappings": {
            "dynamic": False,
            "_meta": {"rows_of": lots},
            "properties": {
                "item_id": {"type": "keyword"},
                "values": stored,
                "versions": stored,
                "row_version": {"type": "long"},
                "row": {"properties": fields},
                "live": {"properties": fields},
                "changes": {"type": "long"},
                "openings": {"type": "long"},
            },
        },
    }


class StateIndex:
    """The states of the items of one alias.

    Args:
        client: client of the server.
        name: name of the index of states, which the first update creates.
        url: URL of the server, for errors.
        replicas: number of copies per shard.
    """

    def __init__(self, client: OpenSearch, name: str, url: str, replicas: int) -> None:
        self._client, self._name, self._url, self._replicas = client, name, url, replicas

    def update(self, updates: Sequence[StateUpdate], lots: str) -> list[StateOutcome]:
        """Carry out updates, in order.

        Args:
            updates: updates; several of one item are carried out one after another.
            lots: name of the index whose rows the states go with.

        Returns:
            The outcome of each update: "unknown" for an item that `lots` does not have.
        """
        now_ms, outcomes = epoch_ms(utc_now()), list[StateOutcome]()
        for start in range(0, len(updates), UPDATES_PER_REQUEST):
            batch = updates[start : start + UPDATES_PER_REQUEST]
            actions = [(one.item_id, _parameters(now_ms, one.version, one.values)) for one in batch]
            answers = self._write(actions, create=True)
            without_row = {one.item_id for one, answer in zip(batch, answers, strict=True) if not _has_row(answer)}
            known = self._take_rows(lots, sorted(without_row)) if without_row else set[str]()
            for one, answer in zip(batch, answers, strict=True):
                outcome: Outcome = "stale" if answer["result"] == "noop" else "applied"
                outcomes.append(StateOutcome(one.item_id, "unknown" if one.item_id in without_row - known else outcome))
        return outcomes

    def take_rows(self, rows: Mapping[str, tuple[int, Mapping[str, Any]] | None], *, force: bool = False) -> None:
        """Note what the rows of items say now; items without a state are left out.

        Args:
            rows: item_id -> (version, fields) of its row; None for an item that was deleted.
            force: True takes a row of an older version, too, as after a roll-back.
        """
        ids = list(rows)
        for start in range(0, len(ids), UPDATES_PER_REQUEST):
            with opensearch_errors(self._url):  # most items of a night have no state, and need no update
                body, params = {"ids": ids[start : start + UPDATES_PER_REQUEST]}, {"_source": "false"}
                with_state = [doc["_id"] for doc in _present(self._client.mget(index=self._name, body=body, params=params)["docs"])]
            if with_state:
                self._write([(item_id, _row_parameters(rows[item_id], force)) for item_id in with_state], create=False)

    def take_all_rows(self, lots: str) -> None:
        """Note what the rows of an index say, for all states, because the index goes live."""
        with opensearch_errors(self._url):
            if self.rows_of() in (None, lots):
                return
            self._client.indices.put_mapping(index=self._name, body={"_meta": {"rows_of": lots}})
            query = {"query": {"match_all": {}}, "_source": False}
            ids = [hit["_id"] for hit in scan(self._client, query=query, index=self._name, size=PAGE, clear_scroll=False)]
        for start in range(0, len(ids), UPDATES_PER_REQUEST):
            self._take_rows(lots, ids[start : start + UPDATES_PER_REQUEST], force=True)

    def of_items(self, item_ids: Iterable[str], timeout_s: float) -> dict[str, ItemState]:
        """Return item_id -> newest state of these items; items without a state are left out.

        If they cannot be fetched by id, they are searched, and are up to REFRESH old.
        """
        ids = list(dict.fromkeys(item_ids))
        if not ids:
            return {}
        fields = ("values", "versions")
        try:
            with opensearch_errors(self._url):
                params = {"_source_includes": ",".join(fields), "request_timeout": timeout_s}
                docs = _present(self._client.mget(index=self._name, body={"ids": ids}, params=params)["docs"])
        except IndexUnavailable as error:
            logger.warning("states are searched, because they cannot be fetched: %s", error)
            (answer,) = self._search([{"size": len(ids), "query": {"terms": {"item_id": ids}}, "_source": fields}], timeout_s)
            docs = answer["hits"]["hits"]
        return {doc["_id"]: ItemState(doc["_id"], *(doc["_source"][field] for field in fields)) for doc in docs}

    def changes(self, filters: Filter, timeout_s: float) -> StateChanges:
        """Return the lots whose state and row differ on the filters."""
        by_row, by_state = state_conditions(filters, "row"), state_conditions(filters, "live")
        has_row = {"exists": {"field": "row_version"}}
        excluded = {"bool": {"filter": [has_row, by_row], "must_not": [by_state]}}
        added = {"bool": {"filter": [has_row, by_state], "must_not": [by_row]}}
        pages = self._search([_ids_body(excluded), _ids_body(added)], timeout_s)
        return StateChanges(*(self._all_ids(query, page, timeout_s) for query, page in zip((excluded, added), pages, strict=True)))

    def most_bids(self, filters: Filter, timeout_s: float) -> Iterator[list[str]]:
        """Yield pages of the ids of items that match the filters by their state, those with the most bids first."""
        query = {"bool": {"filter": [state_conditions(filters, "live"), {"exists": {"field": "live.bid_count"}}]}}
        best_first = [{"live.bid_count": "desc"}, {"item_id": "asc"}]
        body: dict[str, Any] = {"size": TOP_PAGE, "query": query, "_source": False, "sort": best_first}
        while hits := self._search([body], timeout_s)[0]["hits"]["hits"]:
            yield [hit["_id"] for hit in hits]
            body = {**body, "search_after": hits[-1]["sort"]}

    def stamp(self, field: str, timeout_s: float) -> int:
        """Return the sum of a counter, "changes" or "openings", of all states; 0 without states."""
        (answer,) = self._search([{"size": 0, "aggs": {"total": {"sum": {"field": field}}}}], timeout_s)
        return int(answer["aggregations"]["total"]["value"]) if "aggregations" in answer else 0

    def refresh(self, timeout_s: float) -> None:
        """Make all acknowledged updates visible to the next search."""
        with opensearch_errors(self._url):
            self._client.indices.refresh(index=self._name, params={"ignore_unavailable": "true", "request_timeout": timeout_s})

    def _take_rows(self, lots: str, item_ids: Sequence[str], *, force: bool = False) -> set[str]:
        """Note what the rows of these items say, and return the ids of the items that have one."""
        params = {"_source_includes": ",".join((*ROW_FIELDS, DELETED_FIELD))}
        with opensearch_errors(self._url):
            docs = self._client.mget(index=lots, body={"ids": list(item_ids)}, params=params)["docs"]
        rows = {doc["_id"]: (doc["_version"], doc["_source"]) for doc in _present(docs) if DELETED_FIELD not in doc["_source"]}
        missing = dict.fromkeys(set(item_ids) - rows.keys()) if force else {}
        self.take_rows({**rows, **missing}, force=force)
        return set(rows)

    def _all_ids(self, query: Mapping[str, Any], page: Mapping[str, Any], timeout_s: float) -> list[str]:
        ids: list[str] = []
        while hits := page["hits"]["hits"]:
            ids += [hit["_id"] for hit in hits]
            if len(hits) < PAGE:
                break
            (page,) = self._search([{**_ids_body(query), "search_after": hits[-1]["sort"]}], timeout_s)
        return ids

    def _search(self, bodies: Sequence[Mapping[str, Any]], timeout_s: float) -> list[dict[str, Any]]:
        header = {"ignore_unavailable": True, "allow_partial_search_results": False}
        lines = [line for body in bodies for line in (header, body)]
        with opensearch_errors(self._url):
            return check_searches(self._client.msearch(index=self._name, body=lines, params={"request_timeout": timeout_s}))

    def _write(self, actions: Sequence[tuple[str, Mapping[str, Any]]], *, create: bool) -> list[dict[str, Any]]:
        """Run SCRIPT on the documents of items, and return the server's answers in order; without `create` others are left out."""
        lines = [
            f"{json.dumps({'update': {'_id': item_id, 'retry_on_conflict': CONFLICT_RETRIES}})}\n"
            + json.dumps(
                {
                    "script": {"source": SCRIPT, "lang": "painless", "params": parameters},
                    "_source": ["row_version"],
                    **({"scripted_upsert": True, "upsert": {"item_id": item_id}} if create else {}),
                }
            )
            + "\n"
            for item_id, parameters in actions
        ]
        answers: dict[int, dict[str, Any]] = {}
        try:
            retry_while_busy(lambda: self._send(lines, answers))
        except Busy as busy:
            raise IndexUnavailable(f"OpenSearch at {self._url} is too busy for states ({busy}); send them again later") from busy
        return [answers[place] for place in range(len(lines))]

    def _send(self, lines: Sequence[str], answers: dict[int, dict[str, Any]]) -> None:
        pending = [place for place in range(len(lines)) if place not in answers]
        body = "".join(lines[place] for place in pending)
        results = send_bulk(self._client, self._url, self._name, body, {})
        busy = ""
        for place, result in zip(pending, results, strict=True):
            answer = result["update"]
            if answer["status"] in (*BUSY, CONFLICT):
                busy = str(answer.get("error", {}).get("reason", answer["status"]))
            elif answer["status"] >= 500 or answer["status"] == 400:
                raise IndexUnavailable(f"OpenSearch at {self._url} does not take states: {answer.get('error')}")
            else:
                answers[place] = answer
        if busy:
            raise Busy(busy)

    def rows_of(self) -> str | None:
        """Return the name of the index whose rows the states know; None if there is no state."""
        with opensearch_errors(self._url):
            try:
                mapping = self._client.indices.get_mapping(index=self._name)
            except NotFoundError:
                return None
        return str(mapping[self._name]["mappings"]["_meta"]["rows_of"])

    def create(self, lots: str) -> None:
        """Create the index, whose states know the rows of `lots`, unless it is there."""
        if self.rows_of() is not None:
            return
        with opensearch_errors(self._url):
            try:
                self._client.indices.create(index=self._name, body=states_body(self._replicas, lots))
            except RequestError as error:
                if error.error != "resource_already_exists_exception":  # another process was quicker
                    raise


def state_conditions(filters: Filter, part: str = "") -> dict[str, Any]:
    """Return the query for the conditions on fields of a state.

    Args:
        filters: conditions on the items.
        part: "row" or "live" for documents of states; "" for documents of lots.
    """
    prefix = f"{part}." if part else ""
    # conditions that must not hold are never true for an item without ends_at
    must_not: list[dict[str, Any]] = [{"range": {f"{prefix}ends_at": {"lte": epoch_ms(filters.moment())}}}]
    must: list[dict[str, Any]] = []
    for name, (low, high) in filters.state_ranges.items():
        if name == "ends_at" and low is not None:
            must_not.append({"range": {f"{prefix}ends_at": {"lt": low}}})
            low = None
        bounds = {bound: value for bound, value in (("gte", low), ("lte", high)) if value is not None}
        if bounds:
            must.append({"range": {f"{prefix}{name}": bounds}})
    if part == "live":
        must_not.append({"terms": {f"{prefix}status": CLOSED}})
    return {"bool": {"filter": must, "must_not": must_not}}


def row_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a document that a state may have, too."""
    return {name: document[name] for name in ROW_FIELDS if name in document}


def _parameters(now_ms: int, version: int, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"now": now_ms, "version": version, "values": dict(values), "row": None, "row_version": None, "force": False}


def _row_parameters(row: tuple[int, Mapping[str, Any]] | None, force: bool) -> dict[str, Any]:
    version, fields = row or (None, {})
    return {"now": 0, "version": 0, "values": {}, "row": row_fields(fields), "row_version": version, "force": force or row is None}


def _ids_body(query: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": PAGE, "query": query, "_source": False, "sort": [{"item_id": "asc"}]}


def _present(docs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the documents that were found; raise for one that could not be looked up, unless the whole index is missing."""
    present = []
    for doc in docs:
        if "error" in doc:
            if doc["error"]["type"] == "index_not_found_exception":
                continue
            raise TransportError(503, doc["error"]["type"], doc)
        if doc.get("found"):
            present.append(doc)
    return present


def _has_row(answer: Mapping[str, Any]) -> bool:
    """True if the state of an answered update knows the row of its item."""
    return answer.get("get", {}).get("_source", {}).get("row_version") is not None
