"""`gavel index`: what it tells of a release, and what it does not make live."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_releases import OTHER_TOWER, lots, of_other_tower, write_release
from typer.testing import CliRunner

from gavel.cli.index import index_app
from retrieval.contracts.documents import Deletion
from retrieval.contracts.items import latest_version
from retrieval.contracts.release import INDEX_REJECTS_FILE
from retrieval.errors import ReleaseError


def gavel_index(*arguments):
    run = CliRunner().invoke(index_app, [str(argument) for argument in arguments])
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run.stdout


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """The folder of a home's releases."""
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    return tmp_path / "embeddings"


def test_what_became_of_every_item_is_told(releases):
    bad = replace(lots(31)[30], vector=np.zeros(13, np.float32))
    write_release(releases / "night", [*lots(30), bad, Deletion("lot-3", latest_version()), lots(4)[3]])
    told = json.loads(gavel_index("night", "--json"))
    assert {name: told[name] for name in ("indexed", "stale", "refused", "withdrawn", "lots")} == {
        "indexed": 30,
        "stale": 1,
        "refused": 1,
        "withdrawn": 1,
        "lots": 29,
    }
    assert f"1 ({releases / 'night' / INDEX_REJECTS_FILE})" in gavel_index("night").replace("\n", "")


def test_refused_items_past_the_share_are_an_error_unless_it_is_forced(releases):
    bad = [replace(entry, vector=np.zeros(13, np.float32)) for entry in lots(20)]
    write_release(releases / "night", [*bad[:4], *lots(20)[4:]])
    with pytest.raises(ReleaseError, match=r"4 of the 20 items of release release were refused: .* `gavel index --force`"):
        gavel_index("night")
    assert json.loads(gavel_index("night", "--force", "--json"))["lots"] == 16


def test_a_release_of_another_tower_with_one_lot_takes_the_shop_only_if_it_is_forced(releases):
    write_release(releases / "shop", lots(30))
    shop = json.loads(gavel_index("shop", "--json"))
    write_release(releases / "one", [of_other_tower(lots(1)[0])], tower_id=OTHER_TOWER)
    with pytest.raises(ReleaseError, match=rf"has 1 lots, the live index {shop['index']} of tower \w+ has 30; below 50%"):
        gavel_index("one")
    assert json.loads(gavel_index("shop", "--json"))["index"] == shop["index"]
    assert json.loads(gavel_index("one", "--force", "--json"))["tower_id"] == OTHER_TOWER


def test_a_rebuild_that_has_far_fewer_lots_than_the_live_index_is_forced(releases):
    for name, count in (("shop", 30), ("one", 1)):
        write_release(releases / name, lots(count))
    gavel_index("shop")
    (releases / "shop" / "manifest.json").unlink()
    with pytest.raises(ReleaseError, match=r"1 open lots\b.*--force"):
        gavel_index("--rebuild")
    assert json.loads(gavel_index("--rebuild", "--force", "--json"))["lots"] == 1
