"""The loop of feedback: searches are served, buyers' acts are posted, the re-ranker learns from them, the order changes.

The buyers are simulated: they want what is cheap, and seldom look far down.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from commands_in_process import gavel
from lots import WORDS
from rich.console import Console
from small_tower import small_config
from typer.testing import CliRunner

from catalog.event_files import read_events
from gavel.cli.main import app
from gavel.cli.serve import page_and_api
from gavel.web.http_server import served_in_thread
from gavel.workspace.folders import Workspace
from gavel.workspace.pipeline import _without_ranker
from gavel.workspace.wiring import search_service
from models.towers.config import PRESETS
from processing.ranking.impressions import ndcg
from processing.ranking.train_from_events import MIN_TOUCHED, train_on_events
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput
from retrieval.search.service import SearchRequest

SHOWN = 15
FALL = 1.0  # a lot at position p is looked at with probability 1 / p
WANTED, NOT_WANTED = 0.8, 0.2  # chance of a click on a lot that is looked at
LISTS_A_QUERY = 45
FILLERS = ("signed", "with its box", "from an estate, some wear", "tested and working, no box, seen in a museum once")


def lots() -> list[dict[str, Any]]:
    """Twenty lots a word, of texts that keywords and vectors rank differently; seven are cheap."""
    rng = np.random.default_rng(5)
    made = []
    for word in WORDS:
        cheap = set(rng.choice(20, 7, replace=False).tolist())
        for n in range(20):
            text = {"title": f"{word} {WORDS[int(rng.integers(len(WORDS)))]} no. {n}", "description": FILLERS[int(rng.integers(4))]}
            price = float(rng.uniform(5, 20) if n in cheap else rng.uniform(100, 900))
            made.append({"item_id": f"{word}-{n}", **text, "price": price})
    return made


LOTS = {row["item_id"]: row for row in lots()}


def is_wanted(item_id: str) -> bool:
    return bool(LOTS[item_id]["price"] < 50)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with the lots in its index and the events of some hundred lists that were served from it."""
    folder = tmp_path_factory.mktemp("loop")
    (folder / "lots.ndjson").write_text("".join(f"{json.dumps(row)}\n" for row in LOTS.values()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAVEL_HOME", str(folder / "home"))
        patch.delenv("GAVEL_TOWERS_URI", raising=False)
        patch.setitem(PRESETS, "compact", small_config())
        gavel("catalog", "generate", "--lots", 60)
        gavel("train", "--text-only", "--batch-size", 32, "--epochs", 1)
        gavel("embed", folder / "lots.ndjson")
        gavel("index")
        with serving(Settings.from_env()) as url:
            buyers_at(url)
        yield Workspace(Settings.from_env())


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The URL of what `gavel serve` serves."""
    api, _ = page_and_api(settings, [], "")
    with served_in_thread(api) as url:
        yield url


def buyers_at(url: str) -> None:
    """Each session searches for one word, in one of the page's ways, and tells what it saw and clicked."""
    rng = np.random.default_rng(11)
    with httpx.Client(base_url=url) as client:
        for number in range(LISTS_A_QUERY):
            for word in WORDS:
                mode = ("hybrid", "semantic", "keyword")[number % 3]
                answer = client.get("/search", params={"q": word, "k": SHOWN, "mode": mode}).json()
                found, now = answer["results"], datetime.now(UTC).isoformat()
                proofs = {lot["item_id"]: {"proof": lot["proof"], "timestamp": now} for lot in found}
                acts = [{"event_type": "impression", "item_id": lot["item_id"], "position": lot["rank"]} for lot in found]
                for lot in found:
                    looked_at = rng.random() < lot["rank"] ** -FALL
                    if looked_at and rng.random() < (WANTED if is_wanted(lot["item_id"]) else NOT_WANTED):
                        acts.append({"event_type": "click", "item_id": lot["item_id"], "position": lot["rank"]})
                ids = {"query_id": answer["query_id"], "session_id": f"session-{number}-{word}"}
                body = {**ids, "query": word, "shown_at": now}
                told = client.post("/events", json={**body, "events": [{**act, **proofs[act["item_id"]]} for act in acts]})
                assert (told.status_code, told.json()["served"]) == (202, len(acts)), told.text


def invent_lists_at(url: str) -> None:
    """Lists that nobody was shown: the dearest lots first and all of them bought, under ids and proofs of lists that there are."""
    with httpx.Client(base_url=url) as client:
        for number in range(28):
            for word in WORDS:
                real = client.get("/search", params={"q": word, "k": SHOWN}).json()
                dear = sorted((i for i in LOTS if i.startswith(f"{word}-")), key=lambda i: -LOTS[i]["price"])[:SHOWN]
                now = datetime.now(UTC).isoformat()
                acts = [
                    {"event_type": "purchase" if place < 8 else "impression", "item_id": item_id, "position": SHOWN - place}
                    | {"timestamp": now, "proof": real["results"][place]["proof"]}
                    for place, item_id in enumerate(dear)
                ]
                ids = {"query_id": real["query_id"], "session_id": f"nobody-{number}-{word}"}
                told = client.post("/events", json={**ids, "query": word, "shown_at": now, "events": acts})
                assert told.status_code == 202, told.text


def wanted_at(workspace: Workspace) -> float:
    """nDCG@10 of what is really wanted, as `gavel search` orders it, over all words."""
    service = search_service(workspace.settings)
    orders = [[found.item_id for found in service.search(SearchRequest(word, 20)).results] for word in WORDS]
    gains = [np.array([float(is_wanted(item_id)) for item_id in order], dtype=np.float32) for order in orders]
    return float(np.mean([ndcg(-np.arange(len(gain), dtype=np.float32), gain) for gain in gains]))


def test_clicks_change_the_order_of_a_search_in_the_way_they_say(workspace: Workspace) -> None:
    before = wanted_at(workspace)
    report = gavel("train", "reranker", "--from-events", workspace.events)
    assert (report["saved"], report["before"], report["rejects"], report["not_found"]) == (True, "first stage", 0, 0)
    assert report["lists"] == report["sessions"] == LISTS_A_QUERY * len(WORDS)
    assert report["held_out"]["new"] > report["held_out"]["base"]
    assert report["position_bias"] == pytest.approx(FALL, abs=0.3)
    found = gavel("search", "gold")
    assert found["reranked"]
    after = wanted_at(workspace)
    print(f"\nnDCG@10 of what is wanted: {before:.3f} of the first stage, {after:.3f} re-ranked; bias {report['position_bias']}")
    assert after > before + 0.2


def test_a_reranker_that_is_no_better_is_not_replaced_unless_that_is_forced(workspace: Workspace) -> None:
    first = Path(gavel("train", "reranker", "--from-events", workspace.events, "--force")["path"]).read_bytes()
    again = gavel("train", "reranker", "--from-events", workspace.events)
    assert (again["saved"], again["before"], again["held_out"]["difference"]) == (False, "re-ranker", 0.0)
    assert "--force" in again["reason"]
    assert Path(again["path"]).read_bytes() == first
    assert gavel("train", "reranker", "--from-events", workspace.events, "--force")["saved"]


def test_freed_of_their_positions_clicks_teach_more_of_what_is_wanted_than_as_they_fell(workspace: Workspace) -> None:
    log = read_events([workspace.events])
    service, path = _without_ranker(workspace)
    quality = {}
    for debias in (True, False):
        train_on_events(log, service, path, debias=debias, force=True)
        quality[debias] = wanted_at(workspace)
    print(f"\nnDCG@10 of what is wanted: {quality[True]:.3f} freed of positions, {quality[False]:.3f} as clicks fell")
    assert quality[True] > quality[False] + 0.02


def test_a_few_events_are_refused_with_the_number_that_is_needed(workspace: Workspace, tmp_path: Path) -> None:
    (log,) = workspace.events.iterdir()
    (tmp_path / "few.ndjson").write_text("".join(log.read_text().splitlines(keepends=True)[:40]))
    with pytest.raises(InvalidInput, match=f"at least {MIN_TOUCHED} such lists"):
        gavel("train", "reranker", "--from-events", tmp_path / "few.ndjson")


def test_what_a_person_reads_says_the_same_and_bad_lines_lie_beside_the_booster(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gavel.workspace.console.console", Console(width=160))
    (tmp_path / "bad.ndjson").write_text("no event\n")
    arguments = ["train", "reranker", "--from-events", str(workspace.events), "--from-events", str(tmp_path), "--force"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.exception
    for words in ("held-out queries", "nDCG@10, new", "95 % interval", "position_bias", "unproven"):
        assert words in shown.stdout
    (rejects,) = workspace.settings.home.glob("rankers/*.rejects.ndjson")
    assert json.loads(rejects.read_text())["source"] == str(tmp_path / "bad.ndjson")


def test_336_invented_lists_teach_nothing(workspace: Workspace) -> None:
    gavel("train", "reranker", "--from-events", workspace.events, "--force")
    before = wanted_at(workspace)
    with serving(workspace.settings) as url:
        invent_lists_at(url)
    report = gavel("train", "reranker", "--from-events", workspace.events, "--force")
    assert report["lists"] - LISTS_A_QUERY * len(WORDS) <= 336 * 0.05, "a lot may stand by chance where its proof says"
    assert report["unproven"] > 0.9 * 336 * SHOWN
    assert wanted_at(workspace) > before - 0.02
