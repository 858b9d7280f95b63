"""Who may call the API: under which name, from which pages, how often, and what an answer gives away."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from lots import WordEncoder, lot, publish
from typer.testing import CliRunner

from gavel.cli import serve as serve_command
from gavel.cli.main import app as command
from gavel.opensearch.node import free_port
from lambdas.query_api.app import create_app
from lambdas.query_api.callers import BURST_S, MAX_CLIENTS, CallerLimits, ClientLimit
from lambdas.query_api.events import events_router
from lambdas.query_api.problems import MAX_EVENTS_BYTES
from retrieval import errors
from retrieval.buyers.sqlite_history import BuyerEvents
from retrieval.feedback.file_sink import EventLog
from retrieval.feedback.rows import MAX_EVENTS
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import MAX_QUERIES, SearchModels, SearchService

OWN = "http://127.0.0.1:8000"
JSON = {"Content-Type": "application/json"}


def client(folder: Path, *, origins: Sequence[str] = (), address: str = "192.0.2.7", **limits: Any) -> TestClient:
    """A shop of two lots, asked under OWN from an address."""
    store = EmbeddedStore(folder / "index")
    publish(store, [lot("v1", "red vase"), lot("v2", "blue vase")])
    service = SearchService(store, SearchModels(WordEncoder), buyer_store=BuyerEvents(folder / "buyers.sqlite", 90))
    queries = limits.pop("queries_per_request", MAX_QUERIES)
    app = create_app(lambda: service, origins, limits=CallerLimits(**limits), queries_per_request=queries)
    app.include_router(events_router(EventLog(folder / "events"), service.record_interactions))
    return TestClient(app, OWN, raise_server_exceptions=False, client=(address, 50_000))


def shown_list(*item_ids: str, session_id: str = "s-1") -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    events = [
        {"event_type": "click", "item_id": item_id, "position": n, "timestamp": now}
        for n, item_id in enumerate(item_ids or ("v1",), 1)
    ]
    return {"query_id": "list-1", "session_id": session_id, "query": "red vase", "shown_at": now, "events": events}


def refused(answer: Any, status: int, kind: str) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert answer.json()["type"] == kind
    return str(answer.json()["detail"])


# names


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "localhost",
        "LOCALHOST:9000",
        "localhost.",
        "[::1]",
        "[::1]:8000",
        "127.9.9.9",
        "[::ffff:127.0.0.1]",
    ],
)
def test_loopback_names_are_answered_under_any_port(host: str, tmp_path: Path) -> None:
    assert client(tmp_path, hosts=()).get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "192.0.2.1",
        "",
        "[::2]",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/search?q=vase", "/buyers/b", "/openapi.json"])
def test_a_name_that_somebody_else_leads_here_is_refused(host: str, path: str, tmp_path: Path) -> None:
    detail = refused(client(tmp_path, hosts=()).get(path, headers={"Host": host}), 421, "unknown_host")
    assert "--allow-host" in detail


def test_two_host_headers_are_none(tmp_path: Path) -> None:
    named = [("Host", "127.0.0.1"), ("Host", "evil.example")]
    refused(client(tmp_path, hosts=()).get("/health", headers=named), 421, "unknown_host")


def test_names_that_the_operator_allows_are_answered(tmp_path: Path) -> None:
    shop = client(tmp_path, hosts=["Shop.example", "192.0.2.1", "::2"])
    for host in ("shop.example", "shop.example:8000", "192.0.2.1:80", "[::2]:80", "localhost"):
        assert shop.get("/health", headers={"Host": host}).status_code == 200
    refused(shop.get("/health", headers={"Host": "other.example"}), 421, "unknown_host")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[CallerLimits]:
    """The limits that `gavel serve` serves with; nothing is loaded and nothing listens for long."""
    made: list[CallerLimits] = []
    monkeypatch.setattr("gavel.web.http_server.serve_app", lambda *given, **more: None)
    monkeypatch.setattr(serve_command, "page_and_api", lambda *given: (made.append(given[3]), (None, "index a, 2 lots"))[1])
    return made


def serve(*flags: str) -> str:
    run = CliRunner().invoke(command, ["serve", "--port", str(free_port()), *flags])
    if run.exception:
        raise run.exception
    return " ".join(run.output.split())


def test_a_server_on_loopback_answers_under_its_own_names_and_limits_writes(served: list[CallerLimits]) -> None:
    assert "--allow-host" not in serve()
    (limits,) = served
    assert (limits.hosts, limits.writes_per_second, limits.searches_per_second) == (["127.0.0.1"], 10, 0)


def test_a_server_that_others_reach_says_who_may_do_what(served: list[CallerLimits]) -> None:
    told = serve("--host", "0.0.0.0", "--allow-host", "shop.example")
    assert "POST /events" in told
    assert "/buyers" in told
    assert "--allow-host" in told
    assert served[0].hosts == ["0.0.0.0", "shop.example"]
    serve("--allow-host", "*")
    assert served[1].hosts is None


def test_a_url_is_no_name_to_allow(served: list[CallerLimits]) -> None:
    with pytest.raises(errors.InvalidInput, match="without scheme and path"):
        serve("--allow-host", "http://shop.example/")


# pages of other origins


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:9000", "null", "", "http://[", "https://127.0.0.1:8000.evil.example"]
)
def test_a_page_of_another_origin_may_not_write(origin: str, tmp_path: Path) -> None:
    shop = client(tmp_path)
    assert shop.post("/events", json=shown_list()).status_code == 202
    for answer in (
        shop.post("/events", json=shown_list("v2"), headers={"Origin": origin}),
        shop.delete("/buyers/s-1", headers={"Origin": origin}),
        shop.delete("/buyers/s-1/similar", headers={"Origin": origin}),  # an id may hold what other addresses end with
    ):
        assert "GAVEL_CORS_ORIGINS" in refused(answer, 403, "foreign_origin")
    assert [act["item_id"] for act in shop.get("/buyers/s-1").json()["acts"]] == ["v1"]


def test_a_write_with_a_foreign_origin_beside_the_own_is_refused(tmp_path: Path) -> None:
    shop = client(tmp_path)
    for origins in ([OWN, "http://evil.example"], ["http://evil.example", OWN]):
        answer = shop.post("/events", json=shown_list(), headers=[("Origin", origin) for origin in origins])
        assert "evil.example" in refused(answer, 403, "foreign_origin")
    assert shop.post("/events", json=shown_list(), headers=[("Origin", OWN), ("Origin", OWN)]).status_code == 202


@pytest.mark.parametrize("scheme", ["chrome-extension", "file", "ftp", ""])
def test_only_a_web_page_under_the_own_name_is_the_own_page(scheme: str, tmp_path: Path) -> None:
    answer = client(tmp_path).post("/events", json=shown_list(), headers={"Origin": f"{scheme}://127.0.0.1:8000"})
    refused(answer, 403, "foreign_origin")


def test_the_own_page_behind_a_proxy_that_speaks_https_may_write(tmp_path: Path) -> None:
    answer = client(tmp_path).post("/events", json=shown_list(), headers={"Origin": OWN.replace("http", "https")})
    assert answer.status_code == 202


def test_the_own_page_and_pages_of_listed_origins_may_write(tmp_path: Path) -> None:
    shop = client(tmp_path, origins=["https://shop.example"])
    for origin in (OWN, "https://shop.example"):
        assert shop.post("/events", json=shown_list(), headers={"Origin": origin}).status_code == 202
        assert shop.delete("/buyers/s-1", headers={"Origin": origin}).status_code == 200


def test_a_page_of_another_origin_may_search_and_not_read_the_answer(tmp_path: Path) -> None:
    answer = client(tmp_path).get("/search?q=vase", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/events", "/search", "/retrieve", "/encode_query", "/encode_buyer"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", None])
def test_json_under_a_type_that_needs_no_permission_is_refused(path: str, kind: str | None, tmp_path: Path) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client(tmp_path).post(path, content=json.dumps(shown_list()), headers=headers)
    assert "application/json" in refused(answer, 415, "unsupported_media_type")
    assert not (tmp_path / "events").exists()


# how often, how much


def test_a_client_that_writes_too_often_waits_and_others_do_not(tmp_path: Path) -> None:
    shop = client(tmp_path, writes_per_second=1)
    answers = [shop.post("/events", json=shown_list()) for _ in range(BURST_S + 2)]
    assert [answer.status_code for answer in answers[:BURST_S]] == [202] * BURST_S
    assert "events" in refused(answers[-1], 429, "too_many_requests")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
    refused(shop.delete("/buyers/s-1"), 429, "too_many_requests")
    assert shop.get("/search?q=vase").status_code == 200
    neighbour = TestClient(shop.app, OWN, client=("192.0.2.8", 50_000))
    assert neighbour.post("/events", json=shown_list()).status_code == 202


def test_a_client_names_no_other_address_than_its_own(tmp_path: Path) -> None:
    shop = client(tmp_path, writes_per_second=1)
    answers = [shop.post("/events", json=shown_list(), headers={"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(BURST_S + 2)]
    assert answers[-1].status_code == 429


def test_the_addresses_of_one_ipv6_subscriber_are_one_client(tmp_path: Path) -> None:
    shop = client(tmp_path, writes_per_second=1)
    statuses = [
        TestClient(shop.app, OWN, client=(f"2001:db8:0:1::{n:x}", 1)).delete("/buyers/b").status_code for n in range(BURST_S + 2)
    ]
    assert statuses[-1] == 429
    assert TestClient(shop.app, OWN, client=("2001:db8:0:2::1", 1)).delete("/buyers/b").status_code == 200


class StepBudget:
    """Seconds that a test lets pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_debt_is_paid_in_the_time_that_is_told() -> None:
    clock = StepBudget()
    limit = ClientLimit(2, clock)
    assert limit.take("a", 20) == 0
    wait_s = limit.take("a", 1)
    assert wait_s == pytest.approx((20 - (2 * BURST_S - 1)) / 2)
    clock.now += wait_s - 0.1
    assert limit.take("a", 1) == pytest.approx(0.1)
    clock.now += 0.1
    assert limit.take("a", 1) == 0
    clock.now += 3_600
    assert [limit.take("a", 1) for _ in range(2 * BURST_S)] == [0] * 2 * BURST_S
    assert limit.take("a", 1) > 0


