import csv
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from catalog.folder import CatalogFolder
from gavel.cli.catalog import catalog_app
from retrieval.errors import InvalidInput

STORE = [
    {"id": str(n), "name": f"Fine {kind}", "description": f"one of many {kind}s", "category": "home", "style": kind, "price": 5}
    for n, kind in enumerate(["lamp", "table", "sofa", "belt"] * 5)
]


def gavel(*arguments: str | Path):
    run = CliRunner().invoke(catalog_app, list(map(str, arguments)))
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path / "home"))
    (tmp_path / "products.yaml").write_text(yaml.safe_dump([*STORE, {"id": "20"}]))
    return tmp_path


def test_a_data_set_becomes_a_catalogue_in_the_home_and_its_counts_are_told(store):
    told = json.loads(gavel("prepare", "demo-store", "--data", store, "--json").stdout)
    made = CatalogFolder(store / "home/catalogs/demo-store")
    assert told["catalog"] == str(made.path)
    assert (told["items"], told["rejects"]) == (20, 1)
    for split in made.splits:
        qrels = made.qrels(split)
        assert told["splits"][split] == {
            "queries": len(qrels.queries),
            "judgments": sum(map(len, qrels.grades.values())),
            "pairs": len(made.pairs(split)),
            "clicks": 0,
        }


def test_without_json_a_table_has_a_row_a_split(store):
    shown = gavel("prepare", "demo-store", "--data", store, "--out", store / "elsewhere").stdout
    assert all(word in shown for word in ("train", "val", "test", "rejects"))
    assert CatalogFolder(store / "elsewhere").name == "demo-store"


def test_a_click_log_is_prepared_over_its_items(store):
    (store / "items.csv").write_text("item_id,title\n1,Vase\n2,Lamp\n")
    with (store / "log.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["query", "item_id", "position", "event_type", "buyer_id", "timestamp"])
        table.writerows([["vase", "1", 1, "view", "ann", "2026-11-21"], ["vase", "9", 2, "", "ann", "2026-11-21"]])
    told = json.loads(gavel("prepare", "clicks", "--data", store / "log.csv", "--items", store / "items.csv", "--json").stdout)
    assert (told["items"], told["rejects"]) == (2, 1)
    assert sum(counts["clicks"] for counts in told["splits"].values()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ebay", "--data", "."), "there is no reader for 'ebay'; there are items, esci, chorus"),
        (("emoji", "--data", "nowhere"), "nowhere does not exist; --data names"),
        (("emoji", "--data", ".", "--fold", "1"), "--fold belongs to `gavel catalog prepare chorus`"),
        (("chorus", "--data", ".", "--locale", "es"), "--locale belongs to `gavel catalog prepare esci`"),
        (("clicks", "--data", "."), "a click log needs the items"),
        (("esci", "--data", "."), r"expected shopping_queries_dataset_examples\.parquet"),
        (("esci", "--data", ".", "--version", "tiny"), "no version 'tiny'; use small or large"),
        (("chorus", "--data", "."), r"expected products_1\.json\.zip"),
        (("grocery", "--data", "."), r"expected dataset/classes\.csv"),
        (("chorus", "--data", ".", "--language", "ar"), "--language belongs to `gavel catalog prepare emoji`"),
        (("emoji", "--data", "."), r"expected emoji_en_ar\.csv"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(store, monkeypatch, arguments, message):
    (store / "empty").mkdir()
    monkeypatch.chdir(store / "empty")
    with pytest.raises(InvalidInput, match=message):
        gavel("prepare", *arguments)
    assert not (store / "home").exists()


def test_lots_of_ones_own_become_a_catalogue_and_the_next_commands_name_their_file(store):
    lots = store / "my lots.csv"
    kinds = ["desk lamp", "wall mirror", "patch cable"] * 8
    lots.write_text("id,name,img\n" + "".join(f"{n},Fine {kind}s number {n} {kind},a.jpg\n" for n, kind in enumerate(kinds)))
    (store / "judged.csv").write_text("Query,SKU,Rating\nlamp,0,3\nmirror,1,3\ncable,99,3\n")
    told = json.loads(gavel("prepare", "items", "--items", lots, "--judgments", store / "judged.csv", "--json").stdout)
    assert (told["items"], told["rejects"]) == (24, 1)
    assert any("did you mean image" in notice for notice in told["notices"])
    assert CatalogFolder(store / "home/catalogs/items").sources == [str(lots)]
    shown = gavel("prepare", "items", "--items", lots).output
    assert f"gavel adapt --catalog {store}/home/catalogs/items, then gavel embed '{lots}', then gavel index" in shown.replace(
        "\n", ""
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["items"], "name your lots by --items"),
        (["items", "--data", "."], "name your lots by --items"),
        (["items", "--items", "no.csv"], "--items no.csv does not exist"),
        (["items", "--items", ".", "--test-only"], "--test-only is about judgments"),
        (["chorus"], "--data is missing"),
        (["esci", "--data", ".", "--test-only"], "--test-only belongs to `gavel catalog prepare items`"),
    ],
)
def test_options_of_ones_own_lots_are_checked(store, arguments, says):
    with pytest.raises(InvalidInput, match=says):
        gavel("prepare", *arguments)
