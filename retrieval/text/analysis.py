"""Text from outside: checks, normal forms, and tokenisation into words.

Every row, query, filter, event and file name goes through this module. The embedded index, the ranking features and the spelling
take their words from words(). The analyzers of OpenSearch (retrieval.index.opensearch.mapping) use the same tables.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from itertools import groupby

from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.text.arabic import fold_arabic, fold_letters

ANALYSIS = 4  # version of words and stems; raise it when they or their files change, so that older files are recognised
JOINERS = "\u200c\u200d"
# Joiners, variation selectors and tags. Emoji and Indian scripts are drawn with them, so they stay in texts, but not in words
COMBINING = f"{JOINERS}\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0100-\U000e01ef"
# The other code points of Unicode's Default_Ignorable_Code_Point: soft hyphen, width zero, marks of direction, fillers
UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"
)
UNSEEN_IN_WORDS = f"[{UNSEEN}{COMBINING}]"  # a regular expression that Python and Java read alike
WORD_CATEGORIES = ("L", "M", "Nd", "Nl", "Pc")  # Unicode categories: letters, marks, digits, numerals, underscores
WORD_PATTERN = "[" + "".join(f"\\p{{{category}}}" for category in WORD_CATEGORIES) + "]+"  # a regular expression of Java

_HALF = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # except tabs and line ends
_UNSEEN, _UNSEEN_IN_WORDS = re.compile(f"[{UNSEEN}]"), re.compile(UNSEEN_IN_WORDS)
_LINES = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)


def check_text(text: str, name: str) -> None:
    """Reject text that cannot be stored.

    Args:
        text: text from outside.
        name: name of the text's field or file, for the message.

    Raises:
        InvalidInput: the text holds half a character (a lone surrogate), which a cut JSON escape or invalid UTF-8 leaves behind.
    """
    if not text.isascii() and _HALF.search(text):
        raise InvalidInput(f"{name} holds half a character (a lone surrogate) and is no UTF-8: {text[:40]!r}; write it in UTF-8")


def check_request_text(text: str, name: str) -> None:
    """Reject text of a request that cannot be stored or searched for; the arguments are those of check_text().

    Raises:
        InvalidQuery: the text holds half a character, or a control character other than a tab or line end.
    """
    try:
        check_text(text, name)
    except InvalidInput as error:
        raise InvalidQuery(str(error)) from error
    if control := _CONTROLS.search(text):
        raise InvalidQuery(f"{name} holds the control character U+{ord(control[0]):04X}; send the text without it")


def readable(text: str) -> str:
    r"""Escape half characters, so that the text can be written: an invalid UTF-8 byte as \xe9, a lone surrogate as \ud83d."""
    return text if text.isascii() else _HALF.sub(_escaped, text)


def compose(text: str) -> str:
    """Normalise text to NFC; replace control characters, except tabs and line ends, by spaces."""
    return unicodedata.normalize("NFC", _CONTROLS.sub(" ", text))


def clean_text(text: str) -> str:
    """Normalise text to NFKC, remove unseen characters, and fold white space and control characters to single spaces."""
    if text.isascii():
        return " ".join(_LINES.sub(" ", text).split())
    visible = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(_LINES.sub(" ", unicodedata.normalize("NFKC", visible)).split())  # characters that were apart may compose now


def fold_text(text: str) -> str:
    """Clean text and fold Arabic letters, digits and signs (retrieval.text.arabic); other scripts are only cleaned."""
    cleaned = clean_text(text)
    folded = fold_arabic(cleaned)
    return folded if folded == cleaned else clean_text(folded)  # removed signs may leave adjacent white space


def fold_label(text: str) -> str:
    """Fold a brand or category for comparison: to NFC and lower case, without unseen characters."""
    if text.isascii():
        return text.lower()
    return "".join(map(_lower_case, _UNSEEN_IN_WORDS.sub("", unicodedata.normalize("NFC", text))))


@lru_cache(maxsize=4_096)
def fold_name(name: str) -> str:
    """Fold the name of a column without case, spaces and marks: "Ends At", "endsAt", "*EndsAt" and "ends_at" are one name."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def words(text: str) -> list[str]:
    """Cut a text into words, before stemming.

    Returns:
        The runs of letters, marks, digits and underscores, in the order of the text. They are in lower case and NFC, with folded
        Arabic letters and without unseen characters.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    visible = fold_letters(_UNSEEN_IN_WORDS.sub("", unicodedata.normalize("NFC", text)))
    return "".join(map(_of_word, visible)).split()


def map_words(text: str, replacements: Mapping[str, str]) -> str:
    """Replace some words of a text; everything between them stays.

    Args:
        text: text in NFC.
        replacements: word, as words() writes it -> its replacement.
    """
    runs = ("".join(run) for _, run in groupby(text, lambda c: _of_word(c) != " " or bool(_UNSEEN_IN_WORDS.match(c))))
    return "".join(replacements.get("".join(words(run)), run) for run in runs)


def _escaped(half: re.Match[str]) -> str:
    code = ord(half[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _lower_case(character: str) -> str:
    """Return one character in lower case as Lucene does: sigma has no final form, and İ becomes a plain i."""
    return character.lower()[0]


@lru_cache(maxsize=65_536)
def _of_word(character: str) -> str:
    """Return a character in lower case, or a space if it belongs to no word."""
    category = unicodedata.category(character)
    return _lower_case(character) if category in WORD_CATEGORIES or category[0] in WORD_CATEGORIES else " "
