"""Users and items from tables to lots: generate, train beside popularity, index, recommend by command and over HTTP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands_in_process import gavel
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from catalog.user_items import read_user_items
from gavel.workspace.folders import Workspace
from gavel.workspace.users_items import retrieve_body
from gavel.workspace.wiring import open_store
from lambdas.query_api.app import create_app
from models.training.feature_files import load_feature_towers
from retrieval.config.settings import Settings
from retrieval.contracts.release import load_release
from retrieval.errors import InvalidInput, TowerError
from retrieval.search.service import SearchModels, SearchService


class Unused:
    """A query encoder that must encode nothing."""

    def __init__(self, tower_id: str) -> None:
        self.tower_id = tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise AssertionError(f"{texts} were encoded")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(home: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAVEL_HOME", str(home))
        sizes = ("--users", "200", "--items", "300", "--interactions", "20")
        assert gavel("catalog", "generate", "users-items", *sizes)["interactions"] == 4000
        answer = gavel("train", "users-items", "--epochs", "6", "--batch-size", "128", "--learning-rate", "0.02")
        gavel("index")
        return answer


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAVEL_HOME", str(home))


def test_training_reports_recall_beside_popularity_and_what_it_read(trained: dict[str, Any]) -> None:
    assert trained["counts"] == {"users": 200, "items": 300, "train": 2800, "val": 400, "test": 800}
    assert trained["recall"]["towers"]["recall@100"] > trained["recall"]["popularity"]["recall@100"]
    assert set(trained["recall"]["towers"]) == set(trained["targets"]) == {"recall@10", "recall@100", "recall@1000"}
    assert trained["recall"]["towers"]["recall@1000"] == 1.0
    assert trained["columns"]["items"] == ["category", "brand", "item_id", "price", "seller_rating", "listed_at"]


def test_every_epoch_has_metrics_of_its_batches_and_the_best_by_val_is_saved(trained: dict[str, Any]) -> None:
    epochs = trained["epochs"]
    assert len(epochs) == 7
    assert 0 < epochs[1]["in_batch_accuracy"] < epochs[1]["in_batch_recall_at_10"] < epochs[-1]["in_batch_recall_at_10"]
    assert epochs[trained["best_epoch"]]["metrics"] == max(epoch["metrics"] for epoch in epochs)


def test_the_vectors_of_the_items_are_a_release(home: Path, trained: dict[str, Any]) -> None:
    manifest = load_release(home / "embeddings" / trained["release_id"])
    assert (manifest.lots, manifest.dimensions, manifest.tower_id) == (300, 64, trained["tower_id"])
    assert open_store(Settings.from_env()).live().count() == 300


def test_a_user_gets_new_lots_in_the_order_of_the_towers(home: Path, trained: dict[str, Any]) -> None:
    tables = read_user_items(home / "users-items" / "synthetic")
    user_id, ids = tables.users.ids[5], np.array(tables.items.ids)
    towers = load_feature_towers(Path(trained["tower"]))
    scores = towers.encode_items(tables.items.rows) @ towers.encode_users([tables.users.rows[5]])[0]
    taken = tables.pairs[tables.pairs[:, 0] == 5, 1]
    best = [item for item in np.argsort(-scores) if item not in taken][:10]
    answer = gavel("recommend", user_id, "-k", "10")
    assert [result["item_id"] for result in answer["results"]] == ids[best].tolist()
    all_lots = gavel("recommend", user_id, "-k", "100", "--include-taken")
    assert {ids[item] for item in taken} & {result["item_id"] for result in all_lots["results"]}


def test_retrieve_takes_the_body_that_the_command_prints(trained: dict[str, Any]) -> None:
    body = gavel("recommend", "buyer-00005", "--vector")
    assert body == retrieve_body(Workspace(Settings.from_env()), "buyer-00005", 10)
    service = SearchService(open_store(Settings.from_env()), SearchModels(Unused))
    with TestClient(create_app(lambda: service)) as client:
        answer = client.post("/retrieve", json=body).json()
    expected = gavel("recommend", "buyer-00005")
    assert [result["item_id"] for result in answer["results"]] == [result["item_id"] for result in expected["results"]]


def test_strangers_and_foreign_options_are_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no user 'nobody'.*'buyer-00000'"):
        gavel("recommend", "nobody")
    with pytest.raises(InvalidInput, match="--users belongs to"):
        gavel("catalog", "generate", "--users", "5")
    with pytest.raises(InvalidInput, match="--split belongs to"):
        gavel("train", "--split", "time")
    with pytest.raises(InvalidInput, match="cannot be split by 'weather'"):
        gavel("train", "users-items", "--split", "weather")
    with pytest.raises(InvalidInput, match="holds no users"):
        gavel("train", "users-items", "--catalog", tmp_path)


def test_damaged_towers_are_not_used(trained: dict[str, Any], tmp_path: Path) -> None:
    for name in ("feature_towers.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((Path(trained["tower"]) / name).read_bytes())
    with (tmp_path / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(TowerError, match=r"not the file that was saved.*gavel train users-items"):
        load_feature_towers(tmp_path)
