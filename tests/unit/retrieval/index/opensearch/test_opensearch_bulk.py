"""Bulk writes against a server that injects faults: busy ones are retried, every entry is accounted for."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from opensearchpy import OpenSearch

from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport
from retrieval.errors import IndexUnavailable
from retrieval.index.opensearch import bulk as opensearch_bulk
from retrieval.index.opensearch.bulk import BulkWriter

WRITTEN = {"status": 201, "result": "created"}
BUSY = {"status": 429, "error": {"type": "rejected_execution_exception", "reason": "queue is full"}}
STALE = {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "current version is higher"}}


class FaultyServer(ThreadingHTTPServer):
    """Answers `_bulk` with the next of its answers: a status, or a function from item id and document to an item's result."""

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["content-length"])).decode()
        entries = list(read_bulk(text))
        self.server.requests.append([(item_id, document) for _, item_id, document in entries])
        answer = self.server.answers.pop(0)
        if isinstance(answer, int):
            self.reply(answer, {"error": {"reason": "too many requests"}, "status": answer})
        else:
            self.reply(200, {"items": [{verb: answer(item_id, document)} for verb, item_id, document in entries]})

    def reply(self, status, values):
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def read_bulk(text):
    lines = iter(text.splitlines())
    for line in lines:
        ((verb, action),) = json.loads(line).items()
        yield verb, action["_id"], json.loads(next(lines)) if verb == "index" else None


@pytest.fixture
def serve(monkeypatch):
    """Start a faulty server and a writer to it."""
    monkeypatch.setattr(opensearch_bulk, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(opensearch_bulk, "MAX_WAIT_S", 0.01)
    servers = []

    def start(*answers):
        server = FaultyServer(*answers)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server, BulkWriter(OpenSearch(server.url, max_retries=0), "lots", 2, server.url, timeout_s=5)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def lot(item_id, version=1, **document):
    return IndexedItem(item_id, version, {"item_id": item_id, **document}, np.array([0.6, 0.8], np.float32))


def written(item_id, document):
    return WRITTEN


def ids(request):
    return [item_id for item_id, _ in request]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_request_that_a_busy_server_refuses_is_sent_again(serve, status):
    server, writer = serve(status, status, written)
    assert writer.write([lot("a"), lot("b")]) == UpsertReport(indexed=2)
    assert [ids(request) for request in server.requests] == [["a", "b"]] * 3


def test_only_the_entries_that_were_refused_are_sent_again(serve):
    server, writer = serve(lambda item_id, _: BUSY if item_id == "b" else WRITTEN, written)
    assert writer.write([lot("a"), lot("b"), lot("c")]) == UpsertReport(indexed=3)
    assert [ids(request) for request in server.requests] == [["a", "b", "c"], ["b"]]


def test_the_last_of_two_entries_for_a_lot_stays_last_when_the_first_was_refused(serve):
    server, writer = serve(lambda _, document: BUSY if document["title"] == "old" else WRITTEN, written)
    assert writer.write([lot("a", title="old"), lot("a", title="new")]) == UpsertReport(indexed=2)
    assert [[document["title"] for _, document in request] for request in server.requests] == [["old", "new"]] * 2


def test_a_server_that_stays_busy_is_unavailable_and_says_why(serve):
    server, writer = serve(*[lambda *_: BUSY] * opensearch_bulk.ATTEMPTS)
    with pytest.raises(IndexUnavailable, match=rf"{server.url} is too busy: 1 entries refused .*queue is full"):
        writer.write([lot("a")])
    assert server.answers == []


def test_an_older_version_counts_as_stale_and_is_not_sent_again(serve):
    server, writer = serve(lambda *_: STALE)
    assert writer.write([lot("a"), Deletion("b", 1)]) == UpsertReport(stale_ids=("a", "b"))
    assert len(server.requests) == 1


def test_a_document_that_the_mapping_refuses_is_rejected_with_the_reason_and_the_rest_is_written(serve):
    error = {"reason": "failed to parse field [bid_count]", "caused_by": {"reason": "out of range of int"}}
    _, writer = serve(lambda item_id, _: {"status": 400, "error": error} if item_id == "a" else WRITTEN)
    report = writer.write([lot("a"), lot("b")])
    assert report == UpsertReport(indexed=1, rejected=(("a", "failed to parse field [bid_count]: out of range of int"),))


def test_an_unsound_entry_is_rejected_before_it_is_sent(serve):
    server, writer = serve(written)
    long, short = IndexedItem("long", 1, {}, np.array([3, 4], np.float32)), IndexedItem("short", 1, {}, np.ones(1, np.float32))
    broken = lot("broken", description="\ud800")
    report = writer.write([long, short, broken, lot("sound")])
    assert report.indexed == 1
    assert [item_id for item_id, _ in report.rejected] == ["long", "short", "broken"]
    assert [ids(request) for request in server.requests] == [["sound"]]


def test_an_index_that_refuses_all_writes_is_unavailable_not_a_list_of_rejects(serve):
    _, writer = serve(lambda *_: {"status": 403, "error": {"reason": "index [lots] blocked: read-only"}})
    with pytest.raises(IndexUnavailable, match="read-only"):
        writer.write([lot("a")])


def test_requests_are_bounded_in_entries_and_in_bytes(serve, monkeypatch):
    monkeypatch.setattr(opensearch_bulk, "CHUNK_ENTRIES", 2)
    monkeypatch.setattr(opensearch_bulk, "CHUNK_BYTES", 1_000)
    server, writer = serve(*[written] * 4)
    entries = [lot("a"), lot("b"), lot("c"), lot("long", description="é" * 600), lot("d")]
    assert writer.write(entries) == UpsertReport(indexed=5)
    assert [ids(request) for request in server.requests] == [["a", "b"], ["c"], ["long"], ["d"]]


def test_nothing_to_write_sends_nothing(serve):
    server, writer = serve()
    assert writer.write([]) == UpsertReport()
    assert server.requests == []
