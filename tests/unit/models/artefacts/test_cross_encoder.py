"""A cross-encoder is read from a folder that transformers wrote, and scores pairs of a query and an item."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_tower import save_small_cross_encoder, save_small_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.artefacts.cross_encoder import PretrainedCrossEncoder
from retrieval.errors import RankerUnavailable

TEXTS = [f"{colour} {kind}" for colour in ("red", "blue", "green") for kind in ("watch", "ring", "vase", "lamp")]


@pytest.fixture(scope="module", params=[1, 2])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with a head of one output, or two, with random weights."""
    return save_small_cross_encoder(tmp_path_factory.mktemp("cross"), outputs=request.param)


def test_scores_are_the_models_own_in_the_order_of_the_texts(folder: Path) -> None:
    scores = PretrainedCrossEncoder(str(folder)).score_pairs("red watch", TEXTS, 60)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        one_by_one = [model(**tokenizer("red watch", text, return_tensors="pt")).logits[0, -1].item() for text in TEXTS]
    assert scores.dtype == np.float32
    assert scores == pytest.approx(one_by_one, abs=1e-5)


def test_a_long_text_is_cut_to_what_the_model_reads(folder: Path) -> None:
    assert np.isfinite(PretrainedCrossEncoder(str(folder)).score_pairs("red watch", ["old ring " * 500], 60)).all()


def test_scores_that_come_too_late_are_none(folder: Path) -> None:
    with pytest.raises(RankerUnavailable, match=r"within 0 s|took more than"):
        PretrainedCrossEncoder(str(folder)).score_pairs("red watch", TEXTS, 0.0)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(RankerUnavailable, match=r"'/no/where' cannot be loaded.*name a hub model or a folder"):
        PretrainedCrossEncoder("/no/where")


def test_a_sentence_encoder_is_no_cross_encoder(tmp_path: Path) -> None:
    with pytest.raises(RankerUnavailable, match="no weights of a sequence classification"):
        PretrainedCrossEncoder(str(save_small_encoder(tmp_path / "encoder", TEXTS)))
