"""Text from outside that nobody can write down: it is set aside with a readable reason, and the run goes on."""

import io
import json
import os
import sys
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
from gavel.workspace.console import console
from gavel.workspace.entry import run_command
from lambdas.query_api.app import create_app
from processing.embedding.rows import scan_inputs
from retrieval.config.settings import Settings
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import ALIASES, Item, Reject
from retrieval.errors import InvalidInput, InvalidSettings
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchModels, SearchService
from retrieval.text.analysis import readable

HALVES = ["\ud83d", "\udc00", "lot-\ud83d", "\udce9t\u00e9"]
GOOD = {"item_id": "1", "title": "Vase"}
CLICK = {"query": "red vase", "item_id": "1", "position": 1, "event_type": "view", "buyer_id": "b", "timestamp": "2026-11-01"}
EVENT = {"buyer_id": "u", "item_id": "1", "event_type": "view", "timestamp": "2026-11-01T10:00:00Z"}


def write_ndjson(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One row a line, half characters as JSON escapes them."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def written(rejects: list[Reject]) -> list[str]:
    """The reasons of rejects, as a file holds them."""
    return [json.loads(reject.to_json().encode())["reason"] for reject in rejects]


@pytest.mark.parametrize("half", HALVES)
def test_a_lot_with_half_a_character_in_any_field_is_a_reject_and_the_next_one_is_read(half: str, tmp_path: Path) -> None:
    rows = [{**GOOD, field: half} for field in ALIASES]
    file = write_ndjson(tmp_path / "lots.ndjson", [*rows, {**GOOD, "item_id": "last"}])
    *rejects, last = read_items(file)
    assert last == Item("last", "Vase")
    for field, reason in zip(ALIASES, written(rejects), strict=True):
        assert reason.startswith(field)
        assert ascii(half)[1:-1] in reason or readable(half) in reason or "\\udce9" in reason


@given(st.text(st.characters(), max_size=20), st.text(st.characters(), max_size=20))
def test_a_reject_of_anything_is_a_line_of_utf8(item_id: str, source: str) -> None:
    line = Reject(source, 1, f"no lot: {item_id}", item_id).to_json().encode()
    assert b"\n" not in line
    assert json.loads(line)["line"] == 1


def test_a_file_whose_name_is_no_utf8_is_read_in_every_format_and_its_rejects_name_it(tmp_path: Path) -> None:
    table = tmp_path / "lots.parquet"
    pq.write_table(pa.table({"id": ["1", "2"], "title": ["Vase", None]}), table)
    texts = {
        "csv": b"id,title\n1,Vase\n2,\n",
        "ndjson": b'{"id": "1", "title": "Vase"}\n{"id": "2"}\n',
        "parquet": table.read_bytes(),
    }
    table.unlink()
    for suffix, text in texts.items():
        (tmp_path / os.fsdecode(f"lots-\xe9.{suffix}".encode("latin-1"))).write_bytes(text)
    files = sorted(tmp_path.iterdir())
    assert len(scan_inputs(files)[0]) == 64
    for file in files:
        item, reject = read_items(file)
        assert item == Item("1", "Vase")
        assert isinstance(reject, Reject)
        assert reject.source == f"lots-\\xe9{file.suffix}"


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("field", CLICK)
def test_a_click_log_with_half_a_character_is_prepared_without_that_row(field: str, half: str, tmp_path: Path) -> None:
    items = write_ndjson(tmp_path / "items.ndjson", [GOOD])
    log = write_ndjson(tmp_path / "log.ndjson", [CLICK, {**CLICK, field: half}])
    catalog = prepare(log, tmp_path / "catalog", items=items)
    assert [click.item_id for split in catalog.splits for click in catalog.clicks(split)] == ["1"]
    (reject,) = (tmp_path / "catalog" / "rejects.ndjson").read_text(encoding="utf-8").splitlines()
    assert field in json.loads(reject)["reason"] or field == "item_id"


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("field", EVENT)
def test_an_event_with_half_a_character_is_set_aside(field: str, half: str, tmp_path: Path) -> None:
    told: list[Reject] = []
    table = read_event_table(write_ndjson(tmp_path / "log.ndjson", [EVENT, {**EVENT, field: half}]), on_reject=told.append)
    assert (len(table), len(written(told))) == (1, 1)
    events = write_ndjson(tmp_path / "events.ndjson", [CLICK, {**CLICK, field: half}, {**CLICK, "query": "\0"}])
    read = read_events([events], trust_unsigned=True)
    assert (read.events, len(written(read.rejects))) == (1, 2)


def test_a_photo_below_a_folder_that_is_no_utf8_is_told_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"lots-\xe9")
    folder.mkdir()
    items = write_ndjson(folder / "items.ndjson", [{**GOOD, "image": "a.jpg"}])
    with pytest.raises(InvalidInput, match=r"the path of a photo .* UTF-8"):
        prepare(write_ndjson(tmp_path / "log.ndjson", [CLICK]), tmp_path / "catalog", items=items)


