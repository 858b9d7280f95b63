"""Event files as they lie about: a file a day, objects of Firehose, with what may be wrong with them."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from catalog.event_files import read_events
from catalog.folder import Click
from processing.ranking.impressions import list_of
from retrieval.errors import InvalidInput
from retrieval.feedback.file_sink import EventLog
from retrieval.feedback.rows import Feedback, ListEvent, ListEventKind, event_id, feedback_rows
from retrieval.feedback.served_lists import MIN_KEY_BYTES, ServedLists

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LISTS = ServedLists([b"k" * MIN_KEY_BYTES])
read = partial(read_events, trust_unsigned=True)  # how files are read, whatever stands in them


def rows(*kinds: ListEventKind, item_id: str = "v1", query_id: str = "list-1") -> list[dict[str, object]]:
    acts = [ListEvent(kind, item_id, 2, NOW) for kind in kinds]
    return feedback_rows(Feedback(query_id, "session-1", "red vase", NOW, acts), NOW)


def lines(*said: dict[str, object]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in said).encode()


def test_what_the_local_log_wrote_is_read_list_by_list(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events", lambda: NOW)
    log.append(rows("impression", "click", "bid"))
    log.append(rows("impression", item_id="v2"))
    found = read([tmp_path / "events"])
    assert found.clicks == [
        Click("red vase", "v1", 2, "bid", "session-1", NOW),
        Click("red vase", "v2", 2, None, "session-1", NOW),
    ]
    assert (found.rows, found.events, found.duplicates, found.rejects, found.files) == (4, 4, 0, [], 1)


def test_objects_of_firehose_are_read_below_their_dates_whatever_stands_between_the_records(tmp_path: Path) -> None:
    hour = tmp_path / "events" / "2026" / "11" / "21"
    hour.mkdir(parents=True)
    one, two, three = rows("click")[0], rows("click", item_id="v2")[0], rows("click", item_id="v3")[0]
    side_by_side = (json.dumps(one) + json.dumps(two)).encode()
    (hour / "stream-1-a").write_bytes(gzip.compress(side_by_side) + gzip.compress(lines(three)))
    (hour / "stream-1-b.ndjson.gz").write_bytes(gzip.compress(b""))
    (hour / ".stream-1-c.gz.1234").write_bytes(b"half of a download")
    found = read([tmp_path])
    assert [click.item_id for click in found.clicks] == ["v1", "v2", "v3"]
    assert found.files == 2


def test_an_event_that_was_told_twice_counts_once_and_another_act_on_the_lot_does_not(tmp_path: Path) -> None:
    later = {**rows("click")[0], "happened_at": (NOW + timedelta(seconds=9)).isoformat()}
    del later["event_id"]
    (tmp_path / "a.ndjson").write_bytes(lines(*rows("click"), *rows("click"), later))
    (tmp_path / "b.ndjson").write_bytes(lines(*rows("click"), later))
    found = read([tmp_path])
    assert (found.rows, found.events, found.duplicates) == (5, 2, 3)
    assert len(found.clicks) == 1, "both are one lot of one list"


def test_the_same_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(lines(*rows("click")))
    assert read([tmp_path / "a.ndjson", tmp_path]).rows == 1


def test_bad_lines_are_set_aside_with_file_line_and_reason_and_the_others_are_kept(tmp_path: Path) -> None:
    good, bad = rows("click")[0], {**rows("click")[0], "position": "far down", "event_id": "x"}
    file = tmp_path / "a.ndjson"
    half = {**rows("click")[0], "query": "\ud800", "event_id": "y"}
    broken = lines(good, bad) + b"[1]\nnot json\n\xff\n\n" + lines(half, rows("click", item_id="v2")[0])
    file.write_bytes(broken)
    found = read([file])
    assert [click.item_id for click in found.clicks] == ["v1", "v2"]
    assert [(reject.source, reject.line) for reject in found.rejects] == [(str(file), line) for line in (2, 3, 4, 5, 7)]
    reasons = [reject.reason for reject in found.rejects]
    assert "position is not a whole number" in reasons[0]
    assert "a JSON list" in reasons[1]
    assert all("not JSON" in reason for reason in reasons[2:4])
    assert "half a character" in reasons[4]
    assert found.rows == found.events + found.duplicates + len(found.rejects)


def test_a_download_that_broke_off_keeps_what_came(tmp_path: Path) -> None:
    whole = [rows("click", item_id=f"v{n}", query_id=f"list-{n}")[0] for n in range(2_000)]
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(lines(*whole))[:-2_000])
    found = read([file])
    assert 0 < found.events < 2_000
    assert "fetch it again" in found.rejects[-1].reason


def test_without_files_the_way_to_some_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no event file in .*gavel serve"):
        read([tmp_path])
    with pytest.raises(InvalidInput, match="does not exist"):
        read([tmp_path / "nothing"])


def test_an_event_has_an_id_that_a_repeated_request_gives_again() -> None:
    (click,), (bid,) = rows("click"), rows("bid")
    assert click == rows("click")[0]
    assert click["event_id"] == event_id(click)
    assert click["event_id"] != bid["event_id"]


def test_only_lists_that_a_search_answered_with_teach_unless_unsigned_ones_are_trusted(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(lines(*served_rows("session-1", NOW), *rows("click", item_id="made-up")))
    older = {name: value for name, value in rows("click", item_id="before")[0].items() if name not in ("served", "client")}
    (tmp_path / "b.ndjson").write_bytes(lines(older))
    found = read_events([tmp_path])
    assert ([click.item_id for click in found.clicks], found.unproven) == (["v1"], 2)
    assert found.rows == found.events + found.duplicates + found.unproven + len(found.rejects)
    assert {click.item_id for click in read([tmp_path]).clicks} == {"v1", "made-up", "before"}


def test_one_served_list_told_many_times_under_many_sessions_is_one_list(tmp_path: Path) -> None:
    times = [NOW + timedelta(seconds=n) for n in range(50)]
    told = [row for n, at in enumerate(times) for row in served_rows(f"session-{n}", at)]
    (tmp_path / "a.ndjson").write_bytes(lines(*told))
    found = read_events([tmp_path])
    assert (len(found.clicks), found.events, found.duplicates) == (1, 2, 98)


def test_a_served_list_of_which_each_lot_is_told_under_another_session_is_one_list(tmp_path: Path) -> None:
    item_ids = [f"v{n}" for n in range(20)]
    query_id, proofs = LISTS.sign("red vase", item_ids, 1, NOW)
    told = []
    for place, (item_id, proof) in enumerate(zip(item_ids, proofs, strict=True), 1):
        for number, kind in enumerate(("impression", "view", "purchase")):
            said = Feedback(
                query_id or "", f"s-{place}-{number}", "red vase", NOW, [ListEvent(kind, item_id, place, NOW, proof or "")]
            )
            told += feedback_rows(said, NOW, LISTS, f"203.0.113.{place}")
    told[-1]["timestamp"] = (NOW + timedelta(hours=1)).isoformat()
    (tmp_path / "a.ndjson").write_bytes(lines(*told))
    found = read_events([tmp_path])
    assert found.events == 60
    assert {list_of(click) for click in found.clicks} == {("red vase", "s-1-0", NOW)}
    assert {(click.client, click.event_type) for click in found.clicks} == {(LISTS.client("203.0.113.1"), "purchase")}
    assert [click.position for click in found.clicks] == list(range(1, 21))


def test_a_row_that_names_no_list_is_not_served(tmp_path: Path) -> None:
    told = [{**row, "query_id": None} for row in served_rows("session-1", NOW)]
    (tmp_path / "a.ndjson").write_bytes(lines(*told))
    assert read_events([tmp_path]).unproven == 2


QUERY_ID, (PROOF,) = LISTS.sign("red vase", ["v1"], 2, NOW)


def served_rows(session: str, at: datetime) -> list[dict[str, object]]:
    """An impression and a click on the one list that was served."""
    acts = [ListEvent(kind, "v1", 2, at, PROOF or "") for kind in ("impression", "click")]
    return feedback_rows(Feedback(QUERY_ID or "", session, "red vase", at, acts), at, LISTS, "203.0.113.7")