def test_as_many_clients_are_remembered_as_fit() -> None:
    limit = ClientLimit(1, StepBudget())
    limit.take("first", 50)
    assert limit.take("first", 1) > 0
    for number in range(MAX_CLIENTS):
        limit.take(str(number), 1)
    assert limit.take("first", 1) == 0


def test_a_post_of_twenty_searches_counts_as_twenty(tmp_path: Path) -> None:
    shop = client(tmp_path, searches_per_second=1)
    assert shop.post("/search", json=[{"q": "vase"}] * 20).status_code == 200
    answer = shop.get("/search?q=vase")
    refused(answer, 429, "too_many_requests")
    assert 20 - BURST_S <= int(answer.headers["retry-after"]) <= 20 - BURST_S + 1
    for path in ("/items/v1/similar", "/retrieve?item_id=v1"):
        refused(shop.get(path), 429, "too_many_requests")
    refused(shop.post("/search", json={"q": "vase"}), 429, "too_many_requests")
    assert shop.get("/health").status_code == 200
    assert shop.post("/events", json=shown_list()).status_code == 202


def test_where_a_quota_counts_requests_a_request_is_one_search(tmp_path: Path) -> None:
    shop = client(tmp_path, queries_per_request=1)
    assert shop.post("/search", json=[{"q": "vase"}]).status_code == 200
    assert "a request takes 1 here" in refused(shop.post("/search", json=[{"q": "vase"}] * 2), 400, "invalid_query")


