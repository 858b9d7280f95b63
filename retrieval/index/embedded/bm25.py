"""Keyword search of an embedded index: BM25 as Lucene computes it (Kamphuis et al., ECIR 2020).

Tokens, stems, statistics and document lengths follow the analyzer of schema.index_body(), so that the embedded index and
OpenSearch put the same lots in the same order.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.config.settings import scoring_parameters
from retrieval.files import commit_folder, crc32_of, partial_path, seal_json, unseal_json
from retrieval.index.embedded.postings import NO_ROW, POSTINGS_A_STRIDE, Column, GatheredPostings, NewPostings, Postings, join
from retrieval.index.validation import batches
from retrieval.text.analysis import ANALYSIS, words
from retrieval.text.languages import DEFAULT_LANGUAGE
from retrieval.text.stemming import caching_stemmer, stem

STATISTICS_FILE = "statistics.json"
VOCABULARY_FILE = "vocabulary.txt"
ARRAYS = ("positions", "lengths", "starts", "rows", "counts", "shares")
TEXTS_A_STEP = 10_000  # taken in at a time
CACHED_WORDS = 1 << 18  # stems of the delta's words: more than stem() keeps, for a large catalogue has more
EXACT_LENGTHS = 40  # Lucene keeps a document's length in one byte (SmallFloat.intToByte4): exact up to here, then 4 bits of it
FREE_VALUES = 24  # of that byte: the first lengths, which stand for themselves
SIGNIFICANT_BITS = 4

Living = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # (N,) positions -> whether the lots at them are still there


class Documents(Protocol):
    """Documents that can be scored.

    Attributes:
        positions: (N,) int64, ascending: where each document's lot stands in the database. Lots without a word are not in it.
    """

    @property
    def positions(self) -> NDArray[np.int64]:
        """See above."""
        ...

    def find(self, stemmed: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The (n,) rows of the documents with a word, ascending, and tf / (tf + norm) of the word in each."""
        ...


def bm25_scores(parts: Sequence[Documents], text: str, language: str) -> list[NDArray[np.float32]]:
    """BM25 of the documents of several parts, which count as one index; a word that the text repeats counts each time.

    How many documents there are, and how many of them have a word, is counted over all parts.

    Returns:
        For every part (N,) float32 >= 0.
    """
    # summed in double and only then cut to float, as Lucene does: equal sums stay equal in whatever order they are made
    totals = [np.zeros(len(part.positions)) for part in parts]
    documents = sum(map(len, totals))
    for word in words(text):
        found = [part.find(stem(word, language)) for part in parts]
        containing = sum(len(rows) for rows, _ in found)
        idf = np.log(1 + (documents - containing + 0.5) / (containing + 0.5))
        for total, (rows, shares) in zip(totals, found, strict=True):
            np.add.at(total, rows, idf * shares)
    return [total.astype(np.float32) for total in totals]


