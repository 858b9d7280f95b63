"""One id, whoever wrote it: an item file, a log of events, a click log, a page."""

import gzip
import json
import unicodedata
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from lots import WordEncoder, lot, publish

from catalog.click_log import prepare
from catalog.event_files import read_events
from catalog.event_tables import read_event_table
from lambdas.query_api.app import create_app
from retrieval.buyers.history_store import parse_buyer_id
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item, first_value, parse_id
from retrieval.errors import InvalidInput
from retrieval.feedback.rows import Feedback, ListEvent, feedback_rows
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchModels, SearchService

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TIME = "2026-11-01T10:00:00Z"
APART, TOGETHER = "caf\u0065\u0301", "caf\u00e9"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (12, "12"),
        (12.0, "12"),
        ("12.0", "12"),
        (" 12.00 ", "12"),
        (Decimal("12.00"), "12"),
        (Decimal("1.2E+1"), "12"),
        (-7.0, "-7"),
        ("0.0", "0"),
        ("-0.0", "0"),
        (9007199254740993, "9007199254740993"),
        (Decimal("9007199254740993"), "9007199254740993"),
        (Decimal("1" * 74 + ".00"), "1" * 74),
        ("9007199254740993", "9007199254740993"),
        (2.0**53 - 1, "9007199254740991"),
        ("007", "007"),
        ("007.0", "007.0"),
        ("1.5", "1.5"),
        ("1.0.0", "1.0.0"),
        ("v12.0", "v12.0"),
        ("1e5", "1e5"),
        (".0", ".0"),
        (APART, TOGETHER),
    ],
)
def test_an_id_has_one_form(written: Any, read: str) -> None:
    assert parse_id("item_id", written) == read
    assert parse_id("item_id", read) == read
    if isinstance(written, str):
        assert parse_buyer_id(written) == read


@pytest.mark.parametrize(
    "written",
    [
        *(1.5, 2.0**53, "9007199254740992.0", 1e300, float("inf"), float("nan"), True),
        *map(Decimal, ("18.50", "1" * 30 + ".50", "Infinity", "-Infinity", "NaN", "sNaN")),
    ],
)
def test_a_number_that_is_no_exact_whole_number_is_no_id(written: Any) -> None:
    with pytest.raises(InvalidInput, match=r"item_id is .*text"):
        parse_id("item_id", written)


@pytest.mark.parametrize("missing", ["NaN", "-NaN", "sNaN"])
def test_a_decimal_that_is_no_number_is_missing(missing: str) -> None:
    assert first_value({"id": Decimal(missing), "item_id": None}, ("item_id", "id")) is None


@pytest.mark.parametrize("kind", [pa.decimal128(38, 2), pa.decimal256(76, 2)])
def test_decimals_of_many_digits_are_ids_of_lots_and_events(kind: pa.DataType, tmp_path: Path) -> None:
    ids = pa.array([Decimal("1" * 36 + ".00"), Decimal("1" * 36 + ".50")], kind)
    pq.write_table(pa.table({"id": ids, "title": ["Watch", "Ring"]}), tmp_path / "lots.parquet")
    whole, odd = read_items(tmp_path / "lots.parquet")
    assert (whole, getattr(odd, "line", None)) == (Item("1" * 36, "Watch"), 2)
    log = {"buyer_id": ids, "item_id": ["a", "b"], "event_type": ["view"] * 2, "timestamp": ["2026-11-01T10:00:00Z"] * 2}
    pq.write_table(pa.table(log), tmp_path / "events.parquet")
    table = read_event_table(tmp_path / "events.parquet")
    assert [buyer for buyer, _ in table.sequences()] == ["1" * 36]
    assert sum(table.rejected.values()) == 1


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20) | st.integers(-(2**60), 2**60))
def test_an_id_is_read_the_same_from_what_was_read(written: str | int) -> None:
    try:
        read = parse_id("item_id", written)
    except InvalidInput:
        assert isinstance(written, str)
        return
    assert parse_id("item_id", read) == read
    assert unicodedata.is_normalized("NFC", read)


def lots_of(folder: Path) -> list[Path]:
    """The lots 7 and 12, as every tool writes them where an id is missing or a number."""
    tables: dict[str, pa.Array] = {
        "int": pa.array([7, 12]),
        "float": pa.array([7.0, 12.0]),
        "hole": pa.array([7.0, None, 12.0]),
        "nan": pa.array([7.0, float("nan"), 12.0]),
        "decimal": pa.array([Decimal("7.00"), Decimal("12.00")], pa.decimal128(10, 2)),
        "text": pa.array(["7", "12.0"]),
        "dictionary": pa.array(["7", "12.0"]).dictionary_encode(),
        "bytes": pa.array([b"7.0", b"12"]),
    }
    for name, ids in tables.items():
        pq.write_table(pa.table({"id": ids, "title": ["Vase"] * len(ids)}), folder / f"{name}.parquet")
    (folder / "pandas.csv").write_text("id,title\n7.0,Vase\n,Vase\n12.0,Vase\n")
    (folder / "plain.csv").write_text("id;title\n7;Vase\n12;Vase\n")
    (folder / "lots.ndjson").write_text('{"id": 7.0, "title": "Vase"}\n{"id": "12.0", "title": "Vase"}\n')
    return sorted(folder.iterdir())


