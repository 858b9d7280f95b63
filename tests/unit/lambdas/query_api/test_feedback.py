"""What buyers did: its limits, its rows, the file it goes to, and the route that takes it."""

import json
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient
from lots import WordEncoder, lot, publish

from catalog.click_log import read_clicks
from catalog.event_files import read_events
from catalog.event_tables import read_event_table
from catalog.folder import Click
from lambdas.query_api.app import create_app
from lambdas.query_api.events import events_router
from retrieval.contracts.events import EVENT_TYPES, IMPRESSION
from retrieval.errors import FeedbackUnavailable, InvalidQuery, InvalidSettings
from retrieval.feedback.file_sink import EventLog, served_lists
from retrieval.feedback.rows import MAX_EVENTS, Feedback, ListEvent, ListEventKind, feedback_rows, interactions_in
from retrieval.feedback.served_lists import MIN_KEY_BYTES, ServedLists
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchLimits, SearchModels, SearchService

KEY = b"k" * MIN_KEY_BYTES
LISTS = ServedLists([KEY])
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SHOWN = NOW - timedelta(minutes=5)


def act(kind: ListEventKind = "click", item_id: str = "v1", position: int = 1, at: datetime = NOW) -> ListEvent:
    return ListEvent(kind, item_id, position, at)


def feedback(*acts: ListEvent, **changes: Any) -> Feedback:
    return replace(Feedback("list-1", "session-1", "red vase", SHOWN, acts or (act(),)), **changes)


def served(*acts: ListEvent, at: datetime = SHOWN, query: str = "red vase", **changes: Any) -> Feedback:
    """Acts on a list of v1 and v2 that a search answered with."""
    query_id, proofs = LISTS.sign(query, ["v1", "v2"], 1, at)
    proven = [replace(act, proof=proofs[["v1", "v2"].index(act.item_id)] or "") for act in acts or (act(),)]
    return feedback(*proven, **{"query_id": query_id, **changes})


def test_rows_of_one_list_share_its_time_so_that_impression_and_click_are_one(tmp_path: Path) -> None:
    acts = [act("impression", "v1", 1), act("impression", "v2", 2), act("click", "v2", 2), act("bid", "v2", 2)]
    EventLog(tmp_path, lambda: NOW).append(feedback_rows(served(*acts), NOW, LISTS))
    log = read_clicks(tmp_path, {"v1", "v2"})
    assert log.rejects == []
    assert log.clicks == [
        Click("red vase", "v1", 1, None, "session-1", SHOWN),
        Click("red vase", "v2", 2, "bid", "session-1", SHOWN),
    ]


@pytest.mark.parametrize(
    ("kind", "read_as"),
    [
        ("impression", None),
        ("click", "view"),
        ("view", "view"),
        ("add_to_cart", "add_to_cart"),
        ("bid", "bid"),
        ("purchase", "purchase"),
    ],
)
def test_every_kind_of_act_is_one_that_every_reader_knows(kind: ListEventKind, read_as: str | None, tmp_path: Path) -> None:
    (row,) = feedback_rows(served(act(kind)), NOW, LISTS)
    EventLog(tmp_path, lambda: NOW).append([row])
    assert [click.event_type for click in read_clicks(tmp_path, {"v1"}).clicks] == [read_as]
    assert [click.event_type for click in read_events([tmp_path]).clicks] == [read_as]
    table = read_event_table(tmp_path, now=NOW)
    assert [done.event_type for _, history in table.sequences() for done in history] == ([read_as] if read_as else [])
    assert [done.event_type for done in interactions_in([row])] == ([read_as] if read_as else [])


def test_what_a_page_may_say_is_what_readers_read() -> None:
    assert {kind for kind in get_args(ListEventKind) if kind != "click"} == {IMPRESSION, *EVENT_TYPES}


@pytest.mark.parametrize(
    ("changes", "of_act"),
    [
        ({"query": "blue vase"}, {}),
        ({"query_id": "made-up"}, {}),
        ({}, {"item_id": "v2"}),
        ({}, {"position": 2}),
        ({}, {"proof": ""}),
        ({}, {"proof": "\ud800"}),
        ({}, {"at": SHOWN - timedelta(days=2)}),
    ],
)
def test_what_no_search_answered_with_is_kept_as_not_served(changes: dict[str, Any], of_act: dict[str, Any]) -> None:
    whole = served(act(), **changes)
    (row,) = feedback_rows(replace(whole, events=[replace(whole.events[0], **of_act)]), NOW, LISTS)
    assert row["served"] is False
    (right,) = feedback_rows(served(act()), NOW, LISTS)
    assert (right["served"], right["timestamp"]) == (True, "2026-11-21T11:55:00.000+00:00")


def test_a_list_is_known_under_an_older_key_as_long_as_it_stands_second_and_for_thirty_days() -> None:
    told, keys = served(act()), [b"new" * MIN_KEY_BYTES, KEY]
    assert feedback_rows(told, NOW, ServedLists(keys))[0]["served"]
    assert not feedback_rows(told, NOW, ServedLists(keys[:1]))[0]["served"]
    later = SHOWN + timedelta(days=30, seconds=1)
    assert not feedback_rows(replace(told, shown_at=later, events=[replace(told.events[0], at=later)]), later, LISTS)[0]["served"]


