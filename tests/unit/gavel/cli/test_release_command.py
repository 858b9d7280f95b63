"""`gavel release`: what there is, what was refused, and how to go back from a bad tower, release or re-ranker."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lots import TOWER_ID, WordEncoder, lot
from small_releases import OTHER_TOWER, lots, of_other_tower, write_release
from trained_booster import trained_booster
from typer.testing import CliRunner

from catalog.folder import Qrels, SplitData, write_catalog, write_items
from gavel.cli.main import app
from gavel.workspace import pipeline, wiring
from gavel.workspace.folders import Workspace
from retrieval.config.settings import Settings
from retrieval.contracts.item_states import StateUpdate
from retrieval.contracts.items import Item, epoch_ms
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.index.filters import utc_now
from retrieval.search.service import SearchRequest


def gavel(*arguments):
    run = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run.stdout


def answer(*arguments):
    return json.loads(gavel(*arguments, "--json"))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with two releases of one tower and one of another; the newest is indexed last."""
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    for module in (wiring, pipeline):
        monkeypatch.setattr(module, "load_encoder", lambda settings, tower_id: WordEncoder(tower_id))
    workspace = Workspace(Settings(home=tmp_path))
    write_release(workspace.embeddings / "monday", lots(20))
    time.sleep(0.01)  # releases are ordered by the times of their manifests
    moment = utc_now().replace(microsecond=0)
    bad = [lot("lot-0", "ruined", updated_at=moment, current_price=1.0), lot("new", "red vase", updated_at=moment)]
    write_release(workspace.embeddings / "tuesday", bad)
    time.sleep(0.01)
    write_release(workspace.embeddings / "other", [of_other_tower(entry) for entry in lots(20)], tower_id=OTHER_TOWER)
    return workspace


def open_store(workspace):
    return wiring.open_store(workspace.settings)


def test_indices_and_releases_are_listed_with_what_is_live_and_what_was_before(workspace):
    first, second = answer("index", "monday")["index"], answer("index", "other")["index"]
    listed = answer("release", "list")
    assert [(one["name"], one["tower_id"], one["live"], one["previous"]) for one in listed["indices"]] == [
        (second, OTHER_TOWER, True, False),
        (first, TOWER_ID, False, True),
    ]
    assert all(one["lots"] == one["open_lots"] == 20 and one["bytes"] > 0 and one["created"] for one in listed["indices"])
    assert {one["release_id"]: one["index"] for one in listed["releases"]} == {"monday": first, "tuesday": None, "other": second}
    table = gavel("release", "list")
    assert first in table.replace("\n", "")
    assert "not indexed" in table


def test_status_tells_the_age_of_the_newest_row_and_why_lots_were_refused(workspace):
    broken = replace(lots(31)[30], vector=np.zeros(13, np.float32))
    write_release(workspace.embeddings / "monday", [*lots(20), broken])
    gavel("index", "monday")
    assert answer("release", "status")["lag_s"] is None
    gavel("index", "tuesday")
    gavel("index", "monday")
    status = answer("release", "status")
    assert (status["lots"], status["open_lots"], status["releases"]) == (21, 21, ["monday", "tuesday"])
    assert 0 <= status["lag_s"] < 600
    assert status["last_indexing"]["counts"] == {"indexed": 19, "stale": 1, "refused": 1, "withdrawn": 0}
    (reject,) = status["last_indexing"]["rejects"]
    assert reject["item_id"] == "lot-30"
    assert reject["reason"] in gavel("release", "status")


def test_a_bad_tower_goes_back_to_the_index_before_and_a_running_service_follows(workspace, monkeypatch):
    monkeypatch.setattr("retrieval.search.live_index.LIVE_CHECK_S", 0.0)
    first, second = answer("index", "monday")["index"], answer("index", "other")["index"]
    service = wiring.search_service(replace(workspace.settings, cached_answers_s=0))
    assert service.search(SearchRequest("red vase")).tower_id == OTHER_TOWER
    assert answer("release", "rollback") == {"index": first, "tower_id": TOWER_ID, "previous": second, "lots": 20}
    assert service.search(SearchRequest("red vase")).tower_id == TOWER_ID
    assert answer("release", "rollback", second)["index"] == second  # by its name
    assert service.search(SearchRequest("red vase")).tower_id == OTHER_TOWER


def test_a_bad_release_of_the_same_tower_is_undone_and_states_stay(workspace):
    gavel("index", "monday")
    before = answer("index", "tuesday")["index"]
    state = StateUpdate("lot-1", epoch_ms(utc_now()), {"current_price": 77.0})
    open_store(workspace).live().update_states([state])
    back = answer("release", "rollback", "monday")
    assert (back["left_out"], back["lots"], back["previous"]) == (["tuesday"], 20, before)
    live = open_store(workspace).live()
    items = {item.item_id: item.document for item in live.fetch(["lot-0", "lot-1", "new"])}
    assert items.keys() == {"lot-0", "lot-1"}
    assert items["lot-0"]["title"] == "red vase 0"
    assert items["lot-1"]["current_price"] == 77.0
    assert answer("index", "--rebuild")["releases"] == ["monday"]  # a rebuild does not bring it back
    (state_of,) = [one["rolled_back"] for one in answer("release", "list")["releases"] if one["release_id"] == "tuesday"]
    assert state_of
    gavel("index", "tuesday")  # but its name does
    assert open_store(workspace).live().fetch(["new"])
    assert answer("index", "--rebuild")["releases"] == ["monday", "tuesday"]


