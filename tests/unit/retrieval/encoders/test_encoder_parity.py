"""The query tower that serves says what the query tower that was trained says."""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fastapi.testclient import TestClient
from small_tower import save_spread_tower
from typer.testing import CliRunner

from gavel.cli.export import export_app
from gavel.workspace.wiring import open_store, search_service
from lambdas.query_api.app import create_app
from models.artefacts.tower_files import load_towers
from models.towers.tokenizer import train_wordpiece
from processing.embedding.job import embed
from retrieval.config.settings import Settings
from retrieval.contracts.tower_card import QUERY_TOWER_FILE, TOKENIZER_FILE, TowerCard
from retrieval.encoders.query_encoder import QueryEncoder, load_tokenizer, tokenize
from retrieval.encoders.tower_store import tower_folder
from retrieval.errors import TowerError
from retrieval.ingestion import index_release
from retrieval.search.service import SearchRequest

COLOURS = ("red", "blue", "emerald", "golden", "off-white")
KINDS = ("vase", "watch", "armless chair", "toy car with a crack", "film camera", "ring", "teapot", "mirror")
MAKERS = ("by Okada", "signed Lindqvist", "", "1950s", "luxury vintage")
TEXTS = [f"{colour} {kind} {maker}".strip() for colour in COLOURS for kind in KINDS for maker in MAKERS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A compact tower with random weights, saved as training saves it."""
    return save_spread_tower(TEXTS, tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def encoder(folder):
    return QueryEncoder.load(folder)


@torch.inference_mode()
def encode_with_torch(folder, texts):
    towers, card = load_towers(folder)
    ids, mask = tokenize(load_tokenizer(folder, card), texts, card.max_length)
    return towers.query_tower(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()


def test_int8_agrees_with_torch_on_200_texts(folder, encoder):
    assert len(set(TEXTS)) == 200
    served, trained = encoder.encode(TEXTS), encode_with_torch(folder, TEXTS)
    assert served.shape == (200, 128)
    assert served.dtype == np.float32
    assert (served * trained).sum(axis=1).min() >= 0.99
    assert np.median(served @ served.T) < 0.98, "if all texts were alike, agreement would say nothing"


def test_a_shorter_query_vector_is_the_head_of_the_longer_at_unit_length(folder, encoder):
    short = QueryEncoder.load(folder, 64)
    whole = encoder.encode(TEXTS[:5])[:, :64]
    np.testing.assert_allclose(short.encode(TEXTS[:5]), whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    assert short.tower_id == f"{encoder.tower_id}.64"
    with pytest.raises(TowerError, match="serves vectors of 128, 64, not of 32"):
        QueryEncoder.load(folder, 32)


def test_the_folder_of_a_shorter_length_is_that_of_its_tower(folder, tmp_path):
    assert tower_folder(str(folder.parent), f"{folder.name}.64", tmp_path) == folder


def test_a_release_of_shorter_vectors_is_searched_by_queries_of_that_length(folder, tmp_path):
    settings = Settings(home=tmp_path, towers_uri=str(folder.parent))
    lots = tmp_path / "lots.ndjson"
    lots.write_text("".join(json.dumps({"item_id": str(n), "title": text}) + "\n" for n, text in enumerate(TEXTS[:40])))
    manifest = embed([lots], folder, tmp_path / "embeddings", dimensions=64)
    made = index_release(tmp_path / "embeddings" / manifest.release_id, open_store(settings))
    answer = search_service(settings).search(SearchRequest(TEXTS[7], mode="semantic"))
    assert (manifest.dimensions, answer.tower_id, made.tower_id) == (64, f"{folder.name}.64", f"{folder.name}.64")
    assert len(answer.results) == 10


def test_the_graph_takes_batches_with_padding(folder, encoder):
    texts = ["ring", TEXTS[60], "a " * 200]
    ids, mask = tokenize(load_tokenizer(folder, encoder.card), texts, encoder.card.max_length)
    assert ids.shape == (3, 64)
    session = onnxruntime.InferenceSession(folder / QUERY_TOWER_FILE)
    (vectors,) = session.run(["query_vector"], {"input_ids": ids, "attention_mask": mask})
    assert (vectors * encode_with_torch(folder, texts)).sum(axis=1).min() >= 0.99


def test_the_graph_is_valid_and_reads_both_inputs(folder):
    graph = onnx.load(folder / QUERY_TOWER_FILE).graph
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask"]
    read = {name for node in graph.node for name in node.input}
    assert {"input_ids", "attention_mask"} <= read
    assert any("Integer" in node.op_type for node in graph.node), "weights are not int8"


def test_vectors_have_unit_length_whatever_is_typed(encoder):
    odd = ["", " ", "\x00\x01", "ÜBER größe", "花瓶", "🪑" * 50, "a" * 10_000, "vase " * 5_000, "\u202evase"]
    vectors = encoder.encode(odd)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.isfinite(vectors).all()


def test_a_vector_does_not_depend_on_its_neighbours(encoder):
    together = encoder.encode(["red vase", "a much longer query about a film camera by Okada"])
    np.testing.assert_array_equal(together[0], encoder.encode(["red vase"])[0])


def test_case_width_and_spaces_do_not_change_a_query(encoder):
    vectors = encoder.encode(["red vase", "  Red\tVASE ", "ｒｅｄ vase"])
    np.testing.assert_array_equal(vectors[1:], vectors[[0, 0]])


def test_words_beyond_max_length_are_cut(encoder):
    start = "red vase " * 40
    np.testing.assert_array_equal(encoder.encode([start + "watch"]), encoder.encode([start + "teapot"]))


def test_a_model_that_cannot_be_run_is_the_towers_fault(folder, encoder):
    other = train_wordpiece([f"{text} {number}" for number, text in enumerate(TEXTS)], 2_000)  # ids that the model has no row for
    broken = QueryEncoder(encoder.card, other, onnxruntime.InferenceSession(folder / QUERY_TOWER_FILE))
    with pytest.raises(TowerError, match="cannot be run"):
        broken.encode(["vase 199 198 197 zebra"])


def test_no_texts_give_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 128)


def test_the_artefact_does_not_say_where_it_was_made(folder):
    """The exporter writes stack traces with paths, by which a tower_id would differ from machine to machine."""
    written = (folder / QUERY_TOWER_FILE).read_bytes()
    assert b"site-packages" not in written
    assert b".py" not in written


@pytest.mark.parametrize("name", [QUERY_TOWER_FILE, TOKENIZER_FILE])
def test_a_missing_or_damaged_file_is_named_with_the_way_out(folder, tmp_path, name):
    for source in folder.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / name).write_bytes((folder / name).read_bytes()[:500])
    with pytest.raises(TowerError, match=f"{name}.*copy it again"):
        QueryEncoder.load(tmp_path)
    with pytest.raises(TowerError, match="copy it again"):
        QueryEncoder.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(TowerError, match=f"{name} is missing"):
        QueryEncoder.load(tmp_path)


def test_a_folder_without_a_tower_says_how_to_get_one(tmp_path):
    with pytest.raises(TowerError, match="gavel train"):
        QueryEncoder.load(tmp_path)


def test_serving_needs_neither_torch_nor_transformers(folder):
    code = (
        "import sys; from pathlib import Path; from retrieval.encoders.query_encoder import QueryEncoder; "
        f"QueryEncoder.load(Path({str(folder)!r})).encode(['a red vase']); "
        "print(sorted({'torch', 'transformers', 'faiss', 'pandas', 'xgboost'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the tower, under its own name."""
    return shutil.copytree(folder, tmp_path / "towers" / folder.name)


def flip_bits(path, bits=64):
    content, chance = bytearray(path.read_bytes()), random.Random(0)
    for _ in range(bits):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("name", [QUERY_TOWER_FILE, TOKENIZER_FILE])
def test_a_file_with_flipped_bits_or_of_another_tower_is_refused(copied, name):
    path = copied / name
    whole = path.read_bytes()
    flip_bits(path)
    with pytest.raises(TowerError, match=f"{name} is not the file that tower {copied.name} was saved with; copy it again"):
        QueryEncoder.load(copied)
    path.write_bytes(whole + b" ")  # it can still be read
    with pytest.raises(TowerError, match=f"{name} is not the file that tower {copied.name} was saved with; copy it again"):
        QueryEncoder.load(copied)
    path.write_bytes(whole)
    assert QueryEncoder.load(copied).encode(["red vase"]).shape == (1, 128)


def test_a_damaged_query_tower_is_told_in_the_answer_and_never_ends_in_an_internal_error(copied, tmp_path):
    settings = Settings(home=tmp_path, index="faiss")
    lots = tmp_path / "lots.ndjson"
    lots.write_text("".join(json.dumps({"item_id": str(n), "title": text}) + "\n" for n, text in enumerate(TEXTS[:20])))
    index_release(tmp_path / "embeddings" / embed([lots], copied, tmp_path / "embeddings").release_id, open_store(settings))
    flip_bits(copied / QUERY_TOWER_FILE)
    service = search_service(settings)
    client = TestClient(create_app(lambda: service), raise_server_exceptions=False)
    assert client.get("/search", params={"q": "red vase"}).json()["degraded"] == ["semantic"]
    refused = client.get("/search", params={"q": "red vase", "mode": "semantic"})
    assert (refused.status_code, refused.json()["type"]) == (503, "tower_unavailable")


def test_a_card_of_an_older_version_is_loaded_unchecked_and_given_its_checksums_by_a_command(copied, monkeypatch, caplog):
    card = TowerCard.load(copied)
    replace(card, files={}).save(copied)
    for _ in range(2):
        QueryEncoder.load(copied)
    told = [record.getMessage() for record in caplog.records if QUERY_TOWER_FILE in record.getMessage()]
    assert len(told) == 1, "once a process"
    assert f"`gavel export checksums {copied.name}`" in told[0]
    monkeypatch.setenv("GAVEL_HOME", str(copied.parent.parent))
    assert CliRunner().invoke(export_app, ["checksums", copied.name]).exit_code == 0
    assert TowerCard.load(copied, verify=True) == card


def test_a_folder_with_the_files_of_another_tower_is_refused(copied):
    renamed = copied.rename(copied.with_name("0123456789ab"))
    with pytest.raises(TowerError, match=f"holds tower {copied.name}; copy each tower to the folder of its own id"):
        tower_folder(str(renamed.parent), "0123456789ab", renamed.parent)
