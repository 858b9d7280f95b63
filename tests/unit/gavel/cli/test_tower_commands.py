"""`gavel towers show`, `gavel encode` and `gavel sanity` on a small tower."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from minilm import minilm_folder
from numpy.typing import NDArray
from small_tower import save_small_item_tower
from typer.testing import CliRunner

from gavel.cli.main import app
from gavel.workspace import wiring
from models.artefacts.item_encoder import ItemEncoder
from retrieval.errors import IndexMissing, InvalidInput, InvalidQuery


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_item_tower(tmp_path_factory.mktemp("home") / "towers")


class QueryTower:
    """Encodes queries with the item tower, because the export of a query tower takes long."""

    def __init__(self, folder: Path) -> None:
        self.tower_id, self._items = folder.name, ItemEncoder.load(folder)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._items.encode(texts, [None] * len(texts))


@pytest.fixture(autouse=True)
def workspace(tower: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "load_encoder", lambda settings, tower_id: QueryTower(tower))
    monkeypatch.setenv("GAVEL_HOME", str(tower.parents[1]))
    monkeypatch.setenv("COLUMNS", "200")


def gavel(*arguments: str, status: int = 0) -> str:
    run = CliRunner().invoke(app, arguments)
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    assert run.exit_code == status, run.output
    return run.stdout


def asked(*arguments: str, status: int = 0) -> Any:
    return json.loads(gavel(*arguments, "--json", status=status))


def test_a_tower_shows_shapes_norms_and_cosines_of_both_its_towers(tower: Path) -> None:
    shown = asked("towers", "show", "--text", "red vase", "--text", "gold watch")
    assert (shown["tower_id"], shown["dimensions"][0], shown["examples"]) == (tower.name, 16, ["red vase", "gold watch"])
    vectors = QueryTower(tower).encode(["red vase", "gold watch"])
    assert set(shown["towers"]) == {"query", "item"}
    for encoded in shown["towers"].values():
        assert (encoded["shape"], encoded["dtype"]) == ([2, 16], "float32")
        assert encoded["norms"] == pytest.approx([1, 1], abs=1e-5)
        assert [encoded["cosines"][n][n] for n in (0, 1)] == pytest.approx([1, 1], abs=1e-4)
    assert shown["towers"]["query"]["cosines"][0][1] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
    assert len(shown["query_to_item"]) == len(shown["query_to_item"][0]) == 2


def test_the_same_is_shown_to_people(tower: Path) -> None:
    text = gavel("towers", "show", tower.name)
    for words in (tower.name, "query tower: 3 texts -> (3, 16) float32", "item tower: 3 texts", "gold ring", "1.0000"):
        assert words in text


def test_an_unknown_tower_is_named() -> None:
    with pytest.raises(Exception, match="nix"):
        gavel("towers", "show", "nix")


def test_a_query_is_encoded_as_the_api_answers(tower: Path) -> None:
    encoded = asked("encode", "red vase", "--tower", tower.name)
    assert (encoded["dimension"], encoded["tower_id"]) == (16, tower.name)
    assert encoded["query_embedding"] == pytest.approx(QueryTower(tower).encode(["red vase"])[0].tolist())
    assert tower.name in gavel("encode", "red vase", "--tower", tower.name)


@pytest.mark.parametrize(("query", "words"), [("  ", "the query is empty"), ("x" * 600, "600 characters")])
def test_a_query_that_no_search_takes_is_refused(query: str, words: str, tower: Path) -> None:
    with pytest.raises(InvalidQuery, match=words):
        gavel("encode", query, "--tower", tower.name)


def test_without_an_index_or_a_tower_there_is_nothing_to_encode_with() -> None:
    with pytest.raises(IndexMissing):
        gavel("encode", "red vase")


def test_sanity_is_an_exit_status_and_says_what_it_asked_and_what_came_back(tmp_path: Path) -> None:
    checks = tmp_path / "checks.toml"
    pair = '[[pairs]]\nabout = "{about}"\nfirst = ["red vase"]\nsecond = ["{second}"]\nabove = {bound}\n'
    checks.write_text(pair.format(about="the same", second="Red  vase", bound=0.99))
    report = asked("sanity", "--checks", str(checks))
    assert report["holds"] is True
    assert report["checks"][0]["answer"] == pytest.approx(1, abs=1e-3)
    checks.write_text(checks.read_text() + pair.format(about="no two are", second="gold watch", bound=0.9999))
    report = asked("sanity", "--checks", str(checks), status=1)
    assert (report["holds"], [check["holds"] for check in report["checks"]]) == (False, [True, False])
    text = gavel("sanity", "--checks", str(checks), status=1)
    for words in ("no two are", "red vase · gold watch", "above 0.9999", "1 of 2 checks hold"):
        assert words in text


def test_the_english_encoder_holds_in_english_and_not_across_languages() -> None:
    report = asked("sanity", "--model", str(minilm_folder()), status=1)
    cosines = {tuple(check["request"]): check for check in report["checks"] if check["kind"] == "pair"}
    assert cosines["gold ring", "gold necklace"]["holds"]
    assert cosines["gold ring", "synthetic engine oil"]["holds"]
    assert not cosines["gold ring", "قلادة من الذهب"]["holds"]


def test_a_tower_and_an_encoder_at_once_are_refused(tower: Path) -> None:
    with pytest.raises(InvalidInput, match="not both"):
        gavel("sanity", "--tower", tower.name, "--model", "minilm")
