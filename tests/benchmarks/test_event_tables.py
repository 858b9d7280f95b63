"""Logs of events as shops export them: nothing is lost, everything is in order, and what is set aside says why."""

import csv
import gzip
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.quality.event_tables import table_bytes, write_log
from catalog import event_batches
from catalog.event_tables import EventTable, read_event_table
from retrieval.contracts.events import ALIASES, Interaction, parse_interaction
from retrieval.contracts.items import Reject
from retrieval.errors import InvalidInput

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HEADER = "distinct_id,product_id,event_name,created_at\n"


def log(folder: Path, text: str | bytes, name: str = "events.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path, **options: Any) -> EventTable:
    return read_event_table(path, now=NOW, **options)


def acts(table: EventTable) -> list[Interaction]:
    return [act for _, sequence in table.sequences() for act in sequence]


def as_csv(rows: list[tuple[Any, ...]], header: str = HEADER, quoting: Any = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO(newline="")
    text.write(header)
    csv.writer(text, quoting=quoting).writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("more", [{}, {"product_id": [None]}])
@pytest.mark.parametrize("zone", ["Not/AZone", "+99:99"])
def test_a_parquet_time_in_an_unknown_zone_is_the_moment_that_it_counts(zone, more, tmp_path):
    told = pa.array([datetime(2026, 11, 1, 8, tzinfo=UTC)], pa.timestamp("ms", zone))
    table = {"buyer_id": ["ann"], "item_id": ["lot-1"], "event_type": ["view"], "timestamp": told, **more}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    assert [act.timestamp for act in acts(read(tmp_path / "log.parquet"))] == [datetime(2026, 11, 1, 8, tzinfo=UTC)]


def test_the_acts_of_each_buyer_come_sorted_by_time(tmp_path):
    table = read(
        log(
            tmp_path,
            f"{HEADER}bob,lot-2,Purchase,2026-11-03T10:00:00Z\nann,lot-1,View,2026-11-02 10:00:00\n"
            "bob,lot-2,Add To Cart,2026-11-01T10:00:00+02:00\nbob,lot-1,product_viewed,1793577600\n",
        )
    )
    assert [(buyer, [(a.item_id, a.event_type) for a in acts]) for buyer, acts in table.sequences()] == [
        ("ann", [("lot-1", "view")]),
        ("bob", [("lot-2", "add_to_cart"), ("lot-1", "view"), ("lot-2", "purchase")]),
    ]
    assert acts(table)[1].timestamp == datetime(2026, 11, 1, 8, tzinfo=UTC)
    assert (table.rows, len(table), table.duplicates, table.rejected) == (4, 4, 0, {})


def test_each_kind_of_bad_row_is_counted_and_told_with_its_line(tmp_path):
    path = log(
        tmp_path,
        f"{HEADER}ann,lot-1,View,2026-11-01T10:00:00Z\nann,lot-1,Stare,2026-11-01T10:00:00Z\nann,lot-9,View,2026-11-01T10:00:00Z\n"
        "ann,lot-1,View,yesterday\nann,lot-1,View,2027-01-01T10:00:00Z\nann,lot-1,View,1970-01-01T00:00:00Z\n"
        ",lot-1,View,2026-11-01T10:00:00Z\nann,,View,2026-11-01T10:00:00Z\nann,lot-1,,2026-11-01T10:00:00Z\nann,lot-1,View\n"
        "ann,lot-1,View,2026-11-01T10:00:00Z,more\nann,lot-1,view,2026-11-01 10:00:00\n",
    )
    rejects: list[Reject] = []
    table = read(path, catalogue_ids={"lot-1"}, on_reject=rejects.append)
    assert (table.rows, len(table), table.duplicates) == (12, 1, 1)
    kinds = ["unknown_event", "unknown_product", "bad_time", "future_time", "early_time", "broken_row"]
    assert table.rejected == dict.fromkeys([*kinds, *(f"missing_{field}" for field in ALIASES)], 1)
    by_line = {reject.line: reject for reject in rejects}
    told = {line: reject.reason for line, reject in by_line.items()}
    assert sorted(told) == list(range(3, 13))
    assert told[3] == "event_type 'Stare' is unknown; known are view, add_to_cart, bid, purchase"
    assert told[4] == "item_id 'lot-9' is not among the 1 items"
    assert told[6] == "timestamp lies in the future: 2027-01-01T10:00:00+00:00"
    assert told[7] == "timestamp is before 1973-03-03: 1970-01-01T00:00:00+00:00"
    assert told[12] == "the row has 5 cells, the header 4"
    assert table.examples["bad_time"] == [by_line[5]]
    assert (by_line[4].item_id, by_line[5].item_id, by_line[9].item_id) == ("lot-9", "lot-1", None)


@pytest.mark.parametrize("number", [2026112120, 202611212000, 20261121200000])
def test_a_column_of_numbers_is_read_but_for_compact_times(tmp_path, number):
    columns = {name: pa.array(["ann"] * 3 if name == "buyer_id" else ["view"] * 3) for name in HEADER.strip().split(",")}
    times = pa.array([1793527200, number, 1793527201])
    pq.write_table(pa.table({**columns, HEADER.strip().split(",")[-1]: times}), tmp_path / "log.parquet")
    rejects: list[Reject] = []
    table = read(tmp_path / "log.parquet", on_reject=rejects.append)
    assert [act.timestamp.second for act in acts(table)] == [0, 1]
    assert [(reject.line, "write ISO 8601" in reject.reason) for reject in rejects] == [(2, True)]
    assert table.rejected == {"bad_time": 1}


def test_of_many_rejects_of_a_kind_the_table_keeps_the_first(tmp_path):
    rejects: list[Reject] = []
    table = read(log(tmp_path, HEADER + "ann,lot-1,Stare,2026-11-01T10:00:00Z\n" * 50), on_reject=rejects.append)
    assert table.rejected == {"unknown_event": 50}
    assert len(rejects) == 50
    assert table.examples["unknown_event"] == rejects[:3]


def test_a_time_a_few_hours_ahead_may_be_a_local_one_and_is_kept(tmp_path):
    ahead = (NOW + timedelta(hours=13)).isoformat()
    assert len(read(log(tmp_path, f"{HEADER}ann,lot-1,View,{ahead}\n"))) == 1


def test_events_of_one_moment_are_ordered_by_item_then_by_how_much_they_say(tmp_path):
    moment = "2026-11-01T10:00:00Z"
    rows = [("ann", "b", "purchase", moment), ("ann", "b", "view", moment), ("ann", "a", "view", moment)]
    for order in (rows, rows[::-1]):
        found = [(act.item_id, act.event_type) for act in acts(read(log(tmp_path, as_csv(order))))]
        assert found == [("a", "view"), ("b", "view"), ("b", "purchase")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HEADER + "ann,lot-1,View,2026-11-01T10:00:00Z\n", "plain.csv"),
        (b"\xef\xbb\xbf" + (HEADER + "ann,lot-1,View,2026-11-01T10:00:00Z\n").replace("\n", "\r\n").encode(), "excel.csv"),
        ((HEADER + "ann,lot-1,View,2026-11-01T10:00:00Z").replace(",", ";"), "european.csv"),
        ((HEADER + "ann,lot-1,View,2026-11-01T10:00:00Z\n\n").replace(",", "\t"), "tabs.CSV"),
        ('distinct_id,note,product_id,event_name,created_at\n"ann","two\nlines, ""so""",lot-1," View ","2026-11-01"\n', "q.csv"),
        (gzip.compress((HEADER + "ann,lot-1,View,2026-11-01T10:00:00Z\n").encode(), mtime=0), "packed.csv.gz"),
        ('{"buyer_id": "ann", "item_id": "lot-1", "event_type": "VIEW", "timestamp": 1793527200}\n\n', "rows.ndjson"),
        (
            gzip.compress(b'{"distinct_id":"ann","item_id":"lot-1","event_name":"view","created_at":"2026-11-01"}', mtime=0),
            "r.jsonl.gz",
        ),
    ],
)
def test_an_export_is_read_however_it_was_written(tmp_path, text, name):
    table = read(log(tmp_path, text, name))
    (act,) = acts(table)
    assert (act.buyer_id, act.item_id, act.event_type, act.timestamp.date().isoformat()) == ("ann", "lot-1", "view", "2026-11-01")
    assert table.rows == 1


