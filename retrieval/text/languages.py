"""Languages whose words in Latin letters an index can stem; words in Arabic letters are stemmed in every index."""

from typing import Literal, get_args

from retrieval.errors import InvalidInput

IndexLanguage = Literal["en", "de", "fr", "es"]
DEFAULT_LANGUAGE: IndexLanguage = "en"


def check_language(language: str) -> None:
    """Check that words of a language can be stemmed.

    Raises:
        InvalidInput: no stemmer knows the language; the message lists the known ones.
    """
    if language not in get_args(IndexLanguage):
        known = ", ".join(get_args(IndexLanguage))
        raise InvalidInput(f"there is no stemmer for the language {language!r} of an index; known are {known} (Arabic is always)")
