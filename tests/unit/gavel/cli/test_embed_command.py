"""`gavel embed` on files as people have them: what it reads, what it tells, and its exit status."""

import gzip
import io
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from small_tower import save_small_item_tower, save_small_joint_encoder, save_spread_tower
from typer.testing import CliRunner

from gavel.cli.main import app
from processing.embedding.rejects import summarise_rejects
from retrieval.errors import InvalidInput


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    return save_spread_tower(["red vase", "gold watch"], tmp_path_factory.mktemp("towers")).parent


@pytest.fixture(scope="module")
def photo_tower(tmp_path_factory) -> Path:
    return save_small_item_tower(tmp_path_factory.mktemp("photo-towers"))


@pytest.fixture
def lots(tmp_path, towers, monkeypatch) -> Path:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GAVEL_TOWERS_URI", str(towers))
    (tmp_path / "lots").mkdir()
    return tmp_path / "lots"


def embed(*arguments: str | Path):
    run = CliRunner().invoke(app, ["embed", *map(str, arguments)])
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run


def test_rejects_are_summed_up_by_reason_and_all_that_was_noticed_is_told(lots):
    (lots / "lots.csv").write_text("ID;Title;Price;Pic;Brand\n1;Red vase;12,50;a.jpg;NULL\n2;;3;;\n3;Watch;-1;;\n4;Ring;-2;;\n")
    (lots / "~$lots.csv").write_text("")
    run = embed(lots)
    assert run.exit_code == 0
    for notice in (
        "lots.csv: columns that are kept as attributes: `Pic`: did you mean image?; --column FIELD=COLUMN takes one",
        "lots.csv: current_price is read with a decimal comma",
        "were read as empty: brand 1",
        "passed over: ~$lots.csv (a lock of a spreadsheet)",
    ):
        assert notice in run.stderr
    values = json.loads(embed(lots, "--column", "image=Pic", "--json").stdout)
    assert (values["embedded"], values["rejected"], values["empty_values"]) == (1, 3, {"brand": 1})
    assert values["rejected_by_reason"] == {
        "current_price must be >= … and <= … not …": 2,
        "title is missing …": 1,
    }
    (most, title) = summarise_rejects(Path(values["release"]) / "rejects.ndjson")
    assert (most.count, most.first, title.first) == (2, "lots.csv:4", "lots.csv:3")


def test_photos_are_fetched_unless_they_must_not_be_and_those_that_are_missing_are_summed_up(
    tmp_path, monkeypatch, lots, photo_tower
):
    monkeypatch.setenv("GAVEL_TOWERS_URI", str(photo_tower.parent))
    red = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(red, "PNG")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "red.png").write_bytes(red.getvalue())
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "web")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        (lots / "lots.csv").write_text(f"id,title,image\n1,Vase,http://{place}/no.png|http://{place}/red.png\n")
        closed = json.loads(embed(lots, "--no-fetch", "--json").stdout)
        private = json.loads(embed(lots, "--json", "--force").stdout)
        fetched = json.loads(embed(lots, "--json", "--force", "--photo-host", place).stdout)
        again = json.loads(embed(lots, "--json", "--photo-host", place).stdout)
        shown = embed(lots, "--photo-host", place).stdout
        server.shutdown()
    assert [run["photos_missing"] for run in (closed, private)] == [{"not_fetched": 2}, {"address": 2}]
    assert (fetched["without_image"], fetched["photos_missing"]) == (0, {"unreachable": 1})
    assert (again["already_there"], again["photos_missing"]) == (True, {"unreachable": 1})
    assert "answers with the status 404" in " ".join(shown.split())


def test_attributes_may_be_named_or_left_out(lots):
    (lots / "lots.csv").write_text("id,title,Colour,Size\n1,Vase,red,4\n")
    for options, kept in (((), ["Colour", "Size"]), (("--attributes", "colour"), ["Colour"]), (("--attributes", "none"), [])):
        release = Path(json.loads(embed(lots, "--json", *options).stdout)["release"])
        document = json.loads(gzip.decompress((release / "part-00000.ndjson.gz").read_bytes()).splitlines()[1])
        assert list(document.get("attributes", {})) == kept
    with pytest.raises(InvalidInput, match="--attributes none keeps no attribute"):
        embed(lots, "--attributes", "none", "--attributes", "colour")


def test_a_run_that_is_there_already_tells_the_same(lots):
    (lots / "lots.csv").write_text("id,title,price\n1,Red vase,NULL\n2,,\n")
    first, second = (json.loads(embed(lots, "--json").stdout) for _ in range(2))
    assert (first.pop("already_there"), second.pop("already_there")) == (False, True)
    assert first == second


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": "id,title\n"}, "nothing was embedded: there is no row in a.csv"),
        ({"a.csv": "id,title\n1,\n"}, "nothing was embedded: all 1 rows were rejected"),
        ({"a.csv": "id,title\n1,\n", "b.csv": "id,title\n2,Vase\n"}, "no lot came from a.csv: all rows were rejected"),
        ({"a.csv": "id,title\n", "b.csv": "id,title\n2,Vase\n"}, ""),  # an empty part beside others is none
    ],
)
def test_a_file_that_yields_no_lots_fails(files, message, lots):
    for name, text in files.items():
        (lots / name).write_text(text)
    run = embed(lots)
    assert run.exit_code == bool(message)
    assert message in run.stderr.replace("\n", " ")


def test_an_ambiguous_column_is_refused_and_the_variable_of_its_option_decides(lots, monkeypatch):
    (lots / "lots.csv").write_text("id;title;price\n1;Red vase;1.299\n")
    with pytest.raises(InvalidInput, match="--decimal comma or --decimal point"):
        embed(lots)
    monkeypatch.setenv("GAVEL_DECIMAL", "comma")
    assert embed(lots).exit_code == 0


def test_other_options_make_another_release(lots):
    (lots / "lots.csv").write_text("id,title,maker\n1,Red vase,Acme\n")
    releases = [json.loads(embed(lots, *options, "--json").stdout)["release"] for options in ((), ("--column", "brand=maker"))]
    assert len(set(releases)) == 2


def test_a_published_encoder_embeds_lots_and_photos_without_training(lots, tmp_path, monkeypatch):
    monkeypatch.setenv("GAVEL_TOWERS_URI", str(tmp_path / "published"))
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())
    monkeypatch.setattr("models.artefacts.tower_files.export_image_tower", lambda towers, path: path.touch())
    encoder = save_small_joint_encoder(tmp_path / "clip", ["red vase", "gold watch"])
    (lots / "lots.csv").write_text("id,title,image\n1,Red vase,a.png\n2,Gold watch,\n")
    Image.new("RGB", (40, 30), "red").save(lots / "a.png")
    first, second = (json.loads(embed(lots, "--encoder", encoder, "--json").stdout) for _ in range(2))
    assert (first["embedded"], first["without_image"], second["already_there"]) == (2, 1, True)
    with pytest.raises(InvalidInput, match="leave one out"):
        embed(lots, "--encoder", encoder, "--tower", first["tower_id"])


def test_a_tower_of_a_cut_training_is_told(lots, towers):
    (lots / "lots.csv").write_text("id,title\n1,Red vase\n")
    record = next(towers.glob("*/tower.json")).with_name("training.json")
    record.write_text(json.dumps({"steps": {"run": 3, "planned": 9, "cut_by_clock": True}}))
    assert "was cut after 3 of 9 steps; the command" in " ".join(embed(lots, "--force").stderr.split())
    record.unlink()
    assert "was cut" not in embed(lots, "--force").stderr
