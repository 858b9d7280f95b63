"""Stems of words, equal to those of OpenSearch's analyzers: from Snowball, and for Arabic letters from Lucene's light stemmer.

The script of a word selects the stemmer. Words in Arabic letters are stemmed as Arabic in every index, all others in the language
of the index.
"""

from collections.abc import Callable
from functools import lru_cache

from snowballstemmer.english_stemmer import EnglishStemmer
from snowballstemmer.french_stemmer import FrenchStemmer
from snowballstemmer.german_stemmer import GermanStemmer
from snowballstemmer.spanish_stemmer import SpanishStemmer

from retrieval.text.analysis import words
from retrieval.text.arabic import has_arabic

SNOWBALL = {"en": EnglishStemmer, "de": GermanStemmer, "fr": FrenchStemmer, "es": SpanishStemmer}

# "the", by itself and after "and", "with", "like", "so"; "for the"; "and"
ARTICLES = (
    "\u0627\u0644",
    "\u0648\u0627\u0644",
    "\u0628\u0627\u0644",
    "\u0643\u0627\u0644",
    "\u0641\u0627\u0644",
    "\u0644\u0644",
    "\u0648",
)
# her; dual; plural of feminine and of masculine nouns in both cases; adjectives; his, or a careless feminine; the feminine; my
ENDINGS = (
    "\u0647\u0627",
    "\u0627\u0646",
    "\u0627\u062a",
    "\u0648\u0646",
    "\u064a\u0646",
    "\u064a\u0647",
    "\u064a\u0629",
    "\u0647",
    "\u0629",
    "\u064a",
)
CACHED_LETTERS = 64  # stems of longer words are not cached, because few items have them
MIN_LETTERS = 2  # letters of a word that stripping must leave
MIN_LETTERS_AFTER_AND = 3  # more after "and", because it is one letter, with which many short words begin


def stemmer(language: str) -> Callable[[str], str]:
    """Return a new stemmer: word in lower case with folded letters -> its stem. Threads must not share it."""
    latin: Callable[[str], str] = SNOWBALL[language]().stemWord
    return lambda word: stem_arabic(word) if has_arabic(word) else latin(word)


def caching_stemmer(language: str, most_words: int) -> Callable[[str], str]:
    """Return a stemmer() that caches the stems of at most `most_words` words; long words are stemmed each time."""
    stem_anew = stemmer(language)
    stem_cached = lru_cache(most_words)(stem_anew)
    return lambda word: stem_cached(word) if len(word) <= CACHED_LETTERS else stem_anew(word)


def stem(word: str, language: str) -> str:
    """Return the stem of a word; those of short words are cached. Threads may call it."""
    return _cached_stem(word, language) if len(word) <= CACHED_LETTERS else stemmer(language)(word)


@lru_cache(maxsize=65_536)
def _cached_stem(word: str, language: str) -> str:
    return stemmer(language)(word)


def has_same_stem(word: str, text: str, language: str) -> bool:
    """True if `text` has a word with the same stem as `word`."""
    if text.isascii() and word[:2] not in text:  # stemming and folding never change the first two letters
        return False
    return stem(word, language) in (stem(other, language) for other in words(text))


def stem_arabic(word: str) -> str:
    """Strip one article, then every ending in turn: light10 of Larkey, Ballesteros and Connell (2007), as in Lucene."""
    for article in ARTICLES:
        least = MIN_LETTERS_AFTER_AND if len(article) == 1 else MIN_LETTERS
        if word.startswith(article) and len(word) >= len(article) + least:
            word = word[len(article) :]
            break
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) >= len(ending) + MIN_LETTERS:
            word = word[: -len(ending)]
    return word
