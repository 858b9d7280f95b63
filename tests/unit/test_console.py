"""What commands print: values that can be copied whole, and hints that fit the answer."""

import pytest

from local import console as shown
from local.command_options import report
from retrieval.search import SearchAnswer


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
    answer = SearchAnswer(results=[], tower_id="t", mode=mode, reranked=False, degraded=[], timings_ms={"total": 1.0})
    shown.show_answer("vase", answer)
    said = " ".join(capsys.readouterr().out.split())
    assert "loosen the filters" in said
    assert ("--mode hybrid" in said) is says
