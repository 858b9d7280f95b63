"""The small query tower says what the full one says, near enough, and the setting chooses between them."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from small_tower import save_spread_tower

from catalog.folder import CatalogFolder, Qrels, SplitData, TrainingPair, write_catalog, write_items
from catalog.short_texts import short_texts
from gavel.workspace.wiring import open_store, search_service
from lambdas.query_api.app import create_app
from models.artefacts.model_card import MODEL_CARD_FILE, SMALL_QUERY_RECORD_FILE
from models.towers.tokenizer import train_wordpiece
from models.training.checkpoints import CHECKPOINT_FOLDER
from models.training.static_query import StaticQueryConfig, fit_token_vectors
from models.training.two_towers import CACHE_FOLDER
from processing.embedding.job import embed
from processing.training.query_distillation import distil_query
from retrieval.config.settings import Settings
from retrieval.contracts.items import Item
from retrieval.contracts.release import MANIFEST_FILE
from retrieval.contracts.tower_card import QUERY_TOWER_FILE, SMALL_QUERY_TOWER_FILE, TOKENIZER_FILE, TowerCard
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.encoders.query_towers import load_query_tower
from retrieval.encoders.static_query_encoder import Int8Table, SmallQueryEncoder, SmallQueryTower, find_pairs, pair_keys
from retrieval.errors import InvalidInput, TowerError
from retrieval.ingestion import index_release
from retrieval.search.service import SearchRequest

COLOURS = ("red", "blue", "emerald", "golden", "white", "black")
KINDS = ("vase", "watch", "chair", "toy car", "film camera", "ring", "teapot", "mirror")
MAKERS = ("Okada", "Lindqvist", "Meissen", "Dubois", "Takahara", "Novak", "Harper", "Rossi")
TITLES = [f"{maker} {colour} {kind}" for maker in MAKERS for colour in COLOURS for kind in KINDS]
LEARNT = [f"{colour} {kind}" for colour in COLOURS for kind in KINDS[:5]]
ASKED = [f"{colour} {kind}" for colour in COLOURS for kind in KINDS[5:]]
CONFIG = StaticQueryConfig(texts=600, epochs=30, batch_size=32, learning_rate=1e-2)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A compact tower with random weights, saved as training saves it."""
    return save_spread_tower(TITLES, tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Queries to learn from and others to be asked, which only stand in titles."""
    folder = tmp_path_factory.mktemp("catalog")
    items = [Item(f"lot-{number:03}", title) for number, title in enumerate(TITLES)]
    write_items(folder / "items" / "lots.parquet", items)
    graded = {query: {item.item_id: 3 for item in items if item.title.endswith(query)} for query in ASKED}
    splits = {
        "train": SplitData(["lots.parquet"], [TrainingPair(query, "lot-000") for query in LEARNT]),
        "val": SplitData(["lots.parquet"], qrels=Qrels({query: query for query in ASKED}, graded)),
    }
    write_catalog(folder, name="plain", seed=0, splits=splits, example_queries=["red vase"])
    return CatalogFolder(folder)


@pytest.fixture(scope="module")
def home(tower, catalog, tmp_path_factory):
    """A home whose live index holds the lots of the tower."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), towers_uri=str(tower.parent))
    manifest = embed(catalog.item_files("val"), tower, settings.home / "embeddings")
    index_release(settings.home / "embeddings" / manifest.release_id, open_store(settings))
    return settings


@pytest.fixture(scope="module")
def release(home):
    return next((home.home / "embeddings").glob("*/manifest*.json")).parent


@pytest.fixture(scope="module")
def made(catalog, tower, release):
    return distil_query(catalog, tower, release, CONFIG, least=0.9)


@pytest.fixture
def copied(made, tower, tmp_path):
    """A folder of the tower and its small query tower, to be broken."""
    folder = tmp_path / tower.name
    folder.mkdir()
    for source in tower.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    return folder


def test_it_finds_nearly_what_the_full_one_finds_for_queries_that_it_did_not_learn(made, tower):
    assert made.share >= 0.98
    assert made.quality["full"]["recall@50"] > 0.2, "else this says nothing"
    small, full = SmallQueryEncoder.load(tower).encode(ASKED), QueryEncoder.load(tower).encode(ASKED)
    assert (small * full).sum(axis=1).mean() >= 0.95
    assert made.losses[1] < made.losses[0] / 2


def test_the_tower_keeps_a_record_and_its_model_card_tells_what_was_measured(made, tower):
    record = json.loads((tower / SMALL_QUERY_RECORD_FILE).read_text())
    assert (record["texts"], record["settings"]["seed"], record["share"]) == (made.texts, 7, made.share)
    card = (tower / MODEL_CARD_FILE).read_text()
    assert "## Small query tower" in card
    assert f"{made.share:.1%} of the full one's Recall@50" in card
    TowerCard.load(tower, verify=True)  # the tower is the same as before


def test_one_that_finds_too_little_is_not_written(catalog, copied, release):
    (copied / SMALL_QUERY_TOWER_FILE).unlink()
    (copied / SMALL_QUERY_RECORD_FILE).unlink()
    poor = distil_query(catalog, copied, release, StaticQueryConfig(texts=2, epochs=1), least=0.98)
    assert poor.share < 0.98
    assert (poor.file, poor.file_bytes) == (None, 0)
    assert not (copied / SMALL_QUERY_TOWER_FILE).exists()
    assert not (copied / SMALL_QUERY_RECORD_FILE).exists()


def test_one_that_is_interrupted_leaves_nothing_but_what_was_encoded_and_a_checkpoint(catalog, copied, release):
    (copied / SMALL_QUERY_TOWER_FILE).unlink()
    (copied / SMALL_QUERY_RECORD_FILE).unlink()
    before = sorted(path.name for path in copied.iterdir())

    def stages(label):
        def step(done, total):
            if label == "learn vectors":
                raise KeyboardInterrupt

        return step

    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        distil_query(catalog, copied, release, CONFIG, phases=stages)
    assert sorted(path.name for path in copied.iterdir()) == sorted([*before, CHECKPOINT_FOLDER])
    assert torch.get_num_threads() == threads
    assert list((copied.parent / CACHE_FOLDER).glob("texts-*.npy"))


def test_the_same_seed_makes_the_same_file_and_another_seed_another(catalog, copied, release):
    files = []
    for seed in (7, 7, 8):
        short = StaticQueryConfig(texts=60, epochs=2, seed=seed)
        distil_query(catalog, copied, release, short, least=0.0)
        with np.load(copied / SMALL_QUERY_TOWER_FILE) as held:
            files.append({name: held[name] for name in held.files})
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0])
    assert not np.array_equal(files[0]["bias"], files[2]["bias"])


