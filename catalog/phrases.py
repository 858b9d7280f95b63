"""Queries out of class names and class descriptions: the words that tell a class from its siblings, and short phrases."""

import re
from collections.abc import Iterator

MIN_WORDS = 3
LONG_SENTENCE = 14  # words; a longer one is cut where a new clause begins
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|[\r\n]+")
_CLAUSE_START = re.compile(
    r",? - |; |, (?=with the difference)|,? (?:but|which|making|although|though|then|and hence)(?: is| are| has)? "
)
_OPENING = frozenset(
    {"a", "an", "the", "it", "this", "these", "there", "they", "much", "usually", "also", "very", "its", "in", "and", "as", "to"}
)
_COPULA = frozenset({"is", "are", "has", "have"})


def distinctive_words(name: str, coarse: str) -> list[str]:
    """Words of a class name that its coarse class lacks, compared without regard to case and plural.

    Args:
        name: words joined by hyphens or spaces, such as "Galia-Melon".
        coarse: in the same form, such as "Melon".

    Returns:
        The remaining words in order; empty when the name says no more than the coarse class.
    """
    common = {_stem(word) for word in _words(coarse)}
    return [word for word in _words(name) if _stem(word) not in common]


def phrases_of(description: str, name: str, coarse: str) -> list[str]:
    """Cut a description into phrases such as a buyer might type.

    Sentences lose an opening like "Granny Smith is a"; long ones are cut at their clauses.

    Args:
        description: plain English text.
        name: the class that it describes.
        coarse: its coarse class.

    Returns:
        Phrases of at least MIN_WORDS words in the order of the text, without repetition or closing punctuation.
    """
    subject = {_stem(word) for word in (*_words(name), *_words(coarse))}
    phrases = (_without_opening(clause.split(), subject) for clause in _clauses(description))
    bare = (" ".join(words).strip(" .,;:!?-") for words in phrases)
    return list(dict.fromkeys(phrase for phrase in bare if len(phrase.split()) >= MIN_WORDS))


def _clauses(text: str) -> Iterator[str]:
    for sentence in _SENTENCE_END.split(text):
        if len(sentence.split()) <= LONG_SENTENCE:
            yield sentence
        else:
            yield from _CLAUSE_START.split(sentence)


def _without_opening(words: list[str], subject: set[str]) -> list[str]:
    """Drop "Granny Smith is a" and the like: everything up to the verb, if it only names the subject, and an article after it."""
    for place, word in enumerate(words[:6]):
        if word.lower() in _COPULA:
            words = words[place + 1 :]
            break
        if word.lower() not in _OPENING and _stem(word.strip(",.")) not in subject:
            break
    return words[1:] if words and words[0].lower() in {"a", "an", "the"} else words


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[-\s]+", name) if word]


def _stem(word: str) -> str:
    """Lower case without a plural ending: tomatoes -> tomato, berries -> berry, juices -> juice."""
    lower = word.lower()
    for ending, singular in (("ies", "y"), ("oes", "o"), ("ss", "ss"), ("s", "")):
        if lower.endswith(ending) and len(lower) > len(ending) + 2:
            return lower[: -len(ending)] + singular
    return lower
