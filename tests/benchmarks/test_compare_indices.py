"""Two index configurations on the same queries, and where the queries come from."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.ann.compare import overlap_of
from benchmarks.cli.compare import read_queries
from gavel.cli.main import app
from retrieval.errors import InvalidInput


def test_two_configurations_are_compared_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    told = CliRunner().invoke(
        app, ["index", "compare", "flat", "hnsw:ef_search=60", "--lots", "1000", "--most", "20", "--rounds", "1", "--json"]
    )
    result = json.loads(told.stdout)
    exact, graph = result["indices"]
    assert (exact["spec"], exact["points"][0]["recall"]) == ("flat", 1.0)
    assert 0.5 < graph["points"][0]["recall"] <= 1
    assert (result["queries"], result["overlap_at_10"] <= 1) == (20, True)
    assert {"different_answers", "p50_ratio", "machine", "date", "command"} <= result.keys()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("hnsw hnsw --lots 1000", "give two that differ"),
        ("hnsw tree --lots 1000", "no index family 'tree'"),
        ("flat hnsw --lots 1000 --release x", "leave --release and --queries away"),
        ("flat hnsw", "there is no release in"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(
    arguments: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    assert named in str(CliRunner().invoke(app, ["index", "compare", *arguments.split()]).exception)


def test_queries_are_lines_or_those_of_events_each_once(tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("red vase\n\nwatch\nred vase\n")
    (tmp_path / "events.ndjson").write_text('{"query": "red vase", "item_id": "1"}\n{"event": "view"}\n{"query": "lamp"}\n')
    assert read_queries(tmp_path / "queries.txt", 9) == ["red vase", "watch"]
    assert read_queries(tmp_path / "events.ndjson", 9) == ["red vase", "lamp"]
    assert read_queries(tmp_path / "queries.txt", 1) == ["red vase"]
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "broken.ndjson").write_text("{")
    for name in ("empty.txt", "broken.ndjson"):
        with pytest.raises(InvalidInput, match="one query per line"):
            read_queries(tmp_path / name, 9)


def test_overlap_counts_what_both_lists_have() -> None:
    assert overlap_of([1, 2, 3, 4], [4, 3, 9, 8]) == 0.5
    assert overlap_of([], []) == 1
