import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.click_log import click_pairs, click_qrels, prepare, read_clicks, split_of_query
from catalog.folder import Click
from catalog.pseudo_queries import fold
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
COLUMNS = ("query", "item_id", "position", "event_type", "buyer_id", "timestamp")


def row(query="vase", item="1", position=1, event="", buyer="ann", time="2026-11-21T12:00:00Z") -> dict:
    return dict(zip(COLUMNS, (query, item, position, event, buyer, time), strict=True))


def click(query="vase", item="1", event=None, position=1) -> Click:
    return Click(query, item, position, event, "ann", NOON)


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture
def items(tmp_path) -> Path:
    return write_csv(tmp_path / "items.csv", [{"item_id": n, "title": f"Vase {n}", "image": f"{n}.jpg"} for n in range(1, 10)])


def prepared(tmp_path, items, rows):
    return prepare(write_csv(tmp_path / "log.csv", rows), tmp_path / "catalog", items=items)


def all_clicks(catalog):
    return [click for split in catalog.splits for click in catalog.clicks(split)]


def test_a_pair_weighs_its_clicks_by_impression_times_what_they_were():
    seen = [click(event=None), click(event="view"), click(event="purchase"), click(event=None), click(item="2")]
    (pair,) = click_pairs(seen)
    assert (pair.query, pair.item_id) == ("vase", "1")
    assert pair.weight == pytest.approx((2 / 4) * ((1 + 10) / 2) / 10)
    assert click_pairs([click(event="purchase")])[0].weight == 1


def test_the_furthest_step_judges_and_what_nobody_touched_is_not_relevant():
    qrels = click_qrels(
        [click(event="purchase"), click("VASE ", event="view"), click(item="2", event="add_to_cart"), click(item="3")]
    )
    assert qrels.queries == {"vase": "vase"}
    assert qrels.grades == {"vase": {"1": 3, "2": 2, "3": 0}}


def test_rows_of_one_impression_are_one_click_with_the_furthest_event(tmp_path, items):
    rows = [row(), row(event="Purchase"), row("Vase", event="view"), row(item="2", position=2), row(buyer="bob")]
    clicks = all_clicks(prepared(tmp_path, items, rows))
    assert [(c.buyer_id, c.item_id, c.event_type) for c in clicks] == [
        ("ann", "1", "purchase"),
        ("ann", "2", None),
        ("bob", "1", None),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".ndjson"])
def test_a_log_is_read_in_every_format_and_under_the_aliases_of_events(tmp_path, items, suffix):
    rows = [
        {
            "query": "vase",
            "product_id": str(item),
            "position": item,
            "event_name": "AddToCart" if item == 2 else None,
            "distinct_id": "ann",
            "created_at": "2026-11-21T12:00:00Z",
        }
        for item in (1, 2)
    ]
    path = tmp_path / f"log{suffix}"
    match suffix:
        case ".csv":
            write_csv(path, rows)
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clicks = all_clicks(prepare(path, tmp_path / "catalog", items=items))
    assert [(c.item_id, c.position, c.event_type, c.timestamp) for c in clicks] == [
        ("1", 1, None, NOON),
        ("2", 2, "add_to_cart", NOON),
    ]


def test_bad_rows_are_set_aside_with_line_and_reason(tmp_path, items, caplog):
    rows = [
        row(),
        row(item="99"),
        row(position=0),
        row(event="stared"),
        row(time="noon"),
        row(query=" "),
        row(buyer=""),
        row(item="2", position=2),
    ]
    catalog = prepared(tmp_path, items, rows)
    rejects = [json.loads(line) for line in (catalog.path / "rejects.ndjson").read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [3, 4, 5, 6, 7, 8]
    for reject, word in zip(rejects, ("not among the items", "position", "stared", "timestamp", "query", "buyer_id"), strict=True):
        assert word in reject["reason"]
    assert len(all_clicks(catalog)) == 2
    assert "6 rows are set aside" in caplog.text


@pytest.mark.parametrize("suffix", [".csv", ".ndjson"])
def test_only_rows_that_were_served_are_clicks_however_that_is_written(tmp_path, items, suffix):
    yes = ["true", "True", " TRUE ", "1", ""] if suffix == ".csv" else [True, 1, "true", "1", None, ""]
    no = ["False", "false", "0", "no", "2"] if suffix == ".csv" else [False, 0, "false", "False", "0", "null", []]
    rows = [{**row(position=n), "buyer_id": f"{n}", "served": served} for n, served in enumerate((*yes, *no), 1)]
    path = tmp_path / f"log{suffix}"
    if suffix == ".csv":
        write_csv(path, rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_clicks(path, {"1"})
    assert [click.position for click in sorted(log.clicks, key=lambda c: c.position)] == list(range(1, len(yes) + 1))
    assert len(log.rejects) == len(no)
    assert all("no search is known" in reject.reason and "neither true nor 1" in reject.reason for reject in log.rejects)


def test_items_keep_their_contract_and_photos_are_found_from_anywhere(tmp_path, items):
    catalog = prepared(tmp_path, items, [row()])
    listed = list(read_items(catalog.item_files("test")[0]))
    assert all(isinstance(item, Item) for item in listed)
    assert [item.image for item in listed] == [str(tmp_path / f"{n}.jpg") for n in range(1, 10)]


def test_no_query_stands_in_two_splits_and_train_alone_has_pairs(tmp_path, items):
    rows = [row(f"{'Q' if n % 2 else 'q'}uery  {n // 2}", event="view", buyer=str(n)) for n in range(120)]
    catalog = prepared(tmp_path, items, rows)
    texts = [{fold(c.query) for c in catalog.clicks(s)} | {fold(p.query) for p in catalog.pairs(s)} for s in catalog.splits]
    assert [bool(found) for found in texts] == [True, True, True]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 60
    assert [bool(catalog.pairs(split)) for split in catalog.splits] == [True, False, False]


@given(st.text(max_size=20), st.integers(0, 50))
def test_case_and_spaces_do_not_move_a_query(query, seed):
    assert split_of_query(f"  {query} ", seed) == split_of_query(query, seed) in ("train", "val", "test")


EVENTS = st.sampled_from([None, "view", "add_to_cart", "purchase"])


@given(st.lists(st.builds(click, st.sampled_from(["a", "A ", "b"]), st.sampled_from("12"), EVENTS), max_size=30))
def test_weights_lie_between_0_and_1_and_only_what_was_touched_makes_a_pair(clicks):
    pairs = click_pairs(clicks)
    assert all(0 < pair.weight <= 1 for pair in pairs)
    assert {(fold(pair.query), pair.item_id) for pair in pairs} == {(fold(c.query), c.item_id) for c in clicks if c.event_type}
    assert len(pairs) == len({(fold(pair.query), pair.item_id) for pair in pairs})


def test_what_cannot_be_used_at_all_is_refused_with_the_reason(tmp_path, items):
    with pytest.raises(InvalidInput, match=r"none of the 1 rows of .* first: item '99' is not among the items"):
        prepared(tmp_path, items, [row(item="99")])
    with pytest.raises(InvalidInput, match="no column for position: it needs one of position, rank"):
        prepared(tmp_path, items, [{name: value for name, value in row().items() if name != "position"}])
    with pytest.raises(InvalidInput, match="name the item file"):
        prepare(tmp_path / "log.csv", tmp_path / "catalog", items=tmp_path / "none.csv")
    with pytest.raises(InvalidInput, match=r"none\.csv does not exist"):
        prepare(tmp_path / "none.csv", tmp_path / "catalog", items=items)
    assert not (tmp_path / "catalog").exists()
