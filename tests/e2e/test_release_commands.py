"""Releases on the command line: what is there already, what holds nothing, and ports that are taken."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_runs import ROOT, environment, gavel
from small_tower import save_small_item_tower

from gavel.cli.index import probe
from gavel.cli.serve import listen
from gavel.workspace.folders import Workspace
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a small tower, and beside it a file of lots."""
    home = tmp_path_factory.mktemp("release-commands") / "home"
    save_small_item_tower(home / "towers")
    (home.parent / "lots.csv").write_text("id,title\na,red vase\nb,old lamp\n")
    (home.parent / "bad.csv").write_text("id,title,price\na,red vase,-1\n")
    return home


def test_an_unchanged_release_is_there_already_and_force_makes_it_again(home: Path) -> None:
    lots = str(home.parent / "lots.csv")
    said = [json.loads(gavel(home, "embed", lots, "--json", *more).stdout) for more in ((), (), ("--force",))]
    assert [one.pop("already_there") for one in said] == [False, True, False]
    assert said[0] == said[1] == said[2]
    assert "already there, unchanged" in gavel(home, "embed", lots).stdout


def test_a_release_remembers_where_its_lots_and_so_their_photos_lie(home: Path) -> None:
    (home.parent / "elsewhere").mkdir()
    (home.parent / "elsewhere" / "lots.csv").write_text("id,title,image\na,red vase,photos/a.jpg\n")
    said = json.loads(gavel(home, "embed", str(home.parent / "elsewhere"), "--release", "sources", "--json").stdout)
    assert said["embedded"] == 1
    assert Workspace(Settings(home=home)).sources("sources") == [home.parent / "elsewhere"]


def test_a_currency_that_is_none_is_refused(home: Path) -> None:
    run = gavel(home, "serve", "--currency", "euros")
    assert run.returncode == 2
    assert "three letters of ISO 4217" in run.stderr


def test_a_release_of_rejects_alone_is_a_warning_status_1_and_no_index(home: Path) -> None:
    run = gavel(home, "embed", str(home.parent / "bad.csv"), "--release", "bad")
    assert run.returncode == 1
    assert "all 1 rows were rejected" in run.stderr
    assert str(home / "embeddings/bad/rejects.ndjson") in run.stderr
    assert "0/?" not in run.stderr
    indexed = gavel(home, "index", "bad")
    assert indexed.returncode == 1
    assert "release bad holds no lot" in indexed.stderr


def test_a_port_that_is_taken_is_told_before_any_address(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = gavel(home, "serve", "--port", str(port))
    assert run.returncode == 2
    assert run.stdout == ""
    assert f"127.0.0.1:{port} cannot be listened on (Address already in use)" in run.stderr


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidInput, match="choose another with --port or --host"):
        listen("192.0.2.1", 8080)


def test_a_benchmark_without_an_index_is_one_line(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.reliability.adapters"]
    run = subprocess.run(command, env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("benchmarks.reliability.adapters: ")
    assert "Traceback" not in run.stderr


def test_stopping_what_does_not_run_says_so_in_words(tmp_path: Path) -> None:
    assert gavel(tmp_path, "down").stdout == "nothing ran here\n"


def test_index_probe_tells_the_recall_of_the_live_index_and_fails_below_the_bar(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = gavel(home, "index", "probe")
    assert missing.returncode == 1
    assert "build one with `" in missing.stderr
    assert gavel(home, "embed", str(home.parent / "lots.csv"), "--release", "probed").returncode == 0
    assert gavel(home, "index", "probed").returncode == 0
    run = gavel(home, "index", "probe", "--json")
    said = json.loads(run.stdout)
    assert (run.returncode, said["lots"], said["recall@10"]) == (0, 2, 1.0)
    monkeypatch.setenv("GAVEL_HOME", str(home))
    monkeypatch.setattr("retrieval.ingestion.recall_at_10", lambda index, probes: 0.5)
    with pytest.raises(typer.Exit) as stopped:
        probe()
    assert stopped.value.exit_code == 1
    assert "finds 0.500 of the exact ten nearest of lots drawn from all of it, 0.95 is the least" in capsys.readouterr().err
