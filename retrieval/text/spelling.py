"""Spelling: find the words of a query that no item has, and correct the query.

A word is corrected if it has four letters or more, has no digit, and occurs in no text, brand or category of the index. Words with
digits are left alone, because a number or model is rarely a misspelling of another. A correction is a word of some title.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from retrieval.text.analysis import map_words, words

MIN_LETTERS = 4
ONE_EDIT_BELOW = 6  # words of fewer letters may have one edit, others two
MAX_WORDS = 8  # a query with more unmatched words is not misspelt; the shop just has no such items
SPOKEN_FIELDS = ("title", "brand", "category", "text")  # short ones first, because most words match there


def max_edits(word: str) -> int:
    """Return the number of edits between a word and its correction that are allowed: 1 for short words, 2 for long ones."""
    return 1 if len(word) < ONE_EDIT_BELOW else 2


def can_be_misspelt(word: str) -> bool:
    """True if a word is long enough and has no digit."""
    return len(word) >= MIN_LETTERS and not any(character.isdigit() for character in word)


def doubtful_words(text: str, candidates: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the words of a query that occur in none of the candidates.

    Args:
        text: text of the query.
        candidates: documents of the best candidates.

    Returns:
        The words in lower case, sorted, each once; none if there are more than MAX_WORDS.
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
