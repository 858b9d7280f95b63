"""`gavel buyers`: a file of events becomes histories, which are looked up and erased with what the event log holds of them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog.event_files import read_events
from gavel.cli.buyers import buyers_app
from retrieval.errors import FeedbackUnavailable, InvalidInput, InvalidQuery
from retrieval.feedback.file_sink import EventLog
from retrieval.feedback.rows import Feedback, ListEvent, feedback_rows, interactions_in

NOW = datetime.now(UTC)


def gavel(*arguments: str | Path) -> str:
    run = CliRunner().invoke(buyers_app, list(map(str, arguments)))
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    assert run.exit_code == 0, run.output
    return run.stdout


def asked(*arguments: str | Path) -> Any:
    return json.loads(gavel(*arguments, "--json"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GAVEL_BUYER_EVENTS_TABLE", raising=False)
    return tmp_path / "home"


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).isoformat()


def test_a_file_of_events_becomes_histories_and_what_is_wrong_in_it_is_counted(home: Path, tmp_path: Path) -> None:
    rows = [
        f"u1,v1,View,{ago(hours=3)}",
        f"u1,v2,Add To Cart,{ago(hours=2)}",
        f"u2,v1,PURCHASE,{ago(hours=1)}",
        f"u1,v1,View,{ago(hours=3)}",
        f"u1,v3,View,{ago(days=400)}",
        f"u1,v4,View,{ago(days=-2)}",
        f"u1,v5,Stare,{ago(hours=1)}",
        "u1,v6,View,yesterday",
        f",v7,View,{ago(hours=1)}",
    ]
    events = tmp_path / "events.csv"
    events.write_text("distinct_id,product_id,event_name,created_at\n" + "\n".join(rows) + "\n")
    told = asked("import", events)
    counts = {name: told[name] for name in ("rows", "events", "duplicates", "rejected", "kept", "not_kept", "buyers")}
    assert counts == {"rows": 9, "events": 4, "duplicates": 1, "rejected": 4, "kept": 3, "not_kept": 1, "buyers": 2}
    assert set(told["rejected_by_reason"].values()) == {1}, "of a later day, of no known type, without a time, of nobody"
    acts = asked("show", "u1")["acts"]
    assert [(act["item_id"], act["event_type"]) for act in acts] == [("v2", "add_to_cart"), ("v1", "view")]
    assert asked("import", events) == told, "again changes nothing"
    assert asked("show", "u1")["acts"] == acts
    assert "v2" in gavel("show", "u1", "--limit", "1")
    assert "v1" not in gavel("show", "u1", "--limit", "1")


def test_other_formats_are_read_too_and_a_file_without_the_columns_is_refused(home: Path, tmp_path: Path) -> None:
    lines = tmp_path / "events.ndjson"
    row = {"buyer_id": "u1", "item_id": "v1", "event_type": "view", "timestamp": ago(hours=1)}
    lines.write_text(json.dumps(row) + "\nno json\n")
    assert asked("import", lines)["rejected"] == 1
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("who,what\na,b\n")
    with pytest.raises(InvalidInput, match="buyer_id"):
        gavel("import", wrong)


def test_a_buyer_that_nobody_has_heard_of_has_nothing(home: Path) -> None:
    assert asked("show", "nobody") == {"acts": []}
    assert gavel("show", "nobody") == ""
    assert asked("erase", "nobody") == {"erased": 0, "event_lines": 0}
    with pytest.raises(InvalidQuery, match="buyer_id is empty"):
        gavel("erase", "  ")


def test_an_erased_buyer_is_gone_from_history_and_event_files_and_the_others_stay(home: Path) -> None:
    log = EventLog(home / "events")
    for session in ("one", "two", "one"):
        acts = [ListEvent("impression", "v1", 1, NOW), ListEvent("click", "v1", 1, NOW)]
        log.append(feedback_rows(Feedback(f"list-{session}", session, "red vase", NOW, acts), NOW))
    (home / "events" / "2020-01-01.ndjson").write_bytes(b'no json\n[1]\n{"buyer_id": "one", "query": "a red"}')
    size = {path: path.stat().st_size for path in (home / "events").iterdir()}
    assert asked("erase", "one") == {"erased": 0, "event_lines": 5}
    assert asked("erase", "one") == {"erased": 0, "event_lines": 0}
    written = b"".join(path.read_bytes() for path in (home / "events").iterdir())
    assert b'"one"' not in written
    assert {path: path.stat().st_size for path in size} == size, "no line has moved"
    left = read_events([home / "events"], trust_unsigned=True)
    assert [click.buyer_id for click in left.clicks] == ["two"]
    log.append(feedback_rows(Feedback("list-3", "two", "vase", NOW, [ListEvent("click", "v2", 1, NOW)]), NOW))
    assert len(read_events([home / "events"], trust_unsigned=True).clicks) == 2


def test_a_damaged_store_is_told_by_every_command(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "buyers.sqlite").write_bytes(b"rubbish" * 1_000)
    for command in ("show", "erase"):
        with pytest.raises(FeedbackUnavailable, match="delete it"):
            gavel(command, "u1")


def test_what_was_shown_is_no_act_and_what_was_done_happened_when_it_did() -> None:
    acts = [ListEvent("impression", "v1", 1, NOW), ListEvent("bid", "v2", 2, NOW - timedelta(minutes=1))]
    (act,) = interactions_in(feedback_rows(Feedback("list", "one", "red vase", NOW - timedelta(hours=1), acts), NOW))
    assert (act.buyer_id, act.item_id, act.event_type, act.query) == ("one", "v2", "bid", "")
    assert abs(act.timestamp - (NOW - timedelta(minutes=1))) < timedelta(milliseconds=1)
