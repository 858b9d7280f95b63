"""The words of texts and queries, as the analyzer of schema.index_body() makes them."""

import re
import unicodedata
from functools import lru_cache

from retrieval.arabic import fold_letters
from retrieval.index.lot_columns import lower_case
from retrieval.index.stemming import stem
from retrieval.schema import DEFAULT_LANGUAGE

ANALYSIS = 3  # to be raised when tokens, stems or files made of them change, so that older snapshots are built again
ASCII_WORD = re.compile(r"\w+", re.ASCII)
JOINERS = "\u200c\u200d"


def shares_word(word: str, text: str, language: str = DEFAULT_LANGUAGE) -> bool:
    """Whether a text has a word, in whatever ending."""
    if text.isascii() and word[:2] not in text:  # which no ending touches, and no folding
        return False
    return stem(word, language) in (stem(other, language) for other in words(text))


def words(text: str) -> list[str]:
    """The words of a text in lower case, their Arabic letters folded, before stemming."""
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    text = fold_letters(text)
    return [lower_case(word) for word in "".join(c if _in_word(c) else " " for c in text).split()]


@lru_cache(maxsize=65_536)
def _in_word(character: str) -> bool:
    r"""Java's \w with UNICODE_CHARACTER_CLASS: unlike Python's it has marks and joiners, and no numbers but digits."""
    category = unicodedata.category(character)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or character in JOINERS