def test_the_largest_request_of_events_is_taken_and_a_larger_one_is_not(tmp_path: Path) -> None:
    largest = shown_list(*("\u00e9" * 252 + f"{n:08}" for n in range(MAX_EVENTS)))
    body = json.dumps(largest).encode()  # in escapes, six bytes a character
    assert len(body) < MAX_EVENTS_BYTES
    shop = client(tmp_path)
    assert shop.post("/events", content=body, headers=JSON).json()["accepted"] == MAX_EVENTS
    detail = refused(shop.post("/events", content=body + b" " * MAX_EVENTS_BYTES, headers=JSON), 413, "body_too_large")
    assert str(MAX_EVENTS_BYTES) in detail
    refused(shop.post("/events", json=shown_list(*["v1"] * (MAX_EVENTS + 1))), 400, "invalid_query")


def test_events_are_obeyed_whole_or_refused(tmp_path: Path) -> None:
    shop = client(tmp_path)
    twice = json.dumps(shown_list()).replace('"query":', '"query": "blue vase", "query":')
    assert refused(shop.post("/events", content=twice, headers=JSON), 400, "invalid_query").startswith("'query': given 2 times")
    assert refused(shop.post("/events?dry_run=1", json=shown_list()), 400, "invalid_query").startswith("dry_run: ")
    assert not (tmp_path / "events").exists()


