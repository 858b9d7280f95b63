"""Languages of an index, by which it stems words in Latin letters; words in Arabic letters are stemmed in every index."""

from typing import Literal, get_args

from retrieval.errors import InvalidInput

IndexLanguage = Literal["en", "de", "fr", "es"]
DEFAULT_LANGUAGE: IndexLanguage = "en"


def check_language(language: str) -> None:
    """Check that words of a language can be stemmed.

    Raises:
        InvalidInput: there is no stemmer for the language; the message lists the supported ones.
    """
    if language not in get_args(IndexLanguage):
        supported = ", ".join(get_args(IndexLanguage))
        raise InvalidInput(
            f"there is no stemmer for the language {language!r} of an index; known are {supported} (Arabic is always)"
        )