def test_what_cannot_be_gone_back_to_is_refused_with_what_there_is(workspace):
    first = answer("index", "monday")["index"]
    with pytest.raises(InvalidInput, match=rf"no index was live before {first}.*gavel release list"):
        gavel("release", "rollback")
    with pytest.raises(InvalidInput, match=rf"'nothing' is no index \(there are: {first}\), and there is no release 'nothing'"):
        gavel("release", "rollback", "nothing")
    with pytest.raises(InvalidInput, match="no release of its tower is newer than tuesday"):
        gavel("release", "rollback", "tuesday")


def test_a_re_ranker_and_the_one_before_change_places_and_a_running_service_follows(workspace, monkeypatch):
    monkeypatch.setattr("retrieval.search.live_index.LIVE_CHECK_S", 0.0)
    gavel("index", "monday")
    path = workspace.ranker(TOWER_ID)
    with pytest.raises(InvalidInput, match="no re-ranker to go back from"):
        gavel("release", "rollback", "--reranker")
    trained_booster(2).save(path, TOWER_ID)
    good = path.read_bytes()
    trained_booster(20).save(path, TOWER_ID)
    bad = path.read_bytes()
    trained_booster(20).save(path, TOWER_ID)  # the same again is no new one
    service = wiring.search_service(workspace.settings)
    present = service.live().ranker
    assert service.live().ranker is present
    gavel("release", "rollback", "--reranker")
    assert path.read_bytes() == good
    assert service.live().ranker not in (present, None)
    gavel("release", "rollback", "--reranker")
    assert path.read_bytes() == bad


def test_the_first_re_ranker_goes_back_to_none(workspace):
    gavel("index", "monday")
    trained_booster(2).save(workspace.ranker(TOWER_ID), TOWER_ID)
    assert answer("release", "rollback", "--reranker")["reranker"] == "none; first-stage order"
    assert not workspace.ranker(TOWER_ID).exists()
    gavel("release", "rollback", "--reranker")
    assert workspace.ranker(TOWER_ID).exists()


def test_only_an_index_that_is_not_live_is_dropped_and_not_without_yes(workspace):
    first, second = answer("index", "monday")["index"], answer("index", "other")["index"]
    with pytest.raises(InvalidInput, match=f"index {second} is live; .*gavel release rollback"):
        gavel("release", "drop", second, "--yes")
    with pytest.raises(InvalidInput, match=f"add --yes to delete {first}"):
        gavel("release", "drop", first)
    assert answer("release", "drop", first, "--yes") == {"index": first, "lots": 20}
    assert open_store(workspace).names() == [second]


def test_old_indices_are_deleted_by_the_setting(workspace, monkeypatch):
    monkeypatch.setenv("GAVEL_OLD_INDICES", "1")
    names = [answer("index", "--rebuild", "monday")["index"] for _ in range(3)]
    assert open_store(workspace).names() == names[:0:-1]


def test_an_index_of_lower_quality_on_judged_queries_stays_out_unless_it_is_forced(workspace, monkeypatch):
    judge(workspace.catalogs)
    gavel("index", "monday")
    blank = [of_other_tower(replace(entry, document={**entry.document, "title": "x", "text": "x"})) for entry in lots(20)]
    shuffled = [replace(entry, vector=blank[(place + 7) % 20].vector) for place, entry in enumerate(blank)]
    write_release(workspace.embeddings / "other", shuffled, tower_id=OTHER_TOWER)
    with pytest.raises(ReleaseError, match=r"has nDCG@10 0\.\d+ on 20 val queries .* 70% of it is the least .* Add --force"):
        gavel("index", "other")
    assert open_store(workspace).live().tower_id == TOWER_ID
    monkeypatch.setenv("GAVEL_MIN_QUALITY", "0")
    gavel("index", "other")
    assert open_store(workspace).live().tower_id == OTHER_TOWER


def judge(catalogs: Path) -> None:
    """Write a catalogue whose 20 val queries each have one lot of the release monday as their answer."""
    folder = catalogs / "shop"
    rows = [Item(entry.item_id, entry.document["title"]) for entry in lots(20)]
    write_items(folder / "items" / "lots.parquet", rows)
    queries = {f"q{place}": row.title for place, row in enumerate(rows)}
    grades = {f"q{place}": {row.item_id: 3 for row in rows[place % 4 :: 4]} for place in range(20)}
    splits = {"val": SplitData(["lots.parquet"], qrels=Qrels(queries, grades))}
    write_catalog(folder, name="shop", seed=0, splits=splits, example_queries=[])
