"""Readers of catalogue files: every row comes out, as an item or as a reject."""

import csv
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retrieval.contracts.item_files import read_items
from retrieval.contracts.item_folders import find_item_files
from retrieval.contracts.items import Item, Reject
from retrieval.errors import InvalidInput

OTHER_FORM = re.compile(
    rb"\x1f\x8b|\xff\xfe|\xfe\xff|\s*\[|[{\[]?\0"
)  # gzip, UTF-16 and a JSON list are recognised by their first bytes
cell = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def reasons(path: Path) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in read_items(path) if isinstance(row, Reject)]


def test_the_same_lots_come_out_of_all_three_formats(tmp_path):
    rows = [{"id": "1", "name": "Watch", "price": 5.0, "bid_count": 2}, {"id": "2", "name": "Ring", "price": 7.5, "bid_count": 0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lots.parquet")
    write(tmp_path / "lots.csv", "id,name,price,bid_count\n1,Watch,5.0,2\n2,Ring,7.5,0\n")
    write(tmp_path / "lots.ndjson", "\n".join(json.dumps(r) for r in rows))
    expected = [Item("1", "Watch", current_price=5.0, bid_count=2), Item("2", "Ring", current_price=7.5)]
    for path in find_item_files(tmp_path):
        assert list(read_items(path)) == expected


def test_a_folder_is_listed_by_name_without_rejects_folders_and_other_files(tmp_path):
    for name in ("b.csv", "a.PARQUET", "c.jsonl", "rejects.ndjson", "readme.txt"):
        (tmp_path / name).touch()
    (tmp_path / "table.parquet").mkdir()
    assert [p.name for p in find_item_files(tmp_path)] == ["a.PARQUET", "b.csv", "c.jsonl"]
    assert find_item_files(tmp_path / "b.csv") == [tmp_path / "b.csv"]


def test_an_empty_folder_is_refused_with_the_formats_that_are_read(tmp_path):
    with pytest.raises(InvalidInput, match=r"holds no catalogue file; put at least one of \.parquet, \.csv"):
        find_item_files(tmp_path)


def test_a_folder_of_photos_alone_says_which_file_they_need(tmp_path):
    write(tmp_path / "one.jpg", "")
    with pytest.raises(InvalidInput, match="1 photos need one with the columns item_id, title and image"):
        find_item_files(tmp_path)


def test_what_is_not_there_or_no_catalogue_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="does not exist"):
        find_item_files(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="is not a catalogue file"):
        find_item_files(write(tmp_path / "photo.jpg", ""))
    with pytest.raises(InvalidInput, match=r"unknown format '\.jpg'"):
        list(read_items(tmp_path / "photo.jpg"))


@pytest.mark.parametrize("text", ["", "name,price\nWatch,1\n"])
def test_a_csv_without_ids_is_refused_with_the_names_an_id_may_have(tmp_path, text):
    with pytest.raises(InvalidInput, match="has no column for item_id: it needs one of item_id, id, product_id; found"):
        list(read_items(write(tmp_path / "lots.csv", text)))


def test_a_parquet_without_titles_is_refused(tmp_path):
    pq.write_table(pa.table({"item_id": ["1"]}), tmp_path / "lots.parquet")
    with pytest.raises(InvalidInput, match="has no column for title"):
        list(read_items(tmp_path / "lots.parquet"))


def test_a_bad_row_is_rejected_with_its_line_its_id_and_the_reason(tmp_path):
    path = write(tmp_path / "lots.csv", "id,title,price\n1,Watch,5\n2,Ring,-1\n3,,2\n4,Vase,1\n")
    rows = list(read_items(path))
    assert [r.item_id for r in rows] == ["1", "2", "3", "4"]
    assert rows[1] == Reject("lots.csv", 3, "current_price must be >= 0 and <= 1000000000000, not '-1'", "2")
    assert isinstance(rows[2], Reject)
    assert "title is missing" in rows[2].reason


def test_a_csv_row_with_more_or_fewer_cells_than_the_header_is_rejected_with_its_reason(tmp_path):
    path = write(tmp_path / "lots.csv", "id,title,price\n1,Watch,5,6\n2,Ring\n3,Vase,7,,\n")
    assert reasons(path) == [
        (2, "the row has 4 cells, the header 3"),
        (3, "the row has 2 cells, the header 3: it was cut, or a separator is missing"),
    ]
    assert list(read_items(path))[2] == Item("3", "Vase", current_price=7)  # blank cells behind the last column are none


def test_a_csv_row_without_the_cells_of_columns_that_nobody_uses_is_read(tmp_path):
    path = write(tmp_path / "lots.csv", "id,title,warehouse\n1,Watch\n")
    assert list(read_items(path)) == [Item("1", "Watch")]


def test_a_csv_cell_may_hold_line_breaks_and_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = write(tmp_path / "lots.csv", '\ufeffid,title,description\n1,Watch,"two\nlines"\n')
    assert list(read_items(path)) == [Item("1", "Watch", "two\nlines")]


@pytest.mark.parametrize("closing", ["", '119,Ring 5",7\n', '119,"Ring, gold",7\n'])
def test_a_quote_that_is_never_closed_rejects_its_own_line_alone(tmp_path, closing):
    lines = [f"{n},Lot {n},7\n" for n in range(1, 301)]
    lines[49], lines[118] = '50,"TV 55 inch,7\n', closing or lines[118]
    path = write(tmp_path / "lots.csv", "id,title,price\n" + "".join(lines))
    rows = list(read_items(path))
    assert len(rows) == 300
    assert reasons(path)[0][0] == 51
    assert "line 51 opens a quote that it does not close" in reasons(path)[0][1]
    assert sum(isinstance(row, Item) for row in rows) == 299


def test_a_cell_beyond_all_bounds_is_one_reject_and_the_rows_after_it_are_read(tmp_path):
    path = write(tmp_path / "lots.csv", f"id,title\n1,{'x' * 200_000}\n2,Ring\n")
    rows = list(read_items(path))
    assert "field larger than field limit" in rows[0].reason
    assert rows[1] == Item("2", "Ring")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{not json", "the line is not JSON"),
        (b"[1, 2]", "the line is a JSON list, not an object"),
        (b'{"id": "1", "title": "\xff"}', "the line is not JSON"),
        (b"[" * 100_000, "the line is not JSON"),
        (b'{"id": "1", "title": "\\ud800"}', "title holds half a character"),
        (b'{"id": "1", "title": "x", "metadata": 3, "price": {"a": 1}}', "current_price is not a number"),
    ],
)
def test_a_bad_ndjson_line_is_one_reject_and_the_next_line_is_read(tmp_path, line, reason):
    path = tmp_path / "lots.ndjson"
    path.write_bytes(b'{"id": "0", "title": "Vase"}\n\n' + line + b'\n{"id": "2", "title": "Ring"}\n')
    first, bad, last = read_items(path)
    assert (first.item_id, last.item_id) == ("0", "2")
    assert bad.line == 3
    assert reason in bad.reason


