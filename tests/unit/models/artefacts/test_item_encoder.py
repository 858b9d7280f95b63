"""The item tower at embedding time: structured features, and vectors of a shorter length."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_tower import save_small_item_tower, small_config

from models.artefacts.item_encoder import ItemEncoder, choose_precision
from models.towers.item_features import ITEM_FEATURES, fit_features
from processing.embedding.job import embed
from retrieval.contracts.documents import parse_bulk_lines
from retrieval.contracts.items import Item
from retrieval.contracts.tower_card import TowerCard
from retrieval.errors import TowerError

LOTS = [
    Item("a", "Old ring", category="jewellery", brand="Lalique", current_price=900.0, seller_rating=4.5, bid_count=3),
    Item("b", "Old ring", category="jewellery", brand="Omega", current_price=40.0),
    Item("c", "Old ring", category="watches", brand="Omega", current_price=300.0, bid_count=9),
    Item("d", "Old ring", category="watches", brand="Lalique"),
]
TEXTS = [lot.title for lot in LOTS]


@pytest.fixture(scope="module")
def featured(tmp_path_factory):
    """A tower of text and features."""
    spec = fit_features(replace(small_config(), features=ITEM_FEATURES), LOTS).features
    return save_small_item_tower(tmp_path_factory.mktemp("towers"), use_image=False, features=spec)


@pytest.fixture(scope="module")
def matryoshka(tmp_path_factory):
    """A tower of 16 dimensions that serves 8 as well."""
    return save_small_item_tower(tmp_path_factory.mktemp("towers"), use_image=False, matryoshka=(8,))


def test_lots_that_say_the_same_are_told_apart_by_their_features(featured):
    encoder = ItemEncoder.load(featured)
    vectors = encoder.encode(TEXTS, [None] * 4, LOTS)
    assert len({vector.tobytes() for vector in vectors}) == 4
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS, [None] * 4, LOTS, batch_size=1), vectors, atol=1e-5)
    unknown = encoder.encode(TEXTS, [None] * 4)
    assert np.ptp(unknown, axis=0).max() == pytest.approx(0, abs=1e-6)


def test_a_tower_without_features_takes_the_lots_and_ignores_them(matryoshka):
    encoder = ItemEncoder.load(matryoshka)
    np.testing.assert_array_equal(encoder.encode(TEXTS, [None] * 4, LOTS), encoder.encode(TEXTS, [None] * 4))


def test_the_embedding_job_shows_features_to_the_tower(featured, tmp_path):
    (tmp_path / "lots.ndjson").write_text(
        '{"item_id": "a", "title": "Old ring", "category": "jewellery", "brand": "Lalique", "current_price": 900}\n'
        '{"item_id": "b", "title": "Old ring", "category": "watches", "brand": "Omega", "current_price": 40}\n'
    )
    manifest = embed([tmp_path / "lots.ndjson"], featured, tmp_path / "out")
    entries = _entries(tmp_path / "out" / manifest.release_id / manifest.parts[0].name)
    lots = [Item("a", "Old ring", category="jewellery", brand="Lalique", current_price=900.0)]
    expected = ItemEncoder.load(featured).encode(["Old ring"], [None], lots)[0]
    np.testing.assert_allclose(entries[0].vector, expected, atol=1e-5)
    assert not np.allclose(entries[0].vector, entries[1].vector, atol=1e-4)


def test_a_shorter_vector_is_the_head_of_the_longer_at_unit_length(matryoshka):
    whole, short = ItemEncoder.load(matryoshka), ItemEncoder.load(matryoshka, dimensions=8)
    vectors = whole.encode(["Old ring", "red vase"], [None, None])
    head = vectors[:, :8] / np.linalg.norm(vectors[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(short.encode(["Old ring", "red vase"], [None, None]), head, atol=1e-6)
    assert (short.card.dimensions, short.card.tower_id) == (8, f"{whole.card.tower_id}.8")


def test_a_release_of_shorter_vectors_is_a_space_of_its_own(matryoshka, tmp_path):
    (tmp_path / "lots.ndjson").write_text('{"item_id": "a", "title": "Old ring"}\n')
    short = embed([tmp_path / "lots.ndjson"], matryoshka, tmp_path / "out", dimensions=8)
    whole = embed([tmp_path / "lots.ndjson"], matryoshka, tmp_path / "out")
    assert (short.dimensions, whole.dimensions) == (8, 16)
    assert short.tower_id == f"{whole.tower_id}.8"
    assert short.release_id != whole.release_id
    entry = _entries(tmp_path / "out" / short.release_id / short.parts[0].name)[0]
    assert entry.vector.shape == (8,)
    assert entry.document["tower_id"] == short.tower_id


def test_a_length_that_was_not_trained_is_refused(matryoshka):
    assert TowerCard.load(matryoshka).served == (16, 8)
    with pytest.raises(TowerError, match="serves vectors of 16, 8, not of 4"):
        ItemEncoder.load(matryoshka, dimensions=4)


def _entries(part):
    with gzip.open(part, "rt", encoding="utf-8") as lines:
        return list(parse_bulk_lines(lines))


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((8, 6), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ],
    ids=["V100", "T4", "A100", "A10G", "H100"],
)
def test_a_gpu_without_bfloat16_computes_in_float16(capability, precision):
    assert choose_precision(torch.device("cuda"), capability) is precision


def test_a_cpu_computes_in_float32_and_the_encoder_says_so(matryoshka):
    encoder = ItemEncoder.load(matryoshka)
    assert encoder.precision is torch.float32
    assert encoder.device_name == "cpu, float32"


def test_vectors_that_float16_cannot_hold_are_computed_again_in_float32(matryoshka):
    """A CPU computes in float16, too; a weight beyond its range makes every vector infinite or nothing."""
    encoder = ItemEncoder.load(matryoshka)
    with torch.no_grad():
        for parameter in encoder._tower.parameters():
            parameter.mul_(1e4)
    expected = encoder.encode(TEXTS, [None] * 4)
    encoder.precision = torch.float16
    np.testing.assert_array_equal(encoder.encode(TEXTS, [None] * 4), expected)
    assert np.isfinite(expected).all()
