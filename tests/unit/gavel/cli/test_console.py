"""What commands print: values that can be copied whole, and hints that fit the answer."""

import io
import re
from datetime import timedelta

import pytest
from rich.console import Console

from gavel.cli import main as cli
from gavel.workspace import console as shown
from gavel.workspace import entry as command_entry
from gavel.workspace.options import report
from retrieval.errors import InvalidInput
from retrieval.search.service import SearchAnswer


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(shown.console, "_width", 80)


def test_a_long_path_is_printed_in_one_piece_in_a_narrow_window(narrow, capsys):
    path = "/somewhere/" + "deep/" * 40 + "rejects.ndjson"
    report({"release": path, "tower_id": "a1b2"}, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["release", path]
    assert lines[1].split() == ["tower_id", "a1b2"]


@pytest.mark.parametrize(("mode", "says"), [("hybrid", False), ("keyword", True), ("semantic", True)])
def test_an_empty_answer_suggests_the_hybrid_mode_only_to_those_who_did_not_use_it(mode, says, capsys):
    answer = SearchAnswer(results=[], tower_id="t", mode=mode, reranked=False, failed_components=[], timings_ms={"total": 1.0})
    shown.show_answer("vase", answer)
    said = " ".join(capsys.readouterr().out.split())
    assert "loosen the filters" in said
    assert ("--mode hybrid" in said) is says


def test_the_prompt_of_a_json_search_stays_off_stdout(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\nred vase\n"))
    assert cli._prompt(as_json=True) == "red vase"
    said = capsys.readouterr()
    assert said.out == ""
    assert "search> " in said.err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [(".venv/bin/gavel", "`.venv/bin/gavel train`"), ("/usr/bin/gavel", "`gavel train`"), ("x.py", "`gavel train`")],
)
def test_a_hint_names_the_command_as_it_was_called(argv, hint, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [argv])
    command_entry.say("there is no tower; make one with `gavel train`")
    assert capsys.readouterr().err == f"gavel: there is no tower; make one with {hint}\n"


def test_an_error_of_a_command_is_one_line_and_its_kind_is_the_status(capsys):
    def refuse():
        raise InvalidInput("k is 0")

    with pytest.raises(SystemExit) as end:
        command_entry.run_command(refuse, "bench")
    assert end.value.code == 2
    assert capsys.readouterr().err == "bench: k is 0\n"


@pytest.mark.parametrize("first", [1, 501])
def test_a_bar_estimates_the_time_left_from_the_steps_of_this_call_alone(first, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(shown, "notes", Console(stderr=True, force_terminal=True, width=100, get_time=lambda: now[0]))
    with shown.progress("steps") as step:
        for done in range(first, first + 11):
            step(done, 1_000)
            now[0] += 2.0
    left = timedelta(seconds=(1_000 - first - 10) * 2)
    assert f"{left} left" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err.rpartition("/1000")[2]), "2 s a step"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_keeps_every_number_whole_and_repeats_the_names_where_it_is_parted(width, monkeypatch, capsys):
    monkeypatch.setattr(shown, "console", Console(width=width))
    header = ("", *(f"measure {number} ms" for number in range(9)))
    shown.show_table("indices", header, [("gavel flat", *(f"{number}.12345" for number in range(9))), ("faiss", *["1.0"] * 9)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if line.strip().startswith("gavel flat")]
    assert [cell for row in rows for cell in row[2:]] == [f"{number}.12345" for number in range(9)]
    assert len(rows) == {60: 3, 80: 2, 200: 1}[width]