def test_parquet_columns_are_read_in_the_types_that_tables_have(tmp_path):
    pq.write_table(
        pa.table(
            {
                "distinct_id": pa.array([7, 8, None]),
                "product_id": pa.array([1.0, 2.0, 3.0]),
                "event_name": pa.array(["View", "AddToCart", "View"]).dictionary_encode(),
                "created_at": pa.array([NOW - timedelta(days=1)] * 3, pa.timestamp("ns", "Europe/Berlin")),
            }
        ),
        tmp_path / "events.parquet",
    )
    table = read(tmp_path)
    day_before = NOW - timedelta(days=1)
    assert acts(table) == [Interaction("7", "1", "view", day_before), Interaction("8", "2", "add_to_cart", day_before)]
    assert table.rejected == {"missing_buyer_id": 1}
    assert table.examples["missing_buyer_id"][0].line == 3


def test_a_field_with_two_columns_takes_the_first_that_a_row_has(tmp_path):
    text = "buyer_id,distinct_id,product_id,event_name,created_at\n,ann,lot-1,View,2026-11-01\nbob,x,lot-1,View,2026-11-01\n"
    assert read(log(tmp_path, text)).buyer_ids == ["ann", "bob"]


@pytest.mark.parametrize("name", ["events.csv", "events.parquet"])
def test_a_header_without_a_needed_column_is_refused_with_the_names_it_may_have(tmp_path, name):
    if name.endswith(".csv"):
        log(tmp_path, "distinct_id,product_id,created_at\n")
    else:
        pq.write_table(pa.table({"distinct_id": ["a"], "product_id": ["b"], "created_at": ["c"]}), tmp_path / name)
    expected = "no column for event_type: it needs one of event_type, event_name; found distinct_id, product_id, created_at"
    with pytest.raises(InvalidInput, match=expected):
        read(tmp_path)