def test_it_learns_no_query_of_another_split_in_no_spelling(catalog):
    texts = short_texts(catalog, 2_000, seed=3)
    assert len(texts) == len(set(texts))
    assert set(LEARNT) <= set(texts)
    assert len(texts) > 2 * len(LEARNT), "titles add to the queries"
    held_back = {*ASKED, *(f"{query}s" for query in ASKED)}
    assert not held_back & {text.lower() for text in texts}
    assert short_texts(catalog, 50, seed=3) == short_texts(catalog, 50, seed=3)
    assert len(short_texts(catalog, 50, seed=3)) == 50


def test_the_setting_chooses_and_health_tells(made, home, tower):
    settings = replace(home, query_tower="small")
    assert isinstance(load_query_tower(settings, tower.name, home.home), SmallQueryEncoder)
    assert isinstance(load_query_tower(home, tower.name, home.home), QueryEncoder)
    service = search_service(settings)
    answer = service.search(SearchRequest("red ring", mode="semantic"))
    (vector,) = SmallQueryEncoder.load(tower).encode(["red ring"])
    assert [r.item_id for r in answer.results] == [r.item_id for r in service.nearest(list(vector)).results]
    assert answer.tower_id == tower.name
    assert TestClient(create_app(lambda: service)).get("/health").json()["query_tower"] == "small"
    assert TestClient(create_app(lambda: search_service(home))).get("/health").json()["query_tower"] == "full"


def test_a_tower_without_one_names_the_command_and_words_are_searched_alone(home, copied):
    (copied / SMALL_QUERY_TOWER_FILE).unlink()
    settings = replace(home, query_tower="small", towers_uri=str(copied.parent))
    with pytest.raises(TowerError, match=r"has no small query tower.*`gavel distill query`.*GAVEL_QUERY_TOWER=full"):
        load_query_tower(settings, copied.name, home.home)
    assert search_service(settings).search(SearchRequest("red ring")).failed_components == ["semantic"]


def test_a_small_query_tower_needs_no_network_file(copied):
    (copied / QUERY_TOWER_FILE).unlink()
    assert SmallQueryEncoder.load(copied).encode(["red vase"]).shape == (1, 128)


def test_a_damaged_file_is_named_with_the_way_out(copied):
    path = copied / SMALL_QUERY_TOWER_FILE
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for broken in (whole[:500], whole[: len(whole) // 2], bytes(flipped), b"", b"[]"):
        path.write_bytes(broken)
        with pytest.raises(TowerError, match=f"{SMALL_QUERY_TOWER_FILE} is not a small query tower.*`gavel distill query`"):
            SmallQueryEncoder.load(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: replace(t, tower_id="0" * 12), "belongs to tower 000000000000"),
        (lambda t: replace(t, bias=t.bias[:5]), "do not fit each other"),
        (lambda t: replace(t, pairs=t.pairs[1:]), "do not fit each other"),
        (lambda t: replace(t, tokens=replace(t.tokens, rows=t.tokens.rows[:, :7])), "are not int8 of 128"),
    ],
)
def test_a_file_that_does_not_fit_its_tower_is_refused(copied, change, said):
    change(SmallQueryTower.load(copied, TowerCard.load(copied))).save(copied)
    with pytest.raises(TowerError, match=said):
        SmallQueryEncoder.load(copied)


def test_a_tokenizer_of_more_tokens_is_refused(copied):
    train_wordpiece([f"{title} {number}" for number, title in enumerate(TITLES)], 3_000).save(str(copied / TOKENIZER_FILE))
    with pytest.raises(TowerError, match=r"tokenizer.json is not the file that tower \w+ was saved with"):
        SmallQueryEncoder.load(copied)


