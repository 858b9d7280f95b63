"""A tower that does not fit the lots of a release says so."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from models.towers.tokenizer import train_wordpiece
from processing.embedding.tower_fit import TowerFit, measure_fit, unknown_words
from processing.embedding.vector_release import write_vector_release

COLOURS = ("red", "blue", "green", "golden", "black", "white", "amber", "violet")
KINDS = ("vase", "watch", "lamp", "chair", "mirror", "teapot", "camera", "necklace", "carpet", "guitar")
TITLES = [f"{colour} {kind} {'signed' if n % 2 else 'antique'}" for n in range(2) for colour in COLOURS for kind in KINDS]
FOREIGN = ["Netzwerkkabel geschirmt", "Tintenpatrone schwarz", "Schreibtischlampe dimmbar", "Kopfhörer kabellos"] * 20


def tokenizer_of(texts: list[str]) -> Tokenizer:
    return train_wordpiece(texts, 300)


def release_of(tmp_path, titles, vectors):
    rows = [{"item_id": str(n), "title": title} for n, title in enumerate(titles)]
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    write_vector_release(tmp_path, rows, unit, tower_id="tower", source="lots.csv")
    (tmp_path / "tower").mkdir(exist_ok=True)
    tokenizer_of(TITLES).save(str(tmp_path / "tower" / "tokenizer.json"))
    return measure_fit(tmp_path / "tower-items", tmp_path / "tower")


def word_vectors(titles):
    vocabulary = sorted({word for title in titles for word in title.split()})
    return np.array([[word in title.split() for word in vocabulary] for title in titles], dtype=float)


def test_a_tower_that_knows_the_words_and_tells_the_lots_apart_fits(tmp_path):
    fit = release_of(tmp_path, TITLES, word_vectors(TITLES))
    assert (fit.lots, fit.unknown_words, fit.fallen_together) == (len(TITLES), 0.0, 0.0)
    assert fit.agreement > 0.7
    assert fit.faults == []
    assert fit.warning("tower") == ""


def test_words_that_the_tokenizer_spells_are_unknown(tmp_path):
    known = tokenizer_of(TITLES)
    assert unknown_words(known, TITLES) == 0.0
    assert unknown_words(known, FOREIGN) > 0.5
    assert unknown_words(known, ["红色 花瓶"]) == 1.0
    assert unknown_words(known, []) == unknown_words(known, ["12 345"]) == 0.0


def test_vectors_that_fall_together_are_a_fault_only_for_lots_with_other_words(tmp_path):
    same = np.ones((len(TITLES), 8)) + np.random.default_rng(0).normal(scale=1e-3, size=(len(TITLES), 8))
    fit = release_of(tmp_path, TITLES, same)
    assert fit.fallen_together > 0.9
    assert "the vector of a lot with other words" in fit.warning("tower")
    copies = release_of(tmp_path, ["a red vase"] * 80, np.ones((80, 8)))
    assert copies.fallen_together == 0.0
    assert copies.faults == []


def test_neighbours_that_share_no_words_are_a_fault(tmp_path):
    fit = release_of(tmp_path, TITLES, np.random.default_rng(0).normal(size=(len(TITLES), 64)))
    assert abs(fit.agreement) < 0.2
    warning = fit.warning("abc")
    assert "tower abc does not fit" in warning
    assert all(remedy in warning for remedy in ("gavel try", "gavel adapt", "--model multilingual", "--mode keyword"))


@pytest.mark.parametrize("changes", [{"lots": 10}, {"photos": 1.0}])
def test_few_lots_and_photos_say_nothing_about_neighbours(changes):
    poor = {"lots": 500, "unknown_words": 0.0, "fallen_together": 0.9, "agreement": 0.0, "photos": 0.0}
    assert TowerFit(**poor).faults
    assert not TowerFit(**{**poor, **changes}).faults


def test_towers_without_a_tokenizer_are_not_measured(tmp_path):
    fit = release_of(tmp_path, TITLES, word_vectors(TITLES))
    assert fit.lots
    (tmp_path / "tower" / "tokenizer.json").unlink()
    assert measure_fit(tmp_path / "tower-items", tmp_path / "tower").lots == 0