def test_what_is_missing_no_log_or_damaged_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="does not exist; name a file of events"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InvalidInput, match=r"holds no file of events; Gavel reads \.csv"):
        read(tmp_path)
    with pytest.raises(InvalidInput, match="is no file of events"):
        read(log(tmp_path, "x", "photo.jpg"))
    with pytest.raises(InvalidInput, match="is not UTF-8 text"):
        read(log(tmp_path, HEADER.encode() + b"caf\xe9,lot-1,View,2026-11-01\n"))
    with pytest.raises(InvalidInput, match="carriage returns alone"):
        read(log(tmp_path, HEADER.replace("\n", "\r") + "ann,lot-1,View,2026-11-01\r"))
    with pytest.raises(InvalidInput, match="is no whole gzip file"):
        read(log(tmp_path, gzip.compress((HEADER + "ann,lot-1,View,2026-11-01\n" * 99).encode())[:-20], "half.csv.gz"))


def test_a_log_of_no_rows_is_an_empty_table(tmp_path):
    table = read(log(tmp_path, HEADER))
    assert (len(table), table.rows, list(table.sequences())) == (0, 0, [])


def test_progress_ends_with_the_whole_and_files_are_read_once(tmp_path):
    for day in range(3):
        log(tmp_path, f"{HEADER}ann,lot-1,View,2026-11-0{day + 1}\n", f"{day}.csv")
    told: list[tuple[int, int]] = []
    table = read_event_table([tmp_path, tmp_path / "1.csv"], progress=lambda done, total: told.append((done, total)), now=NOW)
    assert (table.files, len(table)) == (3, 3)
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_rows_in_blocks_cut_anywhere_are_the_same_rows(tmp_path, monkeypatch):
    rows = [(f"b{n % 7}", f'"lot" {n}\n{n}', "view", f"2026-11-01T10:{n % 60:02}:00Z") for n in range(200)]
    path = log(tmp_path, as_csv([*rows, ("b", "l", "stare", "2026-11-01")]))
    whole, rejects = read(path), []
    monkeypatch.setattr(event_batches, "BLOCK_BYTES", 97)
    cut = read(path, on_reject=rejects.append)
    assert whole.rejected["bad_item_id"] == 200
    assert (cut.rows, cut.rejected) == (whole.rows, whole.rejected)
    assert rejects[-1].line == 402


