"""A sentence encoder adapted without judgments: heads learn the ranking of the encoder together with keywords."""

import json
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_tower import save_small_encoder

from catalog.folder import CatalogFolder, Qrels, SplitData, TrainingPair, write_catalog, write_items
from models.artefacts.model_card import MODEL_CARD_FILE
from models.artefacts.run_record import cut_steps
from models.config.training import TrainingConfig
from models.data.tables import ItemTable, Queries
from models.towers.config import TowerConfig, preset
from models.towers.two_towers import TwoTowers
from models.training.adaptation import DistillationConfig, Teacher, distil_towers, listwise_distillation
from models.training.checkpoints import CHECKPOINT_FILE
from models.training.two_towers import train_towers
from retrieval.contracts.items import Item
from retrieval.contracts.tower_card import ITEM_TOWER_FILE
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import InvalidInput

COLOURS = ("red", "blue", "green", "gold", "black", "white")
KINDS = ("vase", "watch", "lamp", "chair", "ring", "mirror", "teapot", "camera")
QUERIES = [f"{colour} {kind}" for colour in COLOURS for kind in KINDS]
NOISE = ("signed and dated by hand", "from an old house", "with a crack and a story", "as new in its box", "sold as seen")
TITLES = [f"{NOISE[number % 5]}, {query}, {NOISE[number * 3 % 5]}" for number, query in enumerate(QUERIES)]
CONFIG = DistillationConfig(steps=60, queries=16, learning_rate=3e-3)


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> TowerConfig:
    return TowerConfig.of_encoder(str(save_small_encoder(tmp_path_factory.mktemp("encoder"), TITLES)), max_length=16)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> CatalogFolder:
    """Lots by their titles; the queries to learn from say nothing of the lots that they belong to."""
    folder = tmp_path_factory.mktemp("catalog")
    items = [Item(f"lot-{number:02}", title) for number, title in enumerate(TITLES)]
    write_items(folder / "items" / "lots.parquet", items)
    graded = {query: {item.item_id: 3} for query, item in zip(QUERIES, items, strict=True)}
    pairs = [TrainingPair(query, "lot-00") for query in QUERIES]
    splits = {
        "train": SplitData(["lots.parquet"], pairs),
        "val": SplitData(["lots.parquet"], qrels=Qrels({query: query for query in graded}, graded)),
    }
    write_catalog(folder, name="plain", seed=0, splits=splits, example_queries=["red vase"])
    return CatalogFolder(folder)


def distil(catalog, tower, out, config=CONFIG, **given):
    with patch(
        "models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch()
    ):  # the export takes seconds
        return distil_towers(catalog, tower, config, out, **given)


def test_the_loss_is_the_cross_entropy_of_two_distributions():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 5, 9))
    logs = student / 0.05 - np.log(np.exp(student / 0.05).sum(axis=1, keepdims=True))
    wanted = np.exp(teacher / 0.08) / np.exp(teacher / 0.08).sum(axis=1, keepdims=True)
    found = listwise_distillation(torch.tensor(student), torch.tensor(teacher), temperature=0.05, teacher_temperature=0.08)
    assert float(found) == pytest.approx(-(wanted * logs).sum(axis=1).mean(), abs=1e-6)


def test_the_teacher_adds_a_share_of_the_keywords_to_the_cosine():
    lots = ItemTable(["a", "b", "c"], ["red vase", "", "blue vase vase"], [None] * 3)
    pairs = [TrainingPair("red vase", "a"), TrainingPair("sofa", "a")]
    vectors = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, -2.0]])
    teacher = Teacher(lots, Queries.group(pairs, lots), vectors, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), keyword_share=0.5)
    found = teacher.scores(np.array([0, 1]))
    assert found[0, 0] == 1.5  # the cosine, and the best lot of the keywords
    assert found[0, 1] == 0  # no text
    assert 0 < found[0, 2] < 0.5
    torch.testing.assert_close(found[1], torch.tensor([0.0, 1.0, -1.0]))  # no lot has the word: the cosine alone


def test_linear_heads_start_as_the_encoder_itself(tower):
    towers, plain = TwoTowers(replace(tower, linear=True)).eval(), TwoTowers(tower).eval()
    ids = torch.tensor([[2, 7, 8, 3]])
    torch.testing.assert_close(towers.query_tower(ids, torch.ones_like(ids)), plain.query_tower(ids, torch.ones_like(ids)))


