"""Validation metrics: the same whether all scores are ranked at once or a few queries at a time."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from judged_lots import write_judged_catalog
from small_tower import WORDS, small_config

from models.towers.tokenizer import train_wordpiece
from models.towers.two_towers import TwoTowers
from models.training import validation
from models.training.two_towers import fit_vocabulary
from models.training.validation import Validation
from retrieval.encoders.query_encoder import prepare_tokenizer


def test_queries_ranked_in_parts_have_the_same_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokenizer = train_wordpiece([WORDS], 300)
    config = fit_vocabulary(replace(small_config(use_image=False), vocabulary=300), tokenizer.get_vocab_size())
    prepare_tokenizer(tokenizer, config.max_length)
    towers = TwoTowers(config)
    measured = Validation(write_judged_catalog(tmp_path / "catalog"), tokenizer, config, tmp_path / "cache", "test")
    whole = asdict(measured.measure(towers))
    assert 0 < whole["ndcg_at_10"] < 1
    monkeypatch.setattr(validation, "MAX_SCORES", 1)
    assert asdict(measured.measure(towers)) == pytest.approx(whole)
