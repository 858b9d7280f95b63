"""`gavel events check`: what a log of events holds, told in a table, in JSON and in a file of rejects."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gavel.cli.events import events_app
from retrieval.errors import InvalidInput

HEADER = "distinct_id,product_id,event_name,created_at\n"
LOG = (
    "ann,lot-1,View,2026-11-01T10:00:00Z\nann,lot-1,View,2026-11-01T10:00:00Z\nann,lot-2,Add To Cart,2026-11-01T10:01:00Z\n"
    "bob,lot-2,Stare,2026-11-01T10:00:00Z\nbob,lot-9,view,2026-11-01T10:00:00Z\nbob,lot-2,purchase,yesterday\n"
)


def gavel(*arguments: str | Path):
    run = CliRunner().invoke(events_app, ["check", *map(str, arguments)], env={"COLUMNS": "200"})
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run


@pytest.fixture
def shop(tmp_path) -> Path:
    (tmp_path / "events.csv").write_text(HEADER + LOG)
    (tmp_path / "products.csv").write_text("id,title\nlot-1,Watch\nlot-2,Ring\nlot-3,\n")
    return tmp_path


def test_rows_are_counted_by_what_became_of_them(shop):
    told = json.loads(gavel(shop / "events.csv", "--products", shop / "products.csv", "--json").stdout)
    assert told["rows"] == told["events"] + told["duplicates"] + told["rejected"] == 6
    assert told["event_types"] == {"view": 1, "add_to_cart": 1, "bid": 0, "purchase": 0}
    assert told["rejected_by_reason"] == {"unknown_event": 1, "unknown_product": 1, "bad_time": 1}
    assert (told["products"], told["products_rejected"], told["buyers"], told["items"]) == (2, 1, 1, 2)
    assert (told["first"], told["last"]) == ("2026-11-01T10:00:00+00:00", "2026-11-01T10:01:00+00:00")
    assert told["examples"]["unknown_product"][0]["line"] == 6


def test_without_json_a_table_shows_the_first_of_each_kind(shop):
    shown = gavel(shop / "events.csv").stdout
    assert "view 2, add_to_cart 1, bid 0, purchase 0" in shown
    assert "events.csv:5" in shown
    assert "event_type 'Stare' is unknown" in shown


def test_rows_that_are_set_aside_are_written_to_a_file(shop):
    gavel(shop / "events.csv", "--rejects", shop / "rejects.ndjson")
    rejects = [json.loads(line) for line in (shop / "rejects.ndjson").read_text().splitlines()]
    assert [(row["line"], row["item_id"]) for row in rejects] == [(5, "lot-2"), (7, "lot-2")]


def test_a_log_of_which_nothing_can_be_used_fails(shop):
    (shop / "bids.csv").write_text(HEADER + "bob,lot-2,Stare,2026-11-01T10:00:00Z\n")
    run = gavel(shop / "bids.csv")
    assert run.exit_code == 1
    assert "no row of the log could be used" in run.stderr


def test_what_is_no_log_of_events_is_refused_with_the_columns_that_it_lacks(shop):
    with pytest.raises(InvalidInput, match="no column for buyer_id: it needs one of buyer_id, distinct_id"):
        gavel(shop / "products.csv")
