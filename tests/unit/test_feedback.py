"""What buyers did: its limits, its rows, the file it goes to, and the route that takes it."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient
from lots import WordEncoder

from catalog.click_log import read_clicks
from catalog.folder import Click
from lambdas.query_api.app import create_app
from lambdas.query_api.events import events_router
from local.event_log import EventLog
from retrieval.errors import FeedbackUnavailable, InvalidQuery
from retrieval.feedback import MAX_ACTS, Act, ActKind, Feedback, feedback_rows
from retrieval.index.faiss import FaissStore
from retrieval.search import SearchService

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SHOWN = NOW - timedelta(minutes=5)


def act(kind: ActKind = "click", item_id: str = "v1", position: int = 1, at: datetime = NOW) -> Act:
    return Act(kind, item_id, position, at)


def feedback(*acts: Act, **changes: Any) -> Feedback:
    return replace(Feedback("list-1", "session-1", "red vase", SHOWN, acts or (act(),)), **changes)


def test_rows_of_one_list_share_its_time_so_that_impression_and_click_are_one(tmp_path: Path) -> None:
    acts = [act("impression", "v1", 1), act("impression", "v2", 2), act("click", "v2", 2), act("bid", "v2", 2)]
    EventLog(tmp_path, lambda: NOW).append(feedback_rows(feedback(*acts), NOW))
    log = read_clicks(tmp_path, {"v1", "v2"})
    assert log.rejects == []
    assert log.clicks == [
        Click("red vase", "v1", 1, None, "session-1", SHOWN),
        Click("red vase", "v2", 2, "add_to_cart", "session-1", SHOWN),
    ]


@pytest.mark.parametrize(
    ("kind", "read_as"), [("impression", None), ("click", "view"), ("bid", "add_to_cart"), ("purchase", "purchase")]
)
def test_every_kind_of_act_is_one_that_training_knows(kind: ActKind, read_as: str | None, tmp_path: Path) -> None:
    EventLog(tmp_path, lambda: NOW).append(feedback_rows(feedback(act(kind)), NOW))
    assert [click.event_type for click in read_clicks(tmp_path, {"v1"}).clicks] == [read_as]


def test_times_are_written_in_utc_with_the_moment_of_the_act_beside() -> None:
    berlin = timezone(timedelta(hours=1))
    (row,) = feedback_rows(feedback(act(at=NOW.astimezone(berlin)), shown_at=SHOWN.astimezone(berlin)), NOW)
    assert (row["timestamp"], row["happened_at"]) == ("2026-11-21T11:55:00.000+00:00", "2026-11-21T12:00:00.000+00:00")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (feedback(query=" \n"), "query"),
        (feedback(query="x" * 513), "query has 513"),
        (feedback(query="\ud800"), "half a character"),
        (feedback(query_id=""), "query_id"),
        (feedback(session_id="a\x00b"), "session_id"),
        (feedback(act(item_id="x" * 513)), "item_id"),
        (feedback(act(position=0)), "position is 0"),
        (feedback(act(at=NOW + timedelta(days=2))), "timestamp is 2026-11-23"),
        (feedback(shown_at=NOW - timedelta(days=31)), "shown_at is 2026-10-21"),
        (feedback(acts=()), "there are 0 events"),
        (feedback(acts=[act()] * (MAX_ACTS + 1)), "there are 201 events"),
    ],
)
def test_what_is_out_of_its_limits_is_refused_by_name(wrong: Feedback, words: str) -> None:
    with pytest.raises(InvalidQuery, match=words):
        feedback_rows(wrong, NOW)


def test_a_new_day_begins_a_new_file(tmp_path: Path) -> None:
    days = iter([NOW, NOW + timedelta(hours=11, minutes=59), NOW + timedelta(hours=12)])
    log = EventLog(tmp_path / "events", lambda: next(days))
    for _ in range(3):
        log.append(feedback_rows(feedback(), NOW))
    lines = {path.name: len(path.read_text().splitlines()) for path in (tmp_path / "events").iterdir()}
    assert lines == {"2026-11-21.ndjson": 2, "2026-11-22.ndjson": 1}


def test_batches_of_many_writers_never_mix(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        log = EventLog(tmp_path, lambda: NOW)
        for batch in range(20):
            log.append([{"of": f"{writer}-{batch}", "text": "x" * 200}] * 30)

    writers = [Thread(target=write, args=(number,)) for number in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    rows = [json.loads(line)["of"] for line in (tmp_path / "2026-11-21.ndjson").read_text().splitlines()]
    assert len(rows) == 4 * 20 * 30
    assert all(len(set(rows[start : start + 30])) == 1 for start in range(0, len(rows), 30))


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("not a folder")
    with pytest.raises(FeedbackUnavailable, match="cannot be written"):
        EventLog(tmp_path / "events").append([{"a": 1}])


def client(folder: Path) -> TestClient:
    service = SearchService(FaissStore(folder / "index"), WordEncoder)
    app = create_app(lambda: service)
    app.include_router(events_router(EventLog(folder / "events")))
    return TestClient(app, raise_server_exceptions=False)


def shown_list(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    event = {"event_type": "click", "item_id": "v1", "position": 3, "timestamp": now}
    body = {"query_id": "list-1", "session_id": "s-1", "query": "red vase", "shown_at": now, "events": [event]}
    return {**body, **changes}


def test_the_route_writes_what_it_accepts(tmp_path: Path) -> None:
    answer = client(tmp_path).post("/events", json=shown_list())
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    (log,) = (tmp_path / "events").iterdir()
    row = json.loads(log.read_text())
    assert (row["query"], row["item_id"], row["position"], row["event_type"]) == ("red vase", "v1", 3, "view")
    assert (row["buyer_id"], row["query_id"]) == ("s-1", "list-1")


@pytest.mark.parametrize(
    "wrong",
    [
        shown_list(query=""),
        shown_list(events=[]),
        shown_list(shown_at="yesterday"),
        shown_list(shown_at="2026-11-21T12:00:00"),
        shown_list(shown_at="1970-01-01T00:00:00Z"),
        shown_list(events=[{**shown_list()["events"][0], "event_type": "stare"}]),
        shown_list(events=[{**shown_list()["events"][0], "position": 0}]),
        shown_list(colour="red"),
    ],
)
def test_a_wrong_list_is_a_problem_and_nothing_of_it_is_written(wrong: dict[str, Any], tmp_path: Path) -> None:
    answer = client(tmp_path).post("/events", json=wrong)
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")
    assert not (tmp_path / "events").exists()


def test_feedback_that_cannot_be_kept_is_a_503(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("not a folder")
    answer = client(tmp_path).post("/events", json=shown_list())
    assert (answer.status_code, answer.json()["type"]) == (503, "feedback_unavailable")
    assert answer.headers["retry-after"]


def test_the_route_is_described_so_that_a_page_can_find_it(tmp_path: Path) -> None:
    assert "/events" in client(tmp_path).get("/openapi.json").json()["paths"]
