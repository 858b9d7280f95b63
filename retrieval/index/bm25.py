"""Keyword search of an embedded index: BM25 as Lucene computes it (Kamphuis et al., ECIR 2020), by bm25s.

Tokens, stems, statistics and document lengths follow the analyzer of schema.index_body(), so that the embedded index and
OpenSearch put the same lots in the same order.
"""

import json
import logging
import os
import re
import shutil
import threading
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray

from retrieval.arabic import fold_letters
from retrieval.index.lot_columns import lower_case
from retrieval.index.stemming import stem, stemmer
from retrieval.schema import DEFAULT_LANGUAGE
from retrieval.settings import hyperparameters

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it writes its debug lines to stderr by a handler of its own

POSITIONS_FILE = "positions.npy"
STATISTICS_FILE = "statistics.json"
ANALYSIS = 2  # of texts; to be raised when tokens, stems or weights change, so that older snapshots are built again
ASCII_WORD = re.compile(r"\w+", re.ASCII)
JOINERS = "\u200c\u200d"
EXACT_LENGTHS = 40  # Lucene keeps a document's length in one byte (SmallFloat.intToByte4): exact up to here, then 4 bits of it
FREE_VALUES = 24  # of that byte: the first lengths, which stand for themselves
SIGNIFICANT_BITS = 4


class Bm25Index:
    """An immutable inverted index over the texts of lots.

    Attributes:
        positions: (N,) int64, ascending: where each document's lot stands in the database. Lots without a word are not in it.
        language: of words in Latin letters, a key of schema.STEMMERS.
    """

    def __init__(self, scorer: bm25s.BM25 | None, positions: NDArray[np.int64], language: str) -> None:
        self._scorer = scorer
        self.positions = positions
        self.language = language

    @classmethod
    def build(cls, texts: Iterable[tuple[int, str]], language: str = DEFAULT_LANGUAGE) -> "Bm25Index":
        """Index (position, text) pairs, which come in ascending order of positions."""
        stem_of = lru_cache(maxsize=None)(stemmer(language))  # a large catalogue has more words than stem() keeps
        vocabulary: dict[str, int] = {}
        documents: list[list[int]] = []
        positions: list[int] = []
        for position, text in texts:
            tokens = [vocabulary.setdefault(stem_of(word), len(vocabulary)) for word in words(text)]
            if tokens:
                documents.append(tokens)
                positions.append(position)
        if not documents:
            return cls(None, np.empty(0, dtype=np.int64), language)
        numbers = hyperparameters()
        scorer = bm25s.BM25(k1=numbers.bm25_k1, b=numbers.bm25_b, method="lucene", dtype="float64", backend="numpy")
        scorer.index((documents, vocabulary), create_empty_token=False, show_progress=False)
        _round_lengths(scorer, np.array([len(document) for document in documents]))
        return cls(scorer, np.array(positions, dtype=np.int64), language)

    def knows(self, word: str) -> bool:
        """Whether a document has a word, in whatever ending."""
        return self._scorer is not None and stem(word, self.language) in self._scorer.vocab_dict

    def scores(self, text: str) -> NDArray[np.float32]:
        """(N,) float32 >= 0: the BM25 score of every document; a word that the query repeats counts each time."""
        tokens = [stem(word, self.language) for word in words(text)]
        if self._scorer is None or not tokens:
            return np.zeros(len(self.positions), dtype=np.float32)
        # summed in double and only then cut to float, as Lucene does: equal sums stay equal in whatever order they are made
        scores: NDArray[np.float32] = self._scorer.get_scores(tokens).astype(np.float32)
        return scores

    def save(self, folder: Path) -> None:
        """Write the index to a new folder in one step; a folder that is there already stays as it is."""
        partial = folder.with_name(f"{folder.name}.{os.getpid()}-{threading.get_ident()}.partial")
        statistics = {"analysis": ANALYSIS, "language": self.language, "documents": len(self.positions)}
        try:
            partial.mkdir()
            if self._scorer is not None:
                self._scorer.save(partial, show_progress=False)
            np.save(partial / POSITIONS_FILE, self.positions)
            (partial / STATISTICS_FILE).write_text(json.dumps(statistics))
            for path in partial.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if not folder.exists():
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path, language: str = DEFAULT_LANGUAGE) -> "Bm25Index":
        """Read what save() wrote for an index of a language.

        Raises:
            OSError: no such folder.
            ValueError: damaged, or of another version or language.
        """
        try:
            statistics = json.loads((folder / STATISTICS_FILE).read_text())
            if (statistics["analysis"], statistics["language"]) != (ANALYSIS, language):
                raise ValueError(f"{folder} was written by another version of Gavel, or for another language")
            documents = statistics["documents"]
            positions = np.load(folder / POSITIONS_FILE)
            scorer = bm25s.BM25.load(folder, show_progress=False) if documents else None
        except (KeyError, TypeError, EOFError) as error:
            raise ValueError(f"{folder} is damaged: {error!r}") from error
        if len(positions) != documents or (scorer is not None and scorer.scores["num_docs"] != documents):
            raise ValueError(f"{folder} does not hold the {documents} documents that it should")
        if scorer is not None and (scorer.k1, scorer.b) != (hyperparameters().bm25_k1, hyperparameters().bm25_b):
            raise ValueError(f"{folder} was written with k1 {scorer.k1} and b {scorer.b}, which are others now")
        return cls(scorer, positions, language)


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


def kept_length(length: int) -> int:
    """The length of a document that is left once Lucene has put it in one byte."""
    if length <= EXACT_LENGTHS:
        return length
    rest = length - FREE_VALUES
    shift = rest.bit_length() - SIGNIFICANT_BITS
    return FREE_VALUES + (rest >> shift << shift)


def _round_lengths(scorer: bm25s.BM25, lengths: NDArray[np.int64]) -> None:
    """Weigh every word as if its document had the length that Lucene keeps of it.

    bm25s stores weights idf * tf / (tf + norm(length)) and no word counts; they are had back from the weights.
    """
    kept = np.array([kept_length(int(length)) for length in lengths])
    if (kept == lengths).all():
        return
    frequencies = np.diff(scorer.scores["indptr"])
    idf = np.repeat(np.log(1 + (len(lengths) - frequencies + 0.5) / (frequencies + 0.5)), frequencies)
    documents = scorer.scores["indices"]
    norms, kept_norms = (scorer.k1 * (1 - scorer.b + scorer.b * some / lengths.mean())[documents] for some in (lengths, kept))
    share = scorer.scores["data"] / idf  # tf / (tf + norm)
    counts = np.rint(norms * share / (1 - share))
    scorer.scores["data"] = idf * counts / (counts + kept_norms)