def test_a_public_address_is_kept_as_a_keyed_hash_and_others_not_at_all() -> None:
    client = LISTS.client("203.0.114.7")
    assert len(client) == 16
    assert client == LISTS.client("::ffff:203.0.114.7") != LISTS.client("203.0.114.8")
    assert LISTS.client("2a01:4f8::1") == LISTS.client("2a01:4f8::ffff") != LISTS.client("2a01:4f9::1")
    assert [LISTS.client(address) for address in ("127.0.0.1", "10.0.0.1", "::1", "testclient", "")] == [""] * 5
    assert ServedLists([b"another" * MIN_KEY_BYTES]).client("203.0.114.7") != client


def test_a_home_makes_one_key_that_its_owner_alone_reads_however_many_ask_at_once(tmp_path: Path) -> None:
    path, made = tmp_path / "home" / "events.keys", []
    askers = [Thread(target=lambda: made.append(served_lists(path).sign("vase", ["v1"], 1, NOW))) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["events.keys"]
    lists = served_lists(path)
    assert all(lists.served_at(str(query_id), "vase", "v1", 1, str(proofs[0]), NOW) == NOW for query_id, proofs in made)


@pytest.mark.parametrize("damaged", [b"", b"\n", b"short\n"])
def test_a_damaged_key_names_a_remedy_that_works(damaged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.keys"
    path.write_bytes(damaged)
    with pytest.raises(InvalidSettings, match=r"events\.keys holds .* keys.* delete it"):
        served_lists(path)
    path.unlink()
    assert served_lists(path).sign("vase", ["v1"], 1, NOW)[0]


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
        (feedback(events=()), "there are 0 events"),
        (feedback(events=[act()] * (MAX_EVENTS + 1)), "there are 201 events"),
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


def test_a_write_that_the_disk_cuts_short_is_cut_back_and_the_next_one_is_whole(tmp_path: Path) -> None:
    script = """
import json, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from retrieval.feedback.file_sink import EventLog
from retrieval.errors import FeedbackUnavailable
log = EventLog(Path(sys.argv[1]), lambda: datetime(2026, 11, 21, tzinfo=UTC))
log.append([{"n": 1}])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    log.append([{"n": 2, "text": "x" * 50}, {"n": 3, "text": "y" * 50}])
except FeedbackUnavailable as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append([{"n": 4}])
"""
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large); free space" in run.stdout
    assert (tmp_path / "2026-11-21.ndjson").read_text() == '{"n": 1}\n{"n": 4}\n'


def test_half_a_line_that_a_crash_left_is_ended_before_the_next_event(tmp_path: Path) -> None:
    file = tmp_path / "2026-11-21.ndjson"
    file.write_text('{"query": "red va')
    EventLog(tmp_path, lambda: NOW).append(feedback_rows(served(), NOW, LISTS))
    found = read_events([tmp_path])
    assert ([click.item_id for click in found.clicks], [reject.line for reject in found.rejects]) == (["v1"], [1])


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("not a folder")
    with pytest.raises(FeedbackUnavailable, match="cannot be written"):
        EventLog(tmp_path / "events").append([{"a": 1}])


def client(folder: Path) -> TestClient:
    service = SearchService(EmbeddedStore(folder / "index"), SearchModels(WordEncoder))
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
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "served": 0})
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


def test_the_route_knows_the_lists_that_its_own_searches_answered_with(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, [lot(f"v{n}", f"red vase {n}") for n in range(20)])
    app = create_app(lambda: SearchService(store, SearchModels(WordEncoder), SearchLimits(cached_answers_s=60)), lists=LISTS)
    app.include_router(events_router(EventLog(tmp_path / "events"), lists=LISTS))
    api = TestClient(app)
    by_string = api.get("/search", params={"q": " Red  vase", "k": 5, "offset": 5}).json()
    (by_body,) = api.post("/search", json=[{"q": " Red  vase", "k": 5, "offset": 5}]).json()
    assert by_string["query_id"] != by_body["query_id"], "a kept answer is a list of its own for everybody who gets it"
    for answer in (by_string, by_body):
        now = datetime.now(UTC).isoformat()
        acts = [
            {"event_type": "bid", "item_id": lot["item_id"], "position": lot["rank"], "timestamp": now, "proof": lot["proof"]}
            for lot in answer["results"]
        ]
        acts[0]["position"] = 1
        body = {"query_id": answer["query_id"], "session_id": "s-1", "query": "Red vase ", "shown_at": now, "events": acts}
        told = api.post("/events", json=body)
        assert (told.status_code, told.json()) == (202, {"accepted": 5, "served": 4})
    assert len(read_events([tmp_path / "events"]).clicks) == 8


def test_where_no_key_is_set_lists_are_answered_unsigned(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, [lot("v1", "red vase")])
    answer = (
        TestClient(create_app(lambda: SearchService(store, SearchModels(WordEncoder)))).get("/search", params={"q": "vase"}).json()
    )
    assert (answer["query_id"], answer["results"][0]["proof"]) == (None, None)


def test_feedback_that_cannot_be_kept_is_a_503(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("not a folder")
    answer = client(tmp_path).post("/events", json=shown_list())
    assert (answer.status_code, answer.json()["type"]) == (503, "feedback_unavailable")
    assert answer.headers["retry-after"]


def test_the_route_is_described_so_that_a_page_can_find_it(tmp_path: Path) -> None:
    assert "/events" in client(tmp_path).get("/openapi.json").json()["paths"]


def test_a_click_log_sets_aside_what_was_not_served(tmp_path: Path) -> None:
    EventLog(tmp_path, lambda: NOW).append([*feedback_rows(feedback(), NOW, LISTS), *feedback_rows(served(), NOW, LISTS)])
    log = read_clicks(tmp_path, {"v1"})
    assert (len(log.clicks), [reject.line for reject in log.rejects]) == (1, [1])
    assert "no search is known to have answered" in log.rejects[0].reason
