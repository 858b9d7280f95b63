"""`gavel train` in rounds and `gavel mine`, on a catalogue and towers that are small."""

import json
from pathlib import Path
from typing import Any

import pytest
import xgboost
from commands_in_process import gavel, small_workspace
from rich.console import Console
from small_tower import save_small_encoder
from typer.testing import CliRunner

from catalog.synthetic import generate
from gavel.cli.main import app
from retrieval.errors import FeatureMismatch, InvalidInput

STAGES = """
- {name: in-batch, epochs: 1, random_negatives: 1}
- {name: mined, epochs: 1, hard_negatives: 1, random_negatives: 1}
"""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """A home with a catalogue; the compact preset is a small one here."""
    home = tmp_path_factory.mktemp("home")
    generate(home / "catalogs" / "synthetic", lots=60, photo_size=8)
    (home / "stages.yaml").write_text(STAGES)
    with small_workspace(home):
        yield home


@pytest.fixture(scope="module")
def run(home: Path) -> Any:
    return gavel("train", "--rounds", 1, "--text-only", "--batch-size", 32, "--stages", home / "stages.yaml", "--per-query", 3)


def test_the_best_tower_of_the_rounds_is_the_one_that_embed_index_and_search_go_on_with(run: Any, home: Path) -> None:
    assert [made["stage"] for made in run["rounds"]] == ["in-batch", "mined"]
    assert run["rounds"][1]["mining"]["negatives"] > 0
    assert gavel("embed")["tower_id"] == run["tower_id"]
    assert gavel("index")["tower_id"] == run["tower_id"]
    assert len(gavel("search", "red vase", "--no-rerank")["results"]) == 10


def test_negatives_are_mined_from_the_live_index_and_trained_on(run: Any, home: Path) -> None:
    gavel("embed")
    gavel("index")
    mined = gavel("mine", "--per-query", 4, "--depth", 30, "--exact")
    assert (mined["tower_id"], mined["reused"]) == (run["tower_id"], False)
    assert gavel("mine", "--per-query", 4, "--depth", 30, "--exact")["reused"]
    options = ["--text-only", "--batch-size", 32, "--stages", home / "stages.yaml", "--negatives", mined["file"]]
    made = gavel("train", *options)
    record = json.loads((Path(made["tower"]) / "training.json").read_text())
    assert record["start_from"] == run["tower_id"], "the tower that they were mined with"
    assert record["stage"] == "mined"


def test_flags_that_contradict_each_other_are_refused(home: Path) -> None:
    with pytest.raises(InvalidInput, match="--negatives"):
        gavel("train", "--rounds", 1, "--start-from", "abc")
    with pytest.raises(InvalidInput, match="no tower 'abc'"):
        gavel("train", "--start-from", "abc")
    with pytest.raises(InvalidInput, match="per_query"):
        gavel("mine", "--per-query", 50, "--depth", 10)


def test_a_table_tells_round_from_round(run: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gavel.workspace.console.console", Console(width=160))
    arguments = ["train", "--rounds", "1", "--text-only", "--batch-size", "32", "--stages", str(home / "stages.yaml")]
    shown = CliRunner().invoke(app, [*arguments, "--per-query", "3"])
    assert shown.exit_code == 0, shown.exception
    for made in run["rounds"]:
        assert made["tower_id"][:6] in shown.stdout


def test_a_sentence_encoder_is_adapted_and_goes_on_to_embed_and_search(home: Path, tmp_path: Path) -> None:
    encoder = save_small_encoder(tmp_path / "encoder", ["red vase", "a blue watch in its box"])
    made = gavel("adapt", "--model", encoder, "--steps", 3)
    assert made["lots"] == 60
    assert "→" in made["val ndcg_at_10"]
    assert gavel("embed")["tower_id"] == made["tower_id"]


def test_a_preset_with_a_hidden_layer_is_not_adapted() -> None:
    with pytest.raises(InvalidInput, match="no hidden layer"):
        gavel("adapt", "--model", "compact")


@pytest.mark.parametrize(("labels", "learnt"), [((), "clicks"), (("--labels", "judgments"), "judgments")])
def test_a_reranker_is_trained_on_clicks_or_judgments_and_takes_the_place_of_one_of_older_features(
    labels: tuple[str, ...], learnt: str, run: Any, home: Path
) -> None:
    gavel("embed")
    gavel("index")
    trained = gavel("train", "--reranker", *labels)
    assert trained["labels"] == learnt
    older = xgboost.Booster()
    older.load_model(trained["path"])
    older.set_attr(features=json.dumps(["colour"]), features_hash="0" * 12)
    older.save_model(trained["path"])
    with pytest.raises(FeatureMismatch, match="train it again with `gavel train reranker`"):
        gavel("search", "red vase")
    gavel("train", "--reranker", *labels)
    assert gavel("search", "red vase")["reranked"]