def test_adapted_towers_find_more_and_leave_the_encoder_as_it_was(catalog, tower, tmp_path):
    seen: list[str] = []

    def stages(label):
        seen.append(label)
        return lambda done, total: None

    made = distil(catalog, tower, tmp_path, progress_for=stages)
    assert seen == ["encode lots", "encode queries", "learn to rank"]
    assert (made.items, made.queries) == (48, 48)
    assert made.losses[1] < made.losses[0]
    assert made.before is not None
    assert made.after is not None
    assert made.after.ndcg_at_10 > made.before.ndcg_at_10
    weights, untrained = load_file(made.tower_folder / ITEM_TOWER_FILE), TwoTowers(tower).state_dict()
    for name, value in weights.items():
        if "text_encoder" in name:
            torch.testing.assert_close(value, untrained[name], rtol=0, atol=0)
    record = json.loads((made.tower_folder / "training.json").read_text())
    assert (record["stage"], len(record["losses"]), record["best"]["ndcg_at_10"]) == ("distillation", 60, made.after.ndcg_at_10)


def test_what_validation_says_of_words_and_vectors_is_recorded(catalog, tower, tmp_path):
    choice = distil(catalog, tower, tmp_path, replace(CONFIG, steps=1)).choice
    assert (choice.queries, list(choice.metrics), choice.reads_photos) == (48, ["keyword", "text", "hybrid"], False)
    assert choice.lines[0].startswith("on 48 val queries, mean of Recall@50 and nDCG@10: keyword 1.000, text ")
    assert choice.lines[1].startswith("search: ")
    assert len(choice.lines) == 2, "a sentence encoder has no photos to speak of"


def test_the_same_seed_makes_the_same_tower_and_another_seed_another(catalog, tower, tmp_path):
    short = replace(CONFIG, steps=3)
    first, again = (distil(catalog, tower, tmp_path / place, short).tower_folder for place in "ab")
    assert load_equal(first, again)
    assert not load_equal(first, distil(catalog, tower, tmp_path, replace(short, seed=8)).tower_folder)


def test_a_cut_adaptation_says_so_and_the_next_one_ends_as_an_uncut_one_does(catalog, tower, tmp_path):
    short = replace(CONFIG, steps=6)
    cut = distil(catalog, tower, tmp_path, replace(short, max_seconds=1e-9))
    assert (cut.steps, cut.planned_steps, cut.cut_by_clock) == (1, 6, True)
    assert cut_steps(cut.tower_folder) == (1, 6)
    assert "cut by the clock after 1 of 6 steps" in (cut.tower_folder / MODEL_CARD_FILE).read_text()
    resumed = distil(catalog, tower, tmp_path, short)
    uncut = distil(catalog, tower, tmp_path / "uncut", short)
    assert load_equal(resumed.tower_folder, uncut.tower_folder)
    assert (resumed.tower_folder.name, resumed.losses, cut_steps(resumed.tower_folder)) == (
        uncut.tower_folder.name,
        uncut.losses,
        None,
    )
    assert not list(tmp_path.rglob(CHECKPOINT_FILE))


def load_equal(one, other) -> bool:
    left, right = load_file(one / ITEM_TOWER_FILE), load_file(other / ITEM_TOWER_FILE)
    return all(torch.equal(left[name], right[name]) for name in left)


def test_the_query_tower_that_serves_has_the_head(catalog, tower, tmp_path):
    made = distil_towers(catalog, tower, replace(CONFIG, steps=5), tmp_path)
    served = QueryEncoder.load(made.tower_folder).encode(["red vase", "gold ring"])
    assert served.shape == (2, 24)
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1, atol=1e-5)


def test_of_a_large_catalogue_some_lots_are_drawn(catalog, tower, tmp_path):
    assert distil(catalog, tower, tmp_path, replace(CONFIG, steps=1, lots=20)).items == 20


def test_towers_with_a_hidden_layer_are_refused(catalog, tower, tmp_path):
    with pytest.raises(InvalidInput, match="no hidden layer"):
        distil(catalog, replace(tower, hidden=8), tmp_path)


def test_training_refuses_towers_of_which_nothing_is_trained(catalog, tower, tmp_path):
    frozen = replace(tower, text=replace(tower.text, trainable="none"))
    with pytest.raises(InvalidInput, match="nothing of these towers is trained"):
        train_towers(catalog, TrainingConfig(tower=frozen, epochs=1), tmp_path)


def test_impossible_settings_are_refused():
    for wrong in ({"steps": 0}, {"queries": 0}, {"temperature": 0.0}):
        with pytest.raises(InvalidInput, match="distillation needs"):
            DistillationConfig(**wrong)
    assert not preset("minilm").linear