def test_a_shorter_vector_is_the_head_of_the_longer_at_unit_length(made, tower):
    short, whole = SmallQueryEncoder.load(tower, 64), SmallQueryEncoder.load(tower).encode(ASKED[:5])[:, :64]
    np.testing.assert_allclose(short.encode(ASKED[:5]), whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    assert short.tower_id == f"{tower.name}.64"


def test_vectors_have_unit_length_whatever_is_typed(made, tower):
    odd = ["", " ", "\x00\x01", "ÜBER größe", "花瓶", "🪑" * 50, "a" * 10_000, "vase " * 5_000, "\u202evase"]
    vectors = SmallQueryEncoder.load(tower).encode(odd)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert SmallQueryEncoder.load(tower).encode([]).shape == (0, 128)


def test_serving_needs_neither_torch_nor_transformers(made, tower):
    code = (
        "import sys; from pathlib import Path; from retrieval.encoders.static_query_encoder import SmallQueryEncoder; "
        f"SmallQueryEncoder.load(Path({str(tower)!r})).encode(['a red vase']); "
        "print(sorted({'torch', 'transformers', 'faiss', 'pandas', 'xgboost'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_release_of_another_tower_and_a_catalogue_without_val_are_refused(catalog, copied, release, tmp_path):
    other = Path(shutil.copytree(release, tmp_path / "other"))
    (other / MANIFEST_FILE).write_text((other / MANIFEST_FILE).read_text().replace(copied.name, "0" * 12))
    with pytest.raises(InvalidInput, match=r"is of tower .*, not of"):
        distil_query(catalog, copied, other, CONFIG)
    write_items(tmp_path / "c" / "items" / "lots.parquet", [Item("a", "red vase")])
    write_catalog(tmp_path / "c", name="bare", seed=0, splits={"train": SplitData(["lots.parquet"])}, example_queries=[])
    with pytest.raises(InvalidInput, match="no val queries"):
        distil_query(CatalogFolder(tmp_path / "c"), copied, release, CONFIG)


@given(st.lists(st.integers(0, 6), max_size=12), st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_pairs_are_found_where_they_stand_as_often_as_they_come(ids, known):
    row = np.array(ids, dtype=np.int64)
    keys = np.unique(np.array([(a << 32) | b for a, b in known], dtype=np.int64))
    wanted = [(int(a) << 32) | int(b) for a, b in pairwise(row)]
    assert pair_keys(row).tolist() == wanted
    assert keys[find_pairs(keys, row)].tolist() == [key for key in wanted if key in set(keys.tolist())]


def test_int8_rounds_by_half_a_step_at_most():
    rows = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    rows[3] = 0
    table = Int8Table.of(rows)
    for row in range(50):
        assert np.abs(table.sum(np.array([row])) - rows[row]).max() <= table.scales[row] * 0.5001
    np.testing.assert_allclose(table.sum(np.array([1, 1])), 2 * table.sum(np.array([1])), rtol=1e-6)


def test_tokens_begin_at_the_linear_map_of_their_embeddings():
    random = np.random.default_rng(0)
    embeddings, map_ = random.normal(size=(40, 6)).astype(np.float32), random.normal(size=(6, 3)).astype(np.float32)
    ids = [random.integers(0, 30, size=int(random.integers(1, 5))) for _ in range(200)]  # ten tokens stand in no text
    wanted = np.stack([(embeddings[row] @ map_).mean(axis=0) for row in ids])
    np.testing.assert_allclose(fit_token_vectors(ids, wanted, embeddings), embeddings @ map_, atol=0.05)


def test_impossible_settings_are_refused():
    for wrong in ({"texts": 1}, {"epochs": 0}, {"learning_rate": 0.0}, {"pair_count": 0}):
        with pytest.raises(InvalidInput, match="a small query tower needs"):
            StaticQueryConfig(**wrong)


def test_a_cut_distillation_is_marked_and_the_next_one_ends_as_an_uncut_one_does(catalog, tower, release, tmp_path):
    copy = tmp_path / tower.name
    shutil.copytree(tower, copy)
    short = replace(CONFIG, epochs=2)
    cut = distil_query(catalog, copy, release, replace(short, max_seconds=1e-9), least=0.0)
    assert cut.steps == {"run": 1, "planned": cut.steps["planned"], "cut_by_clock": True}
    assert json.loads((copy / SMALL_QUERY_RECORD_FILE).read_text())["steps"] == cut.steps
    assert f"cut by the clock after 1 of {cut.steps['planned']} steps" in (copy / MODEL_CARD_FILE).read_text()
    resumed = distil_query(catalog, copy, release, short, least=0.0)
    small = (copy / SMALL_QUERY_TOWER_FILE).read_bytes()
    uncut = distil_query(catalog, copy, release, short, least=0.0)
    assert (resumed.losses, resumed.steps["cut_by_clock"]) == (uncut.losses, False)
    assert (copy / SMALL_QUERY_TOWER_FILE).read_bytes() == small
