"""Text from outside: checks, normal forms, and tokenisation into words.

Every row, query, filter, event and file name goes through here. Both indices, the ranking features and the spelling take their
words from words(); the analyzers of OpenSearch (retrieval.index.opensearch.mapping) use the same tables.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from itertools import groupby

from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.text.arabic import fold_arabic, fold_letters

ANALYSIS = 4  # version; raise it when words, stems or files of them change, so that files of older versions are recognised
JOINERS = "\u200c\u200d"
# Joiners, variation selectors and tags: emoji and Indian scripts are drawn with them, so texts keep them and words do not
COMBINING = f"{JOINERS}\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0100-\U000e01ef"
# The other code points of Unicode's Default_Ignorable_Code_Point: soft hyphen, width zero, marks of direction, fillers
UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"
)
UNSEEN_IN_WORDS = f"[{UNSEEN}{COMBINING}]"  # written so that Python and Java read it alike, as is the next
WORD_CATEGORIES = ("L", "M", "Nd", "Nl", "Pc")  # of Unicode: letters, marks, digits, numerals, underscores
WORD_PATTERN = "[" + "".join(f"\\p{{{category}}}" for category in WORD_CATEGORIES) + "]+"  # of Java

_HALF = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # but for tabs and line ends
_UNSEEN, _UNSEEN_IN_WORDS = re.compile(f"[{UNSEEN}]"), re.compile(UNSEEN_IN_WORDS)
_LINES = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)


def check_text(text: str, name: str) -> None:
    """Reject text that cannot be stored.

    Args:
        text: from outside.
        name: of the field or file that it came from, for the message.

    Raises:
        InvalidInput: it holds half a character, as a cut JSON escape or a byte that is no UTF-8 leaves one.
    """
    if not text.isascii() and _HALF.search(text):
        raise InvalidInput(f"{name} holds half a character (a lone surrogate) and is no UTF-8: {text[:40]!r}; write it in UTF-8")


def check_request_text(text: str, name: str) -> None:
    """Reject text of a request that cannot be stored or searched for; arguments as check_text()'s.

    Raises:
        InvalidQuery: it holds half a character, or a control character other than white space.
    """
    try:
        check_text(text, name)
    except InvalidInput as error:
        raise InvalidQuery(str(error)) from error
    if control := _CONTROLS.search(text):
        raise InvalidQuery(f"{name} holds the control character U+{ord(control[0]):04X}; send the text without it")


def readable(text: str) -> str:
    r"""Escape half characters, so that a text can be written: a byte that is no UTF-8 becomes \xe9, others \ud83d."""
    return text if text.isascii() else _HALF.sub(_escaped, text)


def compose(text: str) -> str:
    """Normalise text to NFC, each control character but tabs and line ends a space."""
    return unicodedata.normalize("NFC", _CONTROLS.sub(" ", text))


def clean_text(text: str) -> str:
    """Normalise text to NFKC, without control and unseen characters, white space folded to single spaces."""
    if text.isascii():
        return " ".join(_LINES.sub(" ", text).split())
    visible = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(_LINES.sub(" ", unicodedata.normalize("NFKC", visible)).split())  # characters may compose now


def fold_text(text: str) -> str:
    """Clean text and fold Arabic letters, digits and signs (retrieval.text.arabic); other scripts are only cleaned."""
    cleaned = clean_text(text)
    folded = fold_arabic(cleaned)
    return folded if folded == cleaned else clean_text(folded)  # removed signs may leave adjacent white space


def fold_label(text: str) -> str:
    """Fold a brand or category for comparison: NFC, lower case, without unseen characters."""
    if text.isascii():
        return text.lower()
    return "".join(map(_lower_case, _UNSEEN_IN_WORDS.sub("", unicodedata.normalize("NFC", text))))


def words(text: str) -> list[str]:
    """Cut a text into words, before stemming.

    Returns:
        Runs of letters, marks and digits, in lower case and NFC, Arabic letters folded, unseen characters gone; in their order.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    visible = fold_letters(_UNSEEN_IN_WORDS.sub("", unicodedata.normalize("NFC", text)))
    return "".join(map(_of_word, visible)).split()


def map_words(text: str, replacements: Mapping[str, str]) -> str:
    """Replace some words of a text, all else as it was.

    Args:
        text: in NFC.
        replacements: word, as words() has it -> its replacement.
    """
    runs = ("".join(run) for _, run in groupby(text, lambda c: _of_word(c) != " " or bool(_UNSEEN_IN_WORDS.match(c))))
    return "".join(replacements.get("".join(words(run)), run) for run in runs)


def _escaped(half: re.Match[str]) -> str:
    code = ord(half[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _lower_case(character: str) -> str:
    """Lower case of one character, as Lucene has it: without a final sigma, and İ becomes a plain i."""
    return character.lower()[0]


@lru_cache(maxsize=65_536)
def _of_word(character: str) -> str:
    """Return a character in lower case, or a space if it belongs to no word."""
    category = unicodedata.category(character)
    return _lower_case(character) if category in WORD_CATEGORIES or category[0] in WORD_CATEGORIES else " "
