"""Make queries from class names and descriptions: the words that distinguish a class from its siblings, and short phrases."""

import re
from collections.abc import Iterator

MIN_WORDS = 3
LONG_SENTENCE = 14  # words; a longer sentence is split at its clauses
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|[\r\n]+")
_CLAUSE_START = re.compile(
    r",? - |; |, (?=with the difference)|,? (?:but|which|making|although|though|then|and hence)(?: is| are| has)? "
)
_OPENING = frozenset(
    {"a", "an", "the", "it", "this", "these", "there", "they", "much", "usually", "also", "very", "its", "in", "and", "as", "to"}
)
_COPULA = frozenset({"is", "are", "has", "have"})


def distinctive_words(name: str, coarse: str) -> list[str]:
    """Return the words of a class name that its coarse class lacks, regardless of case and plural.

    Args:
        name: name of the class, words joined by hyphens or spaces, such as "Galia-Melon".
        coarse: name of the coarse class in the same form, such as "Melon".

    Returns:
        The remaining words in order; empty if the coarse class has all words.
    """
    common = {_stem(word) for word in _words(coarse)}
    return [word for word in _words(name) if _stem(word) not in common]


def phrases_of(description: str, name: str, coarse: str) -> list[str]:
    """Split a description into phrases as a buyer might type them.

    Openings like "Granny Smith is a" are dropped; long sentences are split at their clauses.

    Args:
        description: plain English text.
        name: name of the class.
        coarse: name of the coarse class.

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
    """Drop an opening like "Granny Smith is a": the subject's words up to the verb, and then a leading article."""
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
    """Return a word in lower case without plural ending: tomatoes -> tomato, berries -> berry, juices -> juice."""
    lower = word.lower()
    for ending, singular in (("ies", "y"), ("oes", "o"), ("ss", "ss"), ("s", "")):
        if lower.endswith(ending) and len(lower) > len(ending) + 2:
            return lower[: -len(ending)] + singular
    return lower
