"""The `gavel` command as a newcomer uses it, as real processes on a small catalogue."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_runs import DEMO_LOTS, GAVEL, answer, environment, gavel, refusal

from gavel.opensearch.node import free_port

pytestmark = pytest.mark.timeout(900)  # a demo is made first


def test_a_second_demo_reuses_what_is_there(home: Path) -> None:
    run = gavel(home, "demo", "--lots", str(DEMO_LOTS))
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("already there") == 8


def test_a_search_answers_ten_reranked_lots_with_all_that_a_buyer_asks_for(home: Path) -> None:
    found = answer(home, "search", "luxury vintage watches")
    assert [lot["rank"] for lot in found["results"]] == list(range(1, 11))
    assert found["reranked"] is True
    for lot in found["results"]:
        assert -1 <= lot["similarity"] <= 1
        assert {"title", "category", "current_price", "bid_count"} <= set(lot["fields"])


def test_filters_of_the_command_line_hold(home: Path) -> None:
    found = answer(home, "search", "vase", "-k", "50", "--category", "vase", "--max-price", "200")["results"]
    assert found
    assert all(lot["fields"]["category"] == "vase" and lot["fields"]["current_price"] <= 200 for lot in found)


def test_the_prompt_answers_until_quit_and_survives_a_bad_query(home: Path) -> None:
    run = gavel(home, "search", stdin=f"red vase\n{'x' * 600}\nold lamp\nquit\nnever asked\n")
    assert run.returncode == 0
    assert "“red vase”" in run.stdout
    assert "“old lamp”" in run.stdout
    assert "at most 512" in run.stderr
    assert "never asked" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x" * 10_000,), "10000 characters, at most 512"),
        (("",), "the query is empty"),
        (("vase", "-k", "0"), "k is 0"),
        (("vase", "--mode", "fuzzy"), "'hybrid', 'semantic', 'keyword'"),
        (("vase", "--min-price", "9", "--max-price", "1"), "swap them"),
    ],
)
def test_a_bad_search_is_one_line_and_exit_status_2(arguments: tuple[str, ...], words: str, home: Path) -> None:
    assert words in refusal(home, "search", *arguments)


def test_an_index_of_another_tower_is_refused(home: Path) -> None:
    other = next(
        p.name for p in (home / "towers").iterdir() if p.is_dir() and p.name not in live(home) and not p.name.startswith(".")
    )
    run = gavel(home, "search", "vase", "--tower", other)
    assert run.returncode == 1
    assert f"the query with {other}" in " ".join(run.stderr.split())


def live(home: Path) -> str:
    return str(json.loads((home / "index" / "auction-items.json").read_text()))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


def test_an_empty_folder_is_refused_by_name(home: Path, inputs: Path) -> None:
    assert f"{inputs} holds no catalogue file" in refusal(home, "embed", str(inputs))


def test_a_csv_without_ids_is_refused_with_the_columns_it_has(home: Path, inputs: Path) -> None:
    (inputs / "lots.csv").write_text("title,price\nred vase,1\n")
    said = refusal(home, "embed", str(inputs))
    assert "no column for item_id" in said
    assert "found title, price" in said


def test_bad_rows_are_set_aside_and_a_truncated_photo_embeds_from_its_text(home: Path, inputs: Path) -> None:
    photo = next((home / "catalogs/synthetic/items/photos").glob("*.jpg")).read_bytes()
    (inputs / "whole.jpg").write_bytes(photo)
    (inputs / "cut.jpg").write_bytes(photo[: len(photo) // 3])
    (inputs / "lots.csv").write_text("id,name,price,image\na,red vase,10,whole.jpg\nb,blue vase,-1,\nc,old lamp,5,cut.jpg\n")
    made = answer(home, "embed", str(inputs), "--release", "small")
    assert (made["items_in"], made["embedded"], made["rejected"], made["without_image"]) == (3, 2, 1, 1)
    reject = json.loads((Path(made["release"]) / "rejects.ndjson").read_text())
    assert (reject["source"], reject["line"], reject["item_id"]) == ("lots.csv", 3, "b")
    assert "current_price must be >= 0" in reject["reason"]
    (Path(made["release"]) / "manifest.json").unlink()


def test_commands_before_their_time_name_the_command_to_run_first(tmp_path: Path) -> None:
    assert "gavel catalog generate" in refusal(tmp_path, "train")
    (tmp_path / "lots.csv").write_text("id,title\na,red vase\n")
    assert "gavel train" in refusal(tmp_path, "embed", str(tmp_path / "lots.csv"))
    assert "gavel embed" in refusal(tmp_path, "index")
    run = gavel(tmp_path, "search", "vase")
    assert run.returncode == 1
    assert "gavel index" in " ".join(run.stderr.split())


def test_ctrl_c_in_the_middle_leaves_nothing_that_a_rerun_trips_over(tmp_path: Path) -> None:
    short = tmp_path / "gavel.toml"
    short.write_text("[training]\nepochs = 2\n")
    command = [*GAVEL, "--config", str(short), "demo", "--lots", "60"]
    listening = ["env", "--default-signal=INT", *command]  # a shell lets its background jobs ignore SIGINT
    with subprocess.Popen(listening, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 120
        while not (tmp_path / "demo-synthetic.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)  # until the catalogue stands and the training has begun
        time.sleep(2)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=300)[1]
    # CPython ends by the signal itself if it struck while a library ran Python code of its own; a shell calls both 130
    assert run.returncode in (130, -signal.SIGINT), said
    assert "interrupted" in said
    assert "Traceback" not in said
    again = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already there") >= 1


def test_serve_answers_over_http(home: Path) -> None:
    port = free_port()
    with subprocess.Popen([*GAVEL, "serve", "--port", str(port)], env=environment(home), stdout=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            assert wait_for(f"{url}/health")["items"] == DEMO_LOTS
            found = httpx.get(f"{url}/search", params={"q": "luxury vintage watches"}, timeout=30).json()
            assert len(found["results"]) == 10
            assert found["reranked"] is True
            assert httpx.get(f"{url}/search", params={"q": ""}, timeout=30).json()["type"] == "invalid_query"
        finally:
            server.terminate()


def wait_for(url: str) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return httpx.get(url, timeout=5).raise_for_status().json()
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer within 60 s")


def test_a_lots_own_photo_is_searched_by_alone_and_with_words(home: Path) -> None:
    photo = next((home / "catalogs").rglob("*.jpg"), None) or next((home / "catalogs").rglob("*.png"))
    alone = answer(home, "search", "--photo", str(photo), "-k", "3")
    assert (len(alone["results"]), alone["mode"], alone["reranked"]) == (3, "semantic", False)
    with_words = answer(home, "search", "--photo", str(photo), "-k", "3", "luxury watch")
    assert [lot["similarity"] for lot in with_words["results"]] != [lot["similarity"] for lot in alone["results"]]
    note = home / "note.jpg"
    note.write_text("no photo")
    assert "no readable picture" in refusal(home, "search", "--photo", str(note))
    assert answer(home, "export", "image")["added"] is False
