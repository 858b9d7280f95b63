"""Spelling: which words of a query no lot says, and the query as it reads with words that lots do say.

A word is corrected if it has four letters or more, no digit (a number or a model is no misspelling of another), and the index
holds it nowhere: in no text, brand or category. Its correction is a word of titles.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from retrieval.text.analysis import map_words, words

MIN_LETTERS = 4
ONE_EDIT_BELOW = 6  # letters; a longer word may have two edits
MAX_WORDS = 8  # in doubt; a query with more is not misspelt but of another shop
SPOKEN_FIELDS = ("title", "brand", "category", "text")  # short ones first


def max_edits(word: str) -> int:
    """How many letters may be wrong: one of a short word, two of a long one."""
    return 1 if len(word) < ONE_EDIT_BELOW else 2


def can_be_misspelt(word: str) -> bool:
    """Whether a word is long enough to tell, and has no digit."""
    return len(word) >= MIN_LETTERS and not any(character.isdigit() for character in word)


def doubtful_words(text: str, found: Iterable[Mapping[str, Any]]) -> list[str]:
    """The words of a query that none of the lots that it found says.

    Args:
        text: the query.
        found: documents of the best candidates; whoever shares a word with the query is among them.

    Returns:
        Words in lower case, each once; none where there are more than MAX_WORDS.
    """
    left = {word for word in words(text) if can_be_misspelt(word)}
    documents = list(found)
    for field in SPOKEN_FIELDS:
        for document in documents:
            if not left:
                return []
            left -= set(words(str(document.get(field) or "")))
    return sorted(left) if len(left) <= MAX_WORDS else []


def corrected(text: str, corrections: Mapping[str, str]) -> str | None:
    """The text with its misspelt words put right, all else as typed; None where nothing is to be put right."""
    changed = map_words(text, corrections)
    return changed if changed != text else None