def test_what_is_no_parquet_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="is not a readable parquet file"):
        list(read_items(write(tmp_path / "lots.parquet", "not parquet")))


def test_a_damaged_parquet_page_is_refused(tmp_path):
    path = tmp_path / "lots.parquet"
    pq.write_table(pa.table({"id": [f"{i:09}" for i in range(2_000)], "title": ["Watch"] * 2_000}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[200:1_200] = b"\x55" * 1_000
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match="is not a readable parquet file"):
        list(read_items(path))


def test_a_parquet_time_with_nanoseconds_rejects_its_row_alone(tmp_path):
    table = pa.table(
        {
            "id": ["1", "2"],
            "title": ["Watch", "Ring"],
            "ends_at": pa.array([1_800_000_000_000_000_001, 1_795_291_200 * 10**9], pa.timestamp("ns")),
        }
    )
    pq.write_table(table, tmp_path / "lots.parquet")
    odd, plain = read_items(tmp_path / "lots.parquet")
    assert isinstance(odd, Reject)
    assert odd.line == 1
    assert plain.ends_at.replace(tzinfo=None) == datetime(2026, 11, 21, 20)


@pytest.mark.parametrize("zone", ["Not/AZone", "+99:99", "", "Europe/Berlin", "+05:30"])
@pytest.mark.parametrize("unit", ["ms", "ns"])
def test_a_parquet_time_in_any_zone_is_the_moment_that_it_counts(unit, zone, tmp_path):
    ends_at = pa.array([datetime(2026, 11, 21, 20, tzinfo=UTC)], pa.timestamp(unit, zone))
    pq.write_table(pa.table({"id": ["1"], "title": ["Watch"], "ends_at": ends_at}), tmp_path / "lots.parquet")
    assert list(read_items(tmp_path / "lots.parquet")) == [Item("1", "Watch", ends_at=datetime(2026, 11, 21, 20, tzinfo=UTC))]


def test_a_nested_parquet_time_in_an_unknown_zone_rejects_its_row_alone(tmp_path):
    seen = pa.array([{"seen": datetime(2026, 11, 21, tzinfo=UTC)}, None], pa.struct({"seen": pa.timestamp("ms", "Not/AZone")}))
    pq.write_table(pa.table({"id": ["1", "2"], "title": ["Watch", "Ring"], "metadata": seen}), tmp_path / "lots.parquet")
    odd, plain = read_items(tmp_path / "lots.parquet")
    assert isinstance(odd, Reject)
    assert "Not/AZone" in odd.reason
    assert plain == Item("2", "Ring")


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
@pytest.mark.parametrize(
    "metadata", ["{[1]: 2}", "{{}: 1}", "{" * 5_000, "{'a': " + "-" * 100_000 + "1}", f"{{'brand': 0x{'f' * 5_000}}}"]
)
def test_metadata_that_is_no_object_rejects_its_row_alone(metadata, suffix, tmp_path):
    path = tmp_path / f"lots.{suffix}"
    rows = [{"id": "1", "title": "Watch", "metadata": metadata}, {"id": "2", "title": "Ring", "metadata": ""}]
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "title", "metadata"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    odd, plain = read_items(path)
    assert isinstance(odd, Reject)
    assert (odd.item_id, odd.reason) == ("1", f"metadata is no JSON object: {metadata[:40]!r}")
    assert plain == Item("2", "Ring")


def test_nested_metadata_of_a_parquet_file_is_reached(tmp_path):
    rows = [{"product_id": 1, "name": "Watch", "metadata": {"brand": "Omega", "catalog_id": "watches"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lots.parquet")
    assert list(read_items(tmp_path / "lots.parquet")) == [Item("1", "Watch", brand="Omega", category="watches")]


@settings(max_examples=50)
@given(st.lists(st.tuples(cell, cell, cell), max_size=8))
def test_every_row_of_a_csv_comes_out_once(tmp_path_factory, rows):
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("id", "title", "price"), *rows])
    path = tmp_path_factory.mktemp("csv") / "lots.csv"
    path.write_bytes(text.getvalue().encode())
    assert len(list(read_items(path))) == len(rows)


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_an_ndjson_file_of_any_bytes_gives_one_row_for_each_line_that_is_not_blank(tmp_path_factory, data):
    assume(not OTHER_FORM.match(data))
    path = tmp_path_factory.mktemp("ndjson") / "lots.ndjson"
    path.write_bytes(data)
    assert len(list(read_items(path))) == sum(1 for line in data.split(b"\n") if line.strip())


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_csv_is_read_with_the_separator_that_its_header_has(tmp_path, mark):
    path = write(tmp_path / "lots.csv", f'item_id{mark}title{mark}description\n1{mark}"red{mark} ""old"" vase"{mark}a, b\n')
    assert list(read_items(path)) == [Item("1", f'red{mark} "old" vase', "a, b")]


def test_products_csv_is_read_with_its_metadata_as_shops_export_it(tmp_path):
    text = (
        "\ufeffid;title;description;metadata\r\n"
        '1;Watch;"two\r\nlines";"{""brand"": ""Omega"", ""catalog_id"": ""watches""}"\r\n'
        "2;Ring;gold;{'brand': 'Cartier', 'catalog_id': 17, 'new': None}\r\n"
        "3;Vase;;\r\n"
        '4;Lamp;;"{""brand"": ""Osr"\r\n'
        "5;Chair;;handmade\r\n"
    )
    path = tmp_path / "products.csv"
    path.write_bytes(text.encode())
    assert [row for row in read_items(path) if isinstance(row, Item)] == [
        Item("1", "Watch", "two\r\nlines", brand="Omega", category="watches"),
        Item("2", "Ring", "gold", brand="Cartier", category="17"),
        Item("3", "Vase"),
        Item("5", "Chair"),
    ]
    assert reasons(path) == [(6, 'metadata is no JSON object: \'{"brand": "Osr\'')]