@dataclass(frozen=True, slots=True)
class Bm25Index:
    """An immutable inverted index over the texts of lots.

    Attributes:
        positions: (N,) int64, ascending: see Documents.
        lengths: (N,) int32: words of each document.
        postings: of the documents' stems.
        shares: (P,) float64: tf / (tf + norm) of every posting.
        language: of words in Latin letters, a key of SNOWBALL of retrieval.text.stemming.
        last: position of the last text that was read, whether it has a word or not; -1 before the first.
    """

    positions: NDArray[np.int64]
    lengths: NDArray[np.int32]
    postings: Postings
    shares: NDArray[np.float64]
    language: str
    last: int

    @classmethod
    def none(cls, language: str = DEFAULT_LANGUAGE) -> "Bm25Index":
        """Of no text."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32), Postings.none(), np.empty(0), language, -1)

    @classmethod
    def build(cls, texts: Iterable[tuple[int, str]], language: str = DEFAULT_LANGUAGE) -> "Bm25Index":
        """Index (position, text) pairs, which come in ascending order of positions."""
        empty = cls.none(language)
        delta = Bm25Delta(empty)
        for some in batches(texts, TEXTS_A_STEP, lambda text: len(text[1])):
            delta.add(some)
        return empty.merged(delta.view(), lambda positions: np.ones(len(positions), dtype=np.bool_))

    @property
    def average(self) -> float:
        """Words of a document on average; 0 where there is none."""
        return float(self.lengths.mean()) if len(self.lengths) else 0.0

    def find(self, stemmed: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """See Documents."""
        there = self.postings.of(stemmed)
        return self.postings.rows[there], self.shares[there]

    def knows(self, word: str) -> bool:
        """Whether a document has a word, in whatever ending."""
        return len(self.find(stem(word, self.language))[0]) > 0

    def scores(self, text: str) -> NDArray[np.float32]:
        """(N,) float32 >= 0: the BM25 score of every document; see bm25_scores()."""
        return bm25_scores([self], text, self.language)[0]

    def merged(self, delta: "DeltaDocuments", living: Living, before_stride: Callable[[], None] = lambda: None) -> "Bm25Index":
        """Index its documents and those of a delta, without those that are gone; statistics are theirs alone.

        Args:
            delta: of this index.
            living: which documents are still there.
            before_stride: called every now and then; may give up by raising.
        """
        here, new = living(self.positions), living(delta.positions)
        kept = int(np.count_nonzero(here))
        postings = join(self.postings, delta.postings, _numbered(here, 0), _numbered(new, kept), before_stride)
        positions = np.concatenate([self.positions[here], delta.positions[new]])
        lengths = np.concatenate([self.lengths[here], delta.lengths[new]])
        norms = _norms(lengths, float(lengths.mean()) if len(lengths) else 0.0)  # (N,)
        shares = np.empty(len(postings.rows))
        for start in range(0, len(shares), POSTINGS_A_STRIDE):
            before_stride()
            some = slice(start, start + POSTINGS_A_STRIDE)
            shares[some] = postings.counts[some] / (postings.counts[some] + norms[postings.rows[some]])
        return Bm25Index(positions, lengths, postings, shares, self.language, delta.last)

    def save(self, folder: Path, database_id: str = "") -> None:
        """Write the index to a new folder in one step; a folder that is there already stays as it is.

        Args:
            folder: made here.
            database_id: the database that the positions are of.
        """
        partial = partial_path(folder)
        try:
            partial.mkdir()
            for name, values in self._arrays().items():
                np.save(partial / f"{name}.npy", values)
            (partial / VOCABULARY_FILE).write_text("\n".join(self.postings.vocabulary), encoding="utf-8")
            numbers = scoring_parameters()
            statistics = {
                "analysis": ANALYSIS,
                "language": self.language,
                "database_id": database_id,
                "last": self.last,
                "k1": numbers.bm25_k1,
                "b": numbers.bm25_b,
                "crc32": {path.name: crc32_of(path) for path in partial.iterdir()},
            }
            (partial / STATISTICS_FILE).write_text(seal_json(statistics))
            if not folder.exists():
                commit_folder(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path, language: str = DEFAULT_LANGUAGE, database_id: str | None = None) -> "Bm25Index":
        """Map what save() wrote for an index of a language, and of a database where one is given.

        Raises:
            OSError: no such folder.
            ValueError: damaged, or of another version, language or database.
        """
        try:
            statistics = unseal_json((folder / STATISTICS_FILE).read_bytes())
            if database_id not in (None, statistics["database_id"]):
                raise ValueError(f"{folder} is of another index")
            if (statistics["analysis"], statistics["language"]) != (ANALYSIS, language):
                raise ValueError(f"{folder} was written by another version of Gavel, or for another language")
            if (statistics["k1"], statistics["b"]) != (scoring_parameters().bm25_k1, scoring_parameters().bm25_b):
                k1, b = statistics["k1"], statistics["b"]
                raise ValueError(f"{folder} was written with k1 {k1} and b {b}, which are others now")
            for name, checksum in statistics["crc32"].items():
                if crc32_of(folder / name) != checksum:
                    raise ValueError(f"the checksum of {folder / name} does not hold")
            stems = (folder / VOCABULARY_FILE).read_text(encoding="utf-8").split("\n")
            last = int(statistics["last"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} is damaged: {error!r}") from error
        arrays: dict[str, Any] = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS}
        vocabulary = {word: number for number, word in enumerate(filter(None, stems))}
        postings = Postings(vocabulary, *(arrays.pop(name) for name in ("starts", "rows", "counts")))
        return cls(**arrays, postings=postings, language=language, last=last)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        postings = self.postings
        values = (self.positions, self.lengths, postings.starts, postings.rows, postings.counts, self.shares)
        return dict(zip(ARRAYS, values, strict=True))


@dataclass(frozen=True, slots=True)
class DeltaDocuments:
    """Documents that came after those of an index, at one moment.

    Attributes:
        positions: (N,) int64, ascending: see Documents.
        lengths: (N,) int32: words of each document.
        postings: of the documents' stems.
        shares: (P,) float64: tf / (tf + norm) of every posting.
        last: position of the last text that was read; that of the index where none came after it.
    """

    positions: NDArray[np.int64]
    lengths: NDArray[np.int32]
    postings: NewPostings
    shares: NDArray[np.float64]
    last: int

    def find(self, stemmed: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """See Documents."""
        there = self.postings.of(stemmed)
        return self.postings.rows[there], self.shares[there]


class Bm25Delta:
    """Documents that come after those of an index, whose average length they are weighed by; one thread at a time adds.

    Args:
        main: the index.
    """

    def __init__(self, main: Bm25Index) -> None:
        self._stem = caching_stemmer(main.language, CACHED_WORDS)
        self._average, self._last = main.average, main.last
        self._postings = GatheredPostings()
        self._positions, self._lengths, self._shares = Column(np.int64), Column(np.int32), Column(np.float64)

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """Add (position, text) pairs, which come in ascending order of positions; what was read already is passed over."""
        new = [(position, text) for position, text in texts if position > self._last]
        stemmed = [(position, [self._stem(word) for word in words(text)]) for position, text in new]
        documents = [(position, stems) for position, stems in stemmed if stems]
        if documents:
            self._add(documents)
        if new:
            self._last = new[-1][0]

    def view(self) -> DeltaDocuments:
        """What is there now; it does not change."""
        return DeltaDocuments(self._positions.values, self._lengths.values, self._postings.view(), self._shares.values, self._last)

    def _add(self, documents: Sequence[tuple[int, list[str]]]) -> None:
        lengths = np.array([len(stems) for _, stems in documents], dtype=np.int32)
        self._postings.add([stems for _, stems in documents])
        self._positions.append(np.array([position for position, _ in documents]))
        self._lengths.append(lengths)
        postings, known = self._postings.view(), len(self._shares.values)
        # where the index has no document, these are all that there is to take an average of
        norms = _norms(self._lengths.values, self._average or float(lengths.mean()))
        self._shares.append(postings.counts[known:] / (postings.counts[known:] + norms[postings.rows[known:]]))


def kept_length(length: int) -> int:
    """The length of a document that is left once Lucene has put it in one byte."""
    if length <= EXACT_LENGTHS:
        return length
    rest = length - FREE_VALUES
    shift = rest.bit_length() - SIGNIFICANT_BITS
    return FREE_VALUES + (rest >> shift << shift)


def _norms(lengths: NDArray[np.int32], average: float) -> NDArray[np.float64]:
    """(N,) float64: what BM25 adds to the word counts of documents of some lengths."""
    numbers = scoring_parameters()
    different, which = np.unique(lengths, return_inverse=True)
    kept = np.array([kept_length(int(length)) for length in different], dtype=np.float64)[which]
    return numbers.bm25_k1 * (1 - numbers.bm25_b + numbers.bm25_b * kept / max(average, 1.0))


def _numbered(kept: NDArray[np.bool_], first: int) -> NDArray[np.int32]:
    """(N,) int32: the rows of documents of which only some are kept."""
    return np.where(kept, np.cumsum(kept) - 1 + first, NO_ROW).astype(np.int32)
