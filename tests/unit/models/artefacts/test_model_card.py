"""The model card: every figure in it has a source."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.artefacts.model_card import EVALUATIONS_FILE, MODEL_CARD_FILE, write_model_card
from models.artefacts.run_record import RECORD_FILE
from retrieval.contracts.tower_card import TowerCard
from retrieval.errors import TowerError

RECORD = {
    "gavel": "0.1.0",
    "git_commit": "0123abcd",
    "started": "2026-11-21T08:00:00+00:00",
    "seconds": 1234.5,
    "hardware": {"machine": "x86_64", "threads": 2, "gpus": []},
    "settings": {"learning_rate": 0.0007, "batch_size": 96, "tower": {"preset": "compact"}},
    "stage": "in-batch",
    "start_from": None,
    "data": {"catalog": "synthetic", "sha256": "feed" * 16, "lots": 2000, "photos": 1900, "queries": 956, "pairs": 12345},
    "history": [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.5}],
    "best": {"epoch": 2, "loss": 1.5, "recall_at_50": 0.8125},
    "parameters": 1234567,
}


def evaluation(**changes: Any) -> dict[str, Any]:
    test = {"difference": 0.25, "low": 0.125, "high": 0.375, "p_value": 0.0001}
    quality = {"recall@10": 0.5, "recall@50": 0.75, "ndcg@10": 0.625, "mrr": 0.875}
    return {
        "catalog": "synthetic",
        "split": "test",
        "queries": 150,
        "moment": "2026-11-21T08:00:00+00:00",
        "release_id": "r1",
        "zero_shot": "",
        "baseline": "BM25",
        "hardware": "x86_64",
        "results": {"semantic": {"quality": quality, "latency": {"p95_ms": 9.5}}},
        "comparisons": {"semantic": {"ndcg@10": test}},
        **changes,
    }


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    architecture = {
        "text": {"model": "", "config": {"model_type": "distilbert"}, "pooling": "mean"},
        "image": {"name": "small-resnet"},
    }
    card = TowerCard("a1b2c3d4e5f6", "compact", 128, 64, 96, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), architecture)
    card.save(tmp_path)
    (tmp_path / RECORD_FILE).write_text(json.dumps(RECORD))
    return tmp_path


def test_the_card_is_written_from_the_training_record(tower: Path) -> None:
    text = write_model_card(tower).read_text()
    for said in (
        "a1b2c3d4e5f6",
        "distilbert, mean pooling",
        "small-resnet, 96 px",
        "feed" * 16,
        "12,345",
        "| 2,000 |",
        "1,234,567",
    ):
        assert said in text
    for said in (
        "`0.0007`",
        "1,234 s, 2 epochs",
        "commit 0123abcd",
        "recall_at_50 0.8125",
        "rendered photos",
        "1,900 of the 2,000",
    ):
        assert said in text
    assert "Not measured" not in text
    assert "No evaluation on test queries" in text


def test_an_evaluation_adds_its_figures_and_stays(tower: Path) -> None:
    write_model_card(tower, evaluation())
    text = write_model_card(tower).read_text()
    assert "| semantic | 0.500 | 0.750 | 0.625 | 0.875 | 9.5 |" in text
    assert "semantic against BM25, ndcg@10: +0.250 (95 % interval +0.125 to +0.375, p < 0.001)" in text
    assert "No evaluation on test queries" not in text


def test_a_later_evaluation_of_the_same_split_takes_the_place_of_the_first(tower: Path) -> None:
    for queries, split in ((1, "test"), (2, "test"), (3, "val")):
        write_model_card(tower, evaluation(queries=queries, split=split))
    kept = json.loads((tower / EVALUATIONS_FILE).read_text())
    assert {name: found["queries"] for name, found in kept.items()} == {"synthetic test": 2, "synthetic val": 3}


def test_a_tower_without_a_record_says_so(tower: Path) -> None:
    (tower / RECORD_FILE).unlink()
    text = write_model_card(tower).read_text()
    assert text.count("came without a training record") == 2
    assert "Not measured yet" in text


def test_a_damaged_record_is_refused_by_name(tower: Path) -> None:
    (tower / RECORD_FILE).write_text("{")
    with pytest.raises(TowerError, match=r"training\.json cannot be read"):
        write_model_card(tower)
    assert not (tower / MODEL_CARD_FILE).exists()