def test_control_characters_of_a_row_become_white_space_and_its_ids_are_refused(tmp_path: Path) -> None:
    row = {
        "item_id": "1",
        "title": "Va\0se",
        "category": "pots\0",
        "brand": "A\x1bB",
        "description": "one\ntwo\x85",
        "seller": "\x07s",
    }
    item, reject = read_items(write_ndjson(tmp_path / "lots.ndjson", [row, {**row, "item_id": "a\0b"}]))
    assert item == Item("1", "Va se", "one\ntwo", category="pots", brand="A B", seller="s")
    assert isinstance(reject, Reject)
    assert "item_id holds unprintable characters: 'a\\x00b'" in reject.reason


def test_a_variable_that_is_no_utf8_is_named() -> None:
    for name in ("GAVEL_HOME", "GAVEL_INDEX_ALIAS", "GAVEL_CANDIDATES", "OPENSEARCH_URL"):
        with pytest.raises(InvalidSettings, match=f"{name} holds half a character"):
            Settings.from_env({name: "x\udce9"})


def test_a_terminal_that_is_no_utf8_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    run_command(lambda: console.print("Café \udce9 घड़ी"))
    terminal.flush()
    assert terminal.buffer.getvalue().startswith(rb"Caf\xe9 \udce9 ")  # type: ignore[attr-defined]


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, [lot("v1", "red vase", brand="Acme", category="pots")])
    service = SearchService(store, SearchModels(WordEncoder))
    return TestClient(create_app(lambda: service), raise_server_exceptions=False)


BAD_ADDRESSES = [
    *(
        f"/search?q=vase&{name}={value}"
        for name in ("category", "brand", "buyer_id", "colour")
        for value in ("%00", "%FF", "%ED%A0%BD")
    ),
    *(f"/search?q=va{value}se" for value in ("%00", "%1B", "%FF", "%ED%A0%BD")),
    *(f"/items/v{value}/similar" for value in ("%00", "%FF", "%ED%A0%BD")),
    *(f"/buyers/v{value}" for value in ("%00", "%FF", "%ED%A0%BD")),
    "/search?q=vase&%FF=1",
    "/retrieve?item_id=%00",
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_an_address_with_what_no_index_holds_is_a_bad_question(address: str, client: TestClient) -> None:
    answer = client.get(address)
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")


@pytest.mark.parametrize(
    "body",
    [
        *({"q": "vase", name: f"x{bad}"} for name in ("category", "brand", "buyer_id") for bad in ("\0", "\ud83d", "\udce9")),
        *({"q": f"vase{bad}"} for bad in ("\0", "\ud83d", "\udce9")),
        *({"q": "vase", f"x{bad}": 1} for bad in ("\0", "\ud83d")),
        {"q": "vase", "recent_interactions": [{"item_id": "v\0", "event_type": "view", "timestamp": "2026-11-21T20:00:00Z"}]},
        {"q": "vase", "fusion": "\ud83d"},
        [{"q": "vase"}, {"q": "\udc00"}],
    ],
)
def test_a_body_with_what_no_index_holds_is_a_bad_question(body: Any, client: TestClient) -> None:
    answer = client.post("/search", content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query")


def test_pasted_line_ends_of_a_query_are_white_space(client: TestClient) -> None:
    for text in ("red\nvase", "red\tvase\r\n", " red\u2028vase", "\ufeffred va\u00adse"):
        assert client.get("/search", params={"q": text, "mode": "keyword"}).json()["results"][0]["item_id"] == "v1"
