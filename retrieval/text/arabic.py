"""One spelling for words in Arabic letters, whoever typed them: with or without vowel signs, on an Arabic or a Persian keyboard.

The letters are folded as by Lucene's ArabicNormalizer, with two differences:

- Characters that Lucene leaves alone are folded, too: wasla, the signs past sukun, the yeh and kaf of Persian keyboards, digits.
- Teh marbuta is not folded to heh. It is the last letter of many nouns, and published encoders were trained on words with it. In
  keyword search the stemmer strips teh marbuta, and also the heh that careless writing puts in its place.

Hamza on waw or yeh stays, as in Lucene. docs/adr/0013-words-of-several-languages.md gives the reasons.
"""

import re
import unicodedata
from collections.abc import Mapping

ARABIC = "\u0600-\u06ff\u0750-\u077f\u0870-\u08ff\ufb50-\ufdff\ufe70-\ufefc"  # the blocks of the script, for a character class
TATWEEL = "\u0640"
ALEF, YEH, KAF = "\u0627", "\u064a", "\u0643"
_ALEFS = "\u0622\u0623\u0625\u0671\u0672\u0673"  # with madda, with hamza above and below, wasla, with wavy hamza
_YEHS = "\u0649\u06cc"  # without dots (alef maksura), Persian
_KAFS = "\u06a9\u06aa"  # Persian, swash
_SIGNS = [*range(0x0610, 0x061B), *range(0x064B, 0x0660), 0x0670, *range(0x06D6, 0x06DD), *range(0x06DF, 0x06E5)]
_SIGNS += [0x06E7, 0x06E8, *range(0x06EA, 0x06EE), *range(0x08D3, 0x08E2), *range(0x08E3, 0x0900)]
_DIGITS = {chr(zero + digit): str(digit) for zero in (0x0660, 0x06F0) for digit in range(10)}

# letter -> its replacement; the analyzers of OpenSearch use the same table
LETTERS: Mapping[str, str] = {
    TATWEEL: "",
    **{chr(sign): "" for sign in _SIGNS},
    **dict.fromkeys(_ALEFS, ALEF),
    **dict.fromkeys(_YEHS, YEH),
    **dict.fromkeys(_KAFS, KAF),
    **_DIGITS,
    "\u066b": ".",  # decimal sign
    "\u066c": ",",  # thousands sign
}

_TABLE = str.maketrans(dict(LETTERS))
_SCRIPT = re.compile(f"[{ARABIC}]")
_JOINERS_AT_LETTERS = re.compile(f"(?<=[{ARABIC}])[\u200c\u200d]+|[\u200c\u200d]+(?=[{ARABIC}])")


def has_arabic(text: str) -> bool:
    """True if a text has a character of the Arabic script."""
    return not text.isascii() and _SCRIPT.search(text) is not None


def fold_letters(text: str) -> str:
    """Fold the Arabic letters of a text and remove joiners beside them; other characters stay unchanged."""
    return _JOINERS_AT_LETTERS.sub("", text).translate(_TABLE) if has_arabic(text) else text


def fold_arabic(text: str) -> str:
    """Fold the Arabic letters of a cleaned text.

    Args:
        text: text in NFKC, as clean_text() returns it, so that it has no presentation forms; in any scripts.

    Returns:
        The text in NFKC with folded letters, without joiners beside Arabic letters; those of emoji and of Indian scripts stay.
        A text without Arabic characters stays unchanged. Folding again changes nothing, and no text becomes longer.
    """
    if not has_arabic(text):
        return text
    return unicodedata.normalize("NFKC", fold_letters(text))  # characters that a removed sign separated may compose now