def test_a_quote_that_is_never_closed_is_told_and_the_rows_before_it_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(event_batches, "BLOCK_BYTES", 97)
    monkeypatch.setattr(event_batches, "MAX_ROW_BYTES", 400)
    good = "ann,lot-1,View,2026-11-01T10:00:00Z\n"
    table = read(log(tmp_path, HEADER + good + 'bob,"lot-1,View,2026-11-01T10:00:00Z\n' + good * 40))
    assert table.rejected["broken_row"] >= 1
    assert "ann" in table.buyer_ids


names = st.sampled_from(["ann", "bob", " ann ", "Zoë", "\ud800", "x" * 600, "", "1.0", "a\tb", '"', "b,c", "two\nlines"])
kinds = st.sampled_from(["View", "ADD-TO-CART", "add to cart", "Purchased", "order_completed", "bid", "", " view"])
times = (
    st.sampled_from(
        ["2026-11-01", "2026-11-01T10:00", "2026-11-01 10:00:00.25", "2026-11-01T10:00:00Z", "2026-11-01T10:00:00+02:00"]
    )
    | st.sampled_from(
        [
            "20261101",
            "2026-11-01T10",
            "1793527200",
            "1793527200123",
            "1793527200.5",
            "2026-02-30",
            "2026-11-01T24:00:00",
            "soon",
            "",
        ]
    )
    | st.sampled_from(["2026112120", "202611012000", "20261101200000", "631151999", "7258118400", "1926132300"])
    | st.sampled_from(["99999999999999", "-1", "1970-01-01", "2030-01-01", "0001-01-01", "9999-12-31T23:00:00-05:00"])
)
written = st.one_of(st.tuples(names, names, kinds, times), st.tuples(st.just("ann"), st.just("lot"), st.just("View"), times))


@settings(max_examples=150, deadline=None)
@given(st.lists(written, max_size=12), st.sampled_from(["csv", "ndjson", "parquet"]))
def test_each_row_is_an_event_a_duplicate_or_a_reject_and_the_contract_says_which(tmp_path_factory, rows, kind):
    """The table reads columns at once, the contract a row: they never differ."""
    folder = tmp_path_factory.mktemp("log")
    if kind != "ndjson":
        rows = [tuple(cell.replace("\ud800", "é") for cell in row) for row in rows]
    header = HEADER.strip().split(",")
    if kind == "csv":
        path = log(folder, as_csv(rows, quoting=csv.QUOTE_ALL))
    elif kind == "ndjson":
        path = log(folder, "\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows), "events.ndjson")
    else:
        path = folder / "events.parquet"
        columns = list(zip(*rows, strict=True)) or [()] * 4
        pq.write_table(pa.table({n: pa.array(c, pa.string()) for n, c in zip(header, columns, strict=True)}), path)
    expected: set[Interaction] = set()
    refused = 0
    for row in rows:
        try:
            act = parse_interaction(dict(zip(header, row, strict=True)))
        except InvalidInput:
            refused += 1
            continue
        in_range = datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC) <= act.timestamp <= NOW + timedelta(hours=14)
        expected |= {act} if in_range else set()
        refused += not in_range
    rejects: list[Reject] = []
    table = read(path, on_reject=rejects.append)
    assert set(acts(table)) == expected
    assert (table.rows, len(rejects), sum(table.rejected.values())) == (len(rows), refused, refused)
    assert table.rows == len(table) + table.duplicates + refused


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "z", "é"]), st.integers(0, 5)), max_size=30), st.randoms()
)
def test_the_order_of_the_rows_does_not_matter(tmp_path_factory, rows, random):
    folder = tmp_path_factory.mktemp("log")
    lines = [(buyer, item, "view", f"2026-11-01T10:00:0{second}Z") for buyer, item, second in rows]
    table = read(log(folder, as_csv(lines)))
    assert acts(table) == sorted(set(acts(table)), key=lambda a: (a.buyer_id, a.timestamp, a.item_id))
    random.shuffle(lines)
    again = read(log(folder, as_csv(lines)))
    assert acts(again) == acts(table)
    assert np.array_equal(again.buyers, table.buyers)


def test_the_log_of_the_benchmark_is_read_without_a_reject(tmp_path):
    write_log(tmp_path / "events.csv", 2_000)
    table = read(tmp_path)
    assert (table.rows, table.rejected) == (2_000, {})
    assert table_bytes(table) < 2_000 * 20
