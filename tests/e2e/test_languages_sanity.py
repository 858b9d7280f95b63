"""What a tower of two languages must get right at a glance: jewellery is like jewellery, engine oil is not, in either language.

The tower is the published encoder in the folder that GAVEL_MULTILINGUAL_MODEL names, untrained, and otherwise a small one that is
trained here. What that one saw is write_bilingual_catalog(): names of groups, variants and kinds as queries, lots as answers. No
pair has two kinds of things in it, and a ring or a necklace of gold, the very things that are asked about, stood in no pair at all.
"""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from bilingual_shop import LANGUAGES, lots, write_bilingual_catalog
from small_tower import small_config

from models.artefacts.item_encoder import ItemEncoder
from models.artefacts.tower_files import save_towers
from models.towers.config import TowerConfig
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import TwoTowers
from models.training.two_towers import TrainingConfig, train_towers
from retrieval.buyers.vector import buyer_vector
from retrieval.contracts.documents import IndexedItem, document_of
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import item_text
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.port import VectorIndex

MODEL_VARIABLE = "GAVEL_MULTILINGUAL_MODEL"
ALIKE, UNLIKE = 0.7, 0.3
RING = {"en": "gold ring", "ar": "خاتم من الذهب"}
NECKLACE = {"en": "gold necklace", "ar": "قلادة من الذهب"}
ENGINE_OIL = {"en": "synthetic engine oil", "ar": "زيت محرك صناعي"}
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    """The artefact of the towers."""
    out = tmp_path_factory.mktemp("towers")
    if model := os.environ.get(MODEL_VARIABLE):
        config = TowerConfig.of_encoder(model)
        return save_towers(TwoTowers(config), make_tokenizer(config, []), out)
    return train_small(tmp_path_factory.mktemp("shop"), out)


def train_small(shop: Path, out: Path) -> Path:
    """Towers of 32 numbers, trained on the shop."""
    size = replace(small_config(use_image=False), dimensions=32, hidden=64)
    config = TrainingConfig(tower=size, epochs=40, batch_size=32, learning_rate=3e-3, validate_every=40)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small: more threads wait for each other
    try:
        return train_towers(write_bilingual_catalog(shop), config, out).tower_folder
    finally:
        torch.set_num_threads(threads)


def cosine(tower: Path, one: str, other: str) -> float:
    first, second = QueryEncoder.load(tower).encode([one, other])
    return float(first @ second)


@pytest.mark.parametrize("first", LANGUAGES)
@pytest.mark.parametrize("second", LANGUAGES)
def test_a_ring_and_a_necklace_of_gold_are_alike_and_engine_oil_is_not(tower, first, second):
    assert cosine(tower, RING[first], NECKLACE[second]) > ALIKE
    assert cosine(tower, RING[first], ENGINE_OIL[second]) < UNLIKE
    assert cosine(tower, NECKLACE[first], ENGINE_OIL[second]) < UNLIKE


@pytest.mark.parametrize("words", [RING, NECKLACE, ENGINE_OIL], ids=["ring", "necklace", "engine oil"])
def test_the_same_thing_in_the_other_language_is_alike(tower, words):
    assert cosine(tower, words["en"], words["ar"]) > ALIKE


@pytest.fixture(scope="module")
def index(tower, tmp_path_factory) -> VectorIndex:
    """All lots of the shop, those that trained nothing among them."""
    items = [item for item, _, _ in lots()]
    vectors = ItemEncoder.load(tower).encode([item_text(item.title, item.description) for item in items], [None] * len(items))
    made = EmbeddedStore(tmp_path_factory.mktemp("index")).create(tower.name, vectors.shape[1])
    made.upsert(
        IndexedItem(item.item_id, 1, document_of(item, has_image=False, tower_id=tower.name, release_id="test"), vector)
        for item, vector in zip(items, vectors.astype(np.float32), strict=True)
    )
    made.refresh()
    return made


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_query_in_either_language_finds_lots_listed_in_both(tower, index, language):
    vector = QueryEncoder.load(tower).encode([RING[language]])[0]
    found = index.semantic(vector, 10, Filter(now=NOW))
    assert {hit.document["category"] for hit in found} == {"jewellery"}
    assert {hit.document["title"].isascii() for hit in found} == {True, False}


def test_a_buyer_of_gold_rings_gets_jewellery_and_no_cars_or_food(index):
    rings = [item.item_id for item, kind, variant in lots() if kind[0] == "ring" and variant[0] in ("gold", "platinum")]
    acts = [Interaction("buyer", item_id, "purchase", NOW - timedelta(days=day)) for day, item_id in enumerate(rings)]
    buyer = buyer_vector(acts, index.fetch)
    found = [hit for hit in index.semantic(buyer.vector, 10 + len(rings), Filter(now=NOW)) if hit.item_id not in rings]
    assert [hit.document["category"] for hit in found[:10]] == ["jewellery"] * 10


def test_the_small_tower_was_trained_on_none_of_the_pairs_that_are_asked_about(tmp_path):
    shop = write_bilingual_catalog(tmp_path / "shop")
    asked = [text for words in (RING, NECKLACE, ENGINE_OIL) for text in words.values()]
    kinds = {word: kind[0] for _, kind, _ in lots() for word in kind}
    for pair in shop.pairs("train"):
        texts = [pair.query, pair.lot_text]
        assert not any(text in asked for text in texts)
        named = [{kind for word, kind in kinds.items() if word in text} for text in texts]
        assert all(not (one and other and one.isdisjoint(other)) for one, other in combinations(named, 2)), pair