# events of unknown lots


def test_an_act_on_a_lot_that_no_index_has_is_logged_and_is_no_history(tmp_path: Path) -> None:
    shop = client(tmp_path)
    answer = shop.post("/events", json=shown_list("v1", "invented", "v2", "listed-a-moment-ago", "invented"))
    unknown = ["invented", "listed-a-moment-ago"]
    assert (answer.status_code, answer.json()) == (202, {"accepted": 5, "served": 0, "unknown_items": unknown})
    assert {act["item_id"] for act in shop.get("/buyers/s-1").json()["acts"]} == {"v1", "v2"}
    (log,) = (tmp_path / "events").iterdir()
    assert len(log.read_text().splitlines()) == 5, "training may know the lot by then"


def test_invented_lots_push_nothing_out_of_a_history(tmp_path: Path) -> None:
    shop = client(tmp_path)
    shop.post("/events", json=shown_list("v1"))
    for batch in range(2):
        shop.post("/events", json=shown_list(*(f"invented-{batch}-{n}" for n in range(MAX_EVENTS))))
    assert [act["item_id"] for act in shop.get("/buyers/s-1").json()["acts"]] == ["v1"]


# what an answer gives away

INNER = "OpenSearch at https://10.0.0.7:9200 and /srv/gavel/towers/a1 fail; the password is swordfish"


def all_errors(root: type[errors.GavelError] = errors.GavelError) -> list[type[errors.GavelError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in all_errors(child))]


@pytest.mark.parametrize("kind", [*all_errors(), RuntimeError, OSError, MemoryError, KeyError])
def test_a_failure_of_ours_names_no_address_and_no_path_and_the_log_says_it_whole(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: SearchService, *given: Any) -> None:
        raise kind(INNER)

    shop = client(tmp_path)
    monkeypatch.setattr(SearchService, "search", fail)
    answer = shop.get("/search?q=vase")
    assert answer.headers["content-type"] == "application/problem+json"
    if answer.status_code < 500:
        assert issubclass(kind, errors.InvalidQuery | errors.UnknownItem | errors.RequestAbandoned), "others are failures of ours"
        return
    told = answer.text
    assert not [word for word in ("10.0.0.7", "9200", "/srv", "swordfish") if word in told]
    assert len(answer.json()["detail"].split()) > 5
    assert answer.headers["x-content-type-options"] == "nosniff"
    if issubclass(kind, errors.GavelError):
        assert INNER in caplog.text
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)


def test_an_index_out_of_reach_is_told_without_its_address(tmp_path: Path) -> None:
    from retrieval.index.opensearch.store import OpenSearchStore

    app = create_app(lambda: SearchService(OpenSearchStore("http://127.0.0.1:9/", timeout_s=1), SearchModels(WordEncoder)))
    for path in ("/search?q=vase", "/health", "/items/v1/similar"):
        detail = refused(TestClient(app, raise_server_exceptions=False).get(path), 503, "index_unavailable")
        assert "127.0.0.1" not in detail


@pytest.mark.parametrize("path", ["/search?q=vase", "/search", "/health", "/nowhere", "/openapi.json", "/buyers/b"])
def test_every_answer_says_that_it_is_what_it_says(path: str, tmp_path: Path) -> None:
    headers = client(tmp_path).get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"


def test_a_refusal_of_the_limits_can_be_read_by_a_page_of_a_listed_origin(tmp_path: Path) -> None:
    shop = client(tmp_path, origins=["https://shop.example"], searches_per_second=1)
    answers = [shop.get("/search?q=vase", headers={"Origin": "https://shop.example"}) for _ in range(BURST_S + 2)]
    refused(answers[-1], 429, "too_many_requests")
    assert answers[-1].headers["access-control-allow-origin"] == "https://shop.example"
