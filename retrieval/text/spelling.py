"""Spelling: words of a query that no item has, and the query with corrections.

A word is corrected if it has four letters or more, has no digit (a number or a model is no misspelling of another), and occurs in
no text, brand or category of the index. Its correction is a word of titles.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from retrieval.text.analysis import map_words, words

MIN_LETTERS = 4
ONE_EDIT_BELOW = 6  # letters; a longer word may have two edits
MAX_WORDS = 8  # a query with more unmatched words is not misspelt but meant for another shop
SPOKEN_FIELDS = ("title", "brand", "category", "text")  # short ones first


def max_edits(word: str) -> int:
    """Return the number of letters that may be wrong: one of a short word, two of a long one."""
    return 1 if len(word) < ONE_EDIT_BELOW else 2


def can_be_misspelt(word: str) -> bool:
    """True if a word is long enough and has no digit."""
    return len(word) >= MIN_LETTERS and not any(character.isdigit() for character in word)


def doubtful_words(text: str, candidates: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the words of a query that occur in none of the candidates.

    Args:
        text: the query.
        candidates: documents of the best ones; all that share a word with the query are among them.

    Returns:
        Words in lower case, each once; none if there are more than MAX_WORDS.
    """
    unmatched = {word for word in words(text) if can_be_misspelt(word)}
    documents = list(candidates)
    for field in SPOKEN_FIELDS:
        for document in documents:
            if not unmatched:
                return []
            unmatched -= set(words(str(document.get(field) or "")))
    return sorted(unmatched) if len(unmatched) <= MAX_WORDS else []


def corrected(text: str, corrections: Mapping[str, str]) -> str | None:
    """Correct the misspelt words of a text and leave the rest as typed; return None if there is nothing to correct."""
    changed = map_words(text, corrections)
    return changed if changed != text else None
