"""Sanity checks: what a file of them may say, what holds, and what came back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from processing.evaluation.sanity import SanityChecks, SanityModel, SanityResult, run_sanity_checks
from retrieval.errors import InvalidInput

SHOP = """
[[pairs]]
about = "a ring is like a necklace"
first = ["ring", "band"]
second = ["necklace"]
above = 0.7

[[pairs]]
about = "a ring is not like oil"
first = ["ring"]
second = ["oil"]
below = 0.3

[[buyers]]
about = "a buyer of rings gets jewellery"
bought = ["ring"]
expected = "jewellery"
top = 2

[items]
jewellery = ["ring", "band", "necklace"]
cars = ["oil", "tyre"]
"""
PLACES = {"ring": 0, "band": 10, "necklace": 30, "oil": 90, "tyre": 100}  # degrees on a circle


def model(**places: float) -> SanityModel:
    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.radians([(PLACES | places)[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    return SanityModel("circle", encode, encode)


def run(tmp_path: Path, model: SanityModel) -> list[SanityResult]:
    file = tmp_path / "checks.toml"
    file.write_text(SHOP)
    return run_sanity_checks(SanityChecks.load(file), model)


def test_every_text_is_compared_with_every_other_and_the_buyer_is_shown_what_was_not_bought(tmp_path: Path) -> None:
    results = run(tmp_path, model())
    assert [(r.kind, *r.request, r.required) for r in results] == [
        ("pair", "ring", "necklace", "above 0.7"),
        ("pair", "band", "necklace", "above 0.7"),
        ("pair", "ring", "oil", "below 0.3"),
        ("buyer", "ring", "2 of jewellery"),
    ]
    assert [r.answer for r in results[:3]] == pytest.approx(np.cos(np.radians([30, 20, 90])), abs=1e-4)
    assert results[3].answer == [{"title": "band", "group": "jewellery"}, {"title": "necklace", "group": "jewellery"}]
    assert all(r.holds for r in results)


def test_what_does_not_hold_is_said_with_what_came_back(tmp_path: Path) -> None:
    results = run(tmp_path, model(necklace=80, oil=5))
    assert [r.holds for r in results] == [False, False, False, False]
    assert results[3].answer == [{"title": "oil", "group": "cars"}, {"title": "band", "group": "jewellery"}]


def test_a_bound_itself_is_neither_above_nor_below() -> None:
    pair = SanityChecks.model_validate({"pairs": [{"about": "a", "first": ["a"], "second": ["b"], "above": 0.5}]}).pairs[0]
    assert [pair.holds(cosine) for cosine in (0.4999, 0.5, 0.5001)] == [False, False, True]


def test_yaml_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "checks.yaml"
    file.write_text("pairs:\n  - {about: alike, first: [خاتم], second: [قلادة], above: 0.7}\n")
    assert SanityChecks.load(file).pairs[0].first == ["خاتم"]


def test_the_checks_that_come_with_gavel_are_sound_and_ask_in_arabic_and_english() -> None:
    checks = SanityChecks.load()
    assert {(pair.above, pair.below) for pair in checks.pairs} == {(0.7, None), (None, 0.3)}
    for pair in checks.pairs:
        assert {text.isascii() for text in pair.first} == {text.isascii() for text in pair.second} == {True, False}
    assert checks.buyers


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "[[pairs]", "is no TOML"),
        ("a.yaml", "pairs: [", "is no YAML"),
        ("a.toml", "", r"give at least one of \[\[pairs\]\] or \[\[buyers\]\]"),
        ("a.toml", '[[pairs]]\nabout = "a"\nfirst = ["a"]\nsecond = ["b"]', "pairs.0: give above, below or both"),
        ("a.toml", '[[pairs]]\nabout = "a"\nfirst = []\nsecond = ["b"]\nabove = 0.1', "pairs.0.first: "),
        ("a.toml", '[[pairs]]\nabout = "a"\nfirst = ["a"]\nsecond = ["b"]\nover = 0.1', "pairs.0.over: "),
        ("a.toml", '[[pairs]]\nabout = "a"\nfirst = ["a"]\nsecond = ["b"]\nabove = 7', "pairs.0.above: "),
        (
            "a.toml",
            '[[buyers]]\nabout = "b"\nbought = ["a"]\nexpected = "cars"\n[items]\ncars = ["a", "x"]',
            "expects 5 items .* has 1",
        ),
        ("a.yaml", "[1, 2]", "the file: "),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_place(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=words):
        SanityChecks.load(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.toml cannot be read: No such file"):
        SanityChecks.load(tmp_path / "gone.toml")
