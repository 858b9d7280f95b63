"""What every index promises of words that no lot has: the nearest word of a title, and nothing for words that are known."""

from collections.abc import Callable, Iterable

import pytest
from index_lots import TOWER_ID, lot

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.index.port import IndexStore, VectorIndex

Fill = Callable[[Iterable[IndexedItem | Deletion]], VectorIndex]

TITLES = (
    "Vintage watch by Omega",
    "Watches and straps",
    "Gold watch",
    "Porcelain vase",
    "Porcelaine de Paris",
    "Emerald necklace",
    "Emeralds, rough",
    "Match box",
    "Theodolite 1920",
    "Canon EOS550D camera",
    "Étagère in oak",
    "часы карманные",
)


@pytest.fixture
def shop(filled: Fill) -> VectorIndex:
    """Lots of twelve titles, one with words in its description alone, and one of a brand and a category that no text names."""
    lots = [lot(f"lot-{n}", title=title) for n, title in enumerate(TITLES)]
    lots.append(lot("described", title="a thing", description="with a guilloche dial"))
    lots.append(lot("branded", title="a thing", brand="Wacht und Sohn", category="Collectibles"))
    return filled(lots)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("wacth", "watch"),  # two swapped; "wacht" is one edit off as well, and stands in no title
        ("wathc", "watch"),  # more titles have it than "match"
        ("vintge", "vintage"),
        ("porclain", "porcelain"),
        ("porcelane", "porcelaine"),  # one edit, against two to "porcelain"
        ("emrald", "emerald"),
        ("theodolyte", "theodolite"),
        ("étagére", "étagère"),
        ("часи", "часы"),
    ],
)
def test_a_misspelt_word_is_corrected_to_the_nearest_word_of_a_title(shop: VectorIndex, word: str, meant: str) -> None:
    assert shop.corrections([word]) == {word: meant}


@pytest.mark.parametrize(
    "word",
    [
        "watch",
        "watching",  # by its stem
        "vintages",
        "porcelaine",
        "guilloche",  # of a description
        "wacht",  # of a brand
        "sohn",
        "collectible",  # of a category, in another ending
    ],
)
def test_a_word_that_a_lot_has_is_never_corrected(shop: VectorIndex, word: str) -> None:
    assert shop.corrections([word]) == {}


@pytest.mark.parametrize("word", ["zeppelin", "xatch", "wxxch", "eos550", "gulloche", "wachtt"])
def test_a_word_that_no_title_is_near_to_has_no_correction(shop: VectorIndex, word: str) -> None:
    """Far words, another first letter, too many edits for its length; no model number; no word of descriptions and brands."""
    assert shop.corrections([word]) == {}


def test_several_words_are_corrected_at_once_and_none_is_no_question(shop: VectorIndex) -> None:
    assert shop.corrections(["vintge", "watch", "emrald", "zeppelin"]) == {"vintge": "vintage", "emrald": "emerald"}
    assert shop.corrections([]) == {}


def test_an_empty_index_corrects_nothing(store: IndexStore) -> None:
    index = store.create(TOWER_ID, 16)
    index.refresh()
    assert index.corrections(["wacth"]) == {}


def test_words_of_new_lots_are_known_after_a_refresh(shop: VectorIndex) -> None:
    assert shop.corrections(["sextent"]) == {}
    shop.upsert([lot("new", title="Brass sextant")])
    shop.refresh()
    assert shop.corrections(["sextent"]) == {"sextent": "sextant"}
    assert shop.corrections(["sextant"]) == {}