def test_item_files_of_every_format_agree_on_their_ids(tmp_path: Path) -> None:
    for path in lots_of(tmp_path):
        assert [row.item_id for row in read_items(path) if isinstance(row, Item)] == ["7", "12"], path.name


def test_logs_of_events_of_every_format_agree_with_the_lots(tmp_path: Path) -> None:
    rows = [("7.0", "ann"), ("12.0", "41.0")]
    names = ("product_id", "distinct_id", "event_name", "created_at")
    (tmp_path / "a.csv").write_text("".join(f"{','.join(row)}\n" for row in (names, *((*row, "View", TIME) for row in rows))))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    (tmp_path / "c.csv").write_text((tmp_path / "a.csv").read_text() + f'"7.0",,view,{TIME}\n')  # a broken block is read row by row
    events = [{"item_id": 7.0, "buyer_id": "ann"}, {"item_id": 12, "buyer_id": 41.0}]
    (tmp_path / "d.ndjson").write_text("".join(f"{json.dumps(e | {'event_type': 'view', 'timestamp': TIME})}\n" for e in events))
    same = {"buyer_id": ["ann", "41"], "event_type": ["view"] * 2, "timestamp": [TIME] * 2}
    pq.write_table(pa.table({"item_id": [7.0, 12.0], **same}), tmp_path / "e.parquet")
    pq.write_table(pa.table({"item_id": pa.array([Decimal(7), Decimal(12)], pa.decimal128(12, 2)), **same}), tmp_path / "f.parquet")
    pq.write_table(pa.table({"item_id": pa.array(["7.0", "12"]).dictionary_encode(), **same}), tmp_path / "g.parquet")
    for path in sorted(tmp_path.iterdir()):
        table = read_event_table(path, {"7", "12"})
        assert [(buyer, [act.item_id for act in acts]) for buyer, acts in table.sequences()] == [("41", ["12"]), ("ann", ["7"])]


def test_click_logs_and_kept_events_agree_with_the_lots(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,title\n7.0,Vase\n12.0,Vase\n")
    shown = {"query": "vase", "position": 1, "event_type": "view", "buyer_id": 3.0, "timestamp": TIME}
    log = tmp_path / "log.ndjson"
    log.write_text("".join(f"{json.dumps({**shown, 'item_id': item_id})}\n" for item_id in (7, "7.0", 12.0, "12")))
    catalog = prepare(log, tmp_path / "catalog", items=tmp_path / "items.csv")
    clicks = [click for split in catalog.splits for click in catalog.clicks(split)]
    for read in (clicks, read_events([log], trust_unsigned=True).clicks):
        assert [(click.item_id, click.buyer_id) for click in read] == [("12", "3"), ("7", "3")]


def test_what_a_page_tells_and_asks_has_the_same_ids(tmp_path: Path) -> None:
    rows = feedback_rows(
        Feedback("list", APART, "vase", NOW, [ListEvent("click", "12.0", 1, NOW), ListEvent("click", APART, 2, NOW)]), NOW
    )
    assert [(row["item_id"], row["buyer_id"]) for row in rows] == [("12", TOGETHER), (TOGETHER, TOGETHER)]
    store = EmbeddedStore(tmp_path / "index")
    publish(store, [lot("12", "red vase"), lot(TOGETHER, "blue vase")])
    service = SearchService(store, SearchModels(WordEncoder))
    client = TestClient(create_app(lambda: service))
    for asked in ("12", "12.0", " 12 ", APART, TOGETHER):
        found = client.get("/search", params={"q": asked, "k": 1}).json()["results"]
        assert [lot["item_id"] for lot in found] == ["12" if "12" in asked else TOGETHER]
        assert client.get(f"/items/{asked}").json()["item_id"] == client.get(f"/items/{asked}").json()["fields"]["item_id"]
        assert client.get(f"/items/{asked}/similar").status_code == 200
        assert client.get("/retrieve", params={"item_id": asked}).json()["unknown_items"] == []
        act = {"item_id": asked, "event_type": "view", "timestamp": (datetime.now(UTC) - timedelta(days=1)).isoformat()}
        assert client.post("/search", json={"q": "vase", "recent_interactions": [act]}).json()["unknown_items"] == []
