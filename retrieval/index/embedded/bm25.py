"""Inverted lists of an embedded index, scored with BM25 as Lucene computes it (Kamphuis et al., ECIR 2020).

Tokens, stems, statistics and document lengths follow the analyzer of opensearch.mapping.index_body(), so that the embedded index
and OpenSearch put the same items in the same order.

A Bm25Index is an immutable segment, which stores the postings term after term. A Bm25Buffer collects the postings of later
documents, document after document, until they are merged into a new Bm25Index.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.config.settings import scoring_parameters
from retrieval.files import building_folder, crc32_of, seal_json, unseal_json
from retrieval.index.embedded.filter_columns import RowIds
from retrieval.index.embedded.growing_array import GrowingArray
from retrieval.index.validation import batches
from retrieval.text.analysis import ANALYSIS, words
from retrieval.text.languages import DEFAULT_LANGUAGE
from retrieval.text.stemming import caching_stemmer, stem

STATISTICS_FILE = "statistics.json"
VOCABULARY_FILE = "vocabulary.txt"
ARRAYS = ("positions", "lengths", "starts", "rows", "counts", "shares")  # files of row_ids, lengths, Postings and tf_weights
TEXTS_PER_STEP = 10_000  # texts that are added to a buffer at a time
CACHED_STEMS = 1 << 18  # stems that a buffer caches; more than stem() does, because a large catalogue has more words than queries
POSTINGS_PER_STRIDE = 1 << 20  # postings merged at a time, so that searches wait milliseconds at most for the interpreter
NO_DOC = -1
# Lucene stores a document's length in one byte (SmallFloat.intToByte4): exactly up to 40, then with 4 significant bits
EXACT_LENGTHS = 40
FREE_VALUES = 24  # lengths below 24 are values of the byte themselves; the others are counted from there
SIGNIFICANT_BITS = 4

DocIds = NDArray[np.int32]
"""Numbers of documents in a segment, from 0; an item is a document only if it has a term."""
IsLive = Callable[[RowIds], NDArray[np.bool_]]
"""Function: (N,) row ids -> (N,) bool, True for rows that were not replaced or deleted."""


@dataclass(frozen=True, slots=True)
class Bm25Parameters:
    """Parameters of BM25.

    Attributes:
        k1: saturation of term frequency, > 0.
        b: length normalisation, 0 to 1.
    """

    k1: float
    b: float

    @classmethod
    def of_process(cls) -> "Bm25Parameters":
        """Return the parameters in the scoring parameters of this process."""
        return cls(scoring_parameters().bm25_k1, scoring_parameters().bm25_b)


class Segment(Protocol):
    """A set of N documents that can be scored."""

    @property
    def row_ids(self) -> RowIds:
        """Return the row ids of the documents' items, (N,) int64, ascending."""
        ...

    def find(self, term: str) -> tuple[DocIds, NDArray[np.float64]]:
        """Return the (n,) ascending ids of the documents that have a term, and (n,) tf / (tf + norm) of the term in each."""
        ...


def bm25_scores(segments: Sequence[Segment], text: str, language: str) -> list[NDArray[np.float32]]:
    """Return the BM25 scores of the documents of several segments, which count as one index.

    The number of documents, and of those that have a term, is counted over all segments.

    Args:
        segments: segments with N documents each.
        text: text of the query; a repeated word counts each time.
        language: language of words in Latin letters.

    Returns:
        (N,) float32 >= 0 for every segment.
    """
    # summed in float64 and then cut to float32, as Lucene does, so that sums do not depend on the order of their summands
    totals = [np.zeros(len(segment.row_ids)) for segment in segments]
    documents = sum(map(len, totals))
    for word, count in Counter(words(text)).items():
        postings = [segment.find(stem(word, language)) for segment in segments]
        containing = sum(len(doc_ids) for doc_ids, _ in postings)
        idf = np.log(1 + (documents - containing + 0.5) / (containing + 0.5))
        for total, (doc_ids, tf_weights) in zip(totals, postings, strict=True):
            np.add.at(total, doc_ids, count * idf * tf_weights)
    return [total.astype(np.float32) for total in totals]


@dataclass(frozen=True, slots=True)
class Postings:
    """The P postings of V terms, term after term.

    Attributes:
        vocabulary: term -> term id, from 0.
        starts: (V + 1,) int64, the index of each term's first posting in `doc_ids` and `counts`; the last number is P.
        doc_ids: (P,) int32, the document of each posting, ascending within a term.
        counts: (P,) uint16, occurrences of the term in the document.
    """

    vocabulary: dict[str, int]
    starts: NDArray[np.int64]
    doc_ids: DocIds
    counts: NDArray[np.uint16]

    @classmethod
    def empty(cls) -> "Postings":
        """Return the postings of no document."""
        return cls({}, np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.uint16))

    def find(self, term: str) -> slice:
        """Return the slice of a term's postings in `doc_ids` and `counts`; empty for an unknown term."""
        term_id = self.vocabulary.get(term)
        return slice(0, 0) if term_id is None else slice(int(self.starts[term_id]), int(self.starts[term_id + 1]))


@dataclass(frozen=True, slots=True)
class Bm25Index:
    """An immutable inverted index over the texts of items. It has N documents and P postings.

    Attributes:
        row_ids: (N,) int64 row ids of the documents' items, ascending.
        lengths: (N,) int32, number of words of each document.
        postings: postings of the documents' stems.
        tf_weights: (P,) float64, tf / (tf + norm) of every posting.
        language: language of words in Latin letters, a key of SNOWBALL in retrieval.text.stemming.
        last_row_id: last row id that was read, even if its text has no term; -1 before the first.
        parameters: parameters of BM25 in `tf_weights`.
    """

    row_ids: RowIds
    lengths: NDArray[np.int32]
    postings: Postings
    tf_weights: NDArray[np.float64]
    language: str
    last_row_id: int
    parameters: Bm25Parameters

    @classmethod
    def empty(cls, language: str = DEFAULT_LANGUAGE, parameters: Bm25Parameters | None = None) -> "Bm25Index":
        """Return an index without documents; `parameters=None` takes those of this process."""
        arrays = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32), Postings.empty(), np.empty(0)
        return cls(*arrays, language, -1, parameters or Bm25Parameters.of_process())

    @classmethod
    def build(
        cls, texts: Iterable[tuple[int, str]], language: str = DEFAULT_LANGUAGE, parameters: Bm25Parameters | None = None
    ) -> "Bm25Index":
        """Return an index of (row_id, text) pairs, which must come by ascending row id; for `parameters` see empty()."""
        empty = cls.empty(language, parameters)
        buffer = Bm25Buffer(empty)
        for batch in batches(texts, TEXTS_PER_STEP, lambda text: len(text[1])):
            buffer.add(batch)
        return empty.merge(buffer.view(), lambda row_ids: np.ones(len(row_ids), dtype=np.bool_))

    @property
    def average_length(self) -> float:
        """Return the mean number of words of a document; 0 without documents."""
        return float(self.lengths.mean()) if len(self.lengths) else 0.0

    def find(self, term: str) -> tuple[DocIds, NDArray[np.float64]]:
        """Return the documents that have a term; see Segment.find()."""
        place = self.postings.find(term)
        return self.postings.doc_ids[place], self.tf_weights[place]

    def scores(self, text: str) -> NDArray[np.float32]:
        """Return the BM25 score of every document as (N,) float32 >= 0; see bm25_scores()."""
        return bm25_scores([self], text, self.language)[0]

    def merge(self, buffer: "Bm25BufferView", is_live: IsLive, checkpoint: Callable[[], None] = lambda: None) -> "Bm25Index":
        """Return an index of these documents and those of a buffer, without deleted documents, also in its statistics.

        Args:
            buffer: content of a buffer of this index.
            is_live: function that returns which rows are not deleted, see IsLive.
            checkpoint: function that is called between strides; it may raise to give up.
        """
        live, live_buffered = is_live(self.row_ids), is_live(buffer.row_ids)
        doc_ids, buffered_ids = _renumber(live, 0), _renumber(live_buffered, int(np.count_nonzero(live)))
        postings = _merge_postings(self.postings, buffer, doc_ids, buffered_ids, checkpoint)
        row_ids = np.concatenate([self.row_ids[live], buffer.row_ids[live_buffered]])
        lengths = np.concatenate([self.lengths[live], buffer.lengths[live_buffered]])
        norms = _norms(lengths, float(lengths.mean()) if len(lengths) else 0.0, self.parameters)  # (N,)
        tf_weights = np.empty(len(postings.doc_ids))
        for start in range(0, len(tf_weights), POSTINGS_PER_STRIDE):
            checkpoint()
            stride = slice(start, start + POSTINGS_PER_STRIDE)
            tf_weights[stride] = postings.counts[stride] / (postings.counts[stride] + norms[postings.doc_ids[stride]])
        return Bm25Index(row_ids, lengths, postings, tf_weights, self.language, buffer.last_row_id, self.parameters)

    def save(self, folder: Path, database_id: str = "") -> None:
        """Write the index to a new folder, durably and in one step; an existing folder stays as it is.

        Args:
            folder: folder to create.
            database_id: id of the database of the row ids.
        """
        with building_folder(folder) as partial:
            for name, values in self._arrays().items():
                np.save(partial / f"{name}.npy", values)
            (partial / VOCABULARY_FILE).write_text("\n".join(self.postings.vocabulary), encoding="utf-8")
            statistics = {
                "analysis": ANALYSIS,
                "language": self.language,
                "database_id": database_id,
                "last": self.last_row_id,
                "k1": self.parameters.k1,
                "b": self.parameters.b,
                "crc32": {path.name: crc32_of(path) for path in partial.iterdir()},
            }
            (partial / STATISTICS_FILE).write_text(seal_json(statistics))

    @classmethod
    def load(
        cls,
        folder: Path,
        language: str = DEFAULT_LANGUAGE,
        database_id: str | None = None,
        parameters: Bm25Parameters | None = None,
    ) -> "Bm25Index":
        """Return an index that maps the files of save().

        Args:
            folder: folder of the files.
            language: required language of the index.
            database_id: required id of the database; None accepts any.
            parameters: required parameters of BM25; None takes those of this process.

        Raises:
            OSError: there is no such folder.
            ValueError: the files are damaged, or are of another version, language or database, or of other BM25 parameters.
        """
        parameters = parameters or Bm25Parameters.of_process()
        try:
            statistics = unseal_json((folder / STATISTICS_FILE).read_bytes())
            if database_id not in (None, statistics["database_id"]):
                raise ValueError(f"{folder} is of another index")
            if (statistics["analysis"], statistics["language"]) != (ANALYSIS, language):
                raise ValueError(f"{folder} was written by another version of Gavel, or for another language")
            if (k1 := statistics["k1"], b := statistics["b"]) != (parameters.k1, parameters.b):
                raise ValueError(f"{folder} was written with k1 {k1} and b {b}, which are others now")
            for name, checksum in statistics["crc32"].items():
                if crc32_of(folder / name) != checksum:
                    raise ValueError(f"the checksum of {folder / name} does not hold")
            terms = (folder / VOCABULARY_FILE).read_text(encoding="utf-8").split("\n")
            last_row_id = int(statistics["last"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} is damaged: {error!r}") from error
        row_ids, lengths, starts, doc_ids, counts, tf_weights = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS
        )
        vocabulary = {term: term_id for term_id, term in enumerate(filter(None, terms))}
        postings = Postings(vocabulary, starts, doc_ids, counts)
        return cls(row_ids, lengths, postings, tf_weights, language, last_row_id, parameters)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        postings = self.postings
        arrays = (self.row_ids, self.lengths, postings.starts, postings.doc_ids, postings.counts, self.tf_weights)
        return dict(zip(ARRAYS, arrays, strict=True))


@dataclass(frozen=True, slots=True)
class Bm25BufferView:
    """The content of a Bm25Buffer at one moment, which does not change: P postings, document after document.

    Attributes:
        row_ids: (N,) int64 row ids of the documents' items, ascending.
        lengths: (N,) int32, number of words of each document.
        vocabulary: term -> term id; the buffer may add later terms.
        term_ids: (P,) int32, the term of each posting.
        doc_ids: (P,) int32, the document of each posting, ascending.
        counts: (P,) uint16, occurrences of the term in the document.
        tf_weights: (P,) float64, tf / (tf + norm) of every posting.
        last_row_id: last row id that was read; that of the index if nothing was added.
    """

    row_ids: RowIds
    lengths: NDArray[np.int32]
    vocabulary: dict[str, int]
    term_ids: NDArray[np.int32]
    doc_ids: DocIds
    counts: NDArray[np.uint16]
    tf_weights: NDArray[np.float64]
    last_row_id: int

    def find(self, term: str) -> tuple[DocIds, NDArray[np.float64]]:
        """Return the documents that have a term; see Segment.find()."""
        places = np.flatnonzero(self.term_ids == self.vocabulary.get(term, NO_DOC))
        return self.doc_ids[places], self.tf_weights[places]


class Bm25Buffer:
    """Documents that come after those of an index, weighted with the average length of the index. One thread at a time may add.

    Args:
        main: index that the documents come after.
    """

    def __init__(self, main: Bm25Index) -> None:
        self._stem = caching_stemmer(main.language, CACHED_STEMS)
        self._average, self._last_row_id, self._parameters = main.average_length, main.last_row_id, main.parameters
        self._vocabulary: dict[str, int] = {}
        self._row_ids, self._lengths = GrowingArray(np.int64), GrowingArray(np.int32)
        self._term_ids, self._doc_ids, self._counts = GrowingArray(np.int32), GrowingArray(np.int32), GrowingArray(np.uint16)
        self._tf_weights = GrowingArray(np.float64)

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """Add (row_id, text) pairs, which must come by ascending row id; rows that were read already are skipped."""
        new = [(row_id, [self._stem(word) for word in words(text)]) for row_id, text in texts if row_id > self._last_row_id]
        if documents := [(row_id, terms) for row_id, terms in new if terms]:
            self._add(documents)
        if new:
            self._last_row_id = new[-1][0]

    def view(self) -> Bm25BufferView:
        """Return the present content of the buffer."""
        return Bm25BufferView(
            *(self._row_ids.values, self._lengths.values, self._vocabulary, self._term_ids.values),
            *(self._doc_ids.values, self._counts.values, self._tf_weights.values, self._last_row_id),
        )

    def _add(self, documents: Sequence[tuple[int, list[str]]]) -> None:
        vocabulary, first = self._vocabulary, len(self._row_ids.values)
        lengths = np.array([len(terms) for _, terms in documents], dtype=np.int32)
        term_ids = np.array([vocabulary.setdefault(t, len(vocabulary)) for _, terms in documents for t in terms], dtype=np.int64)
        doc_ids = np.repeat(np.arange(first, first + len(documents)), lengths)
        pairs, counts = np.unique(doc_ids * len(vocabulary) + term_ids, return_counts=True)
        term_ids, doc_ids = pairs % len(vocabulary), pairs // len(vocabulary)
        counts = np.minimum(counts, np.iinfo(np.uint16).max)
        # if the index is empty, the average length is that of the added documents
        norms = _norms(lengths, self._average or float(lengths.mean()), self._parameters)
        self._row_ids.append(np.array([row_id for row_id, _ in documents]))
        self._lengths.append(lengths)
        self._term_ids.append(term_ids)
        self._doc_ids.append(doc_ids)
        self._counts.append(counts)
        self._tf_weights.append(counts / (counts + norms[doc_ids - first]))


def lucene_length(length: int) -> int:
    """Return the length of a document as Lucene rounds it to store it in one byte."""
    if length <= EXACT_LENGTHS:
        return length
    rest = length - FREE_VALUES
    shift = rest.bit_length() - SIGNIFICANT_BITS
    return FREE_VALUES + (rest >> shift << shift)


def _norms(lengths: NDArray[np.int32], average: float, parameters: Bm25Parameters) -> NDArray[np.float64]:
    """Return the (N,) float64 BM25 norms of documents with these lengths, in tf / (tf + norm).

    Args:
        lengths: (N,) number of words of each document.
        average: mean number of words.
        parameters: parameters of BM25.
    """
    distinct, places = np.unique(lengths, return_inverse=True)
    rounded = np.array([lucene_length(int(length)) for length in distinct], dtype=np.float64)[places]
    return parameters.k1 * (1 - parameters.b + parameters.b * rounded / max(average, 1.0))


def _renumber(live: NDArray[np.bool_], first: int) -> DocIds:
    """Return (N,) new ids of documents: `first` and up for the live ones, NO_DOC for the others."""
    return np.where(live, np.cumsum(live) - 1 + first, NO_DOC).astype(np.int32)


def _merge_postings(
    main: Postings, buffer: Bm25BufferView, main_ids: DocIds, buffer_ids: DocIds, checkpoint: Callable[[], None]
) -> Postings:
    """Return the postings of an index and its buffer, without deleted documents and without terms that only those have.

    Args:
        main: postings of the index.
        buffer: content of the buffer.
        main_ids: (N,) new id of each document of the index, ascending; NO_DOC for a deleted document.
        buffer_ids: (M,) new id of each document of the buffer, likewise; they come after those of the index.
        checkpoint: function that is called between strides; it may raise to give up.
    """
    vocabulary = dict(main.vocabulary)
    merged_terms = np.array([vocabulary.setdefault(term, len(vocabulary)) for term in list(buffer.vocabulary)], dtype=np.int32)
    live = buffer_ids[buffer.doc_ids] != NO_DOC
    terms, doc_ids, counts = merged_terms[buffer.term_ids[live]], buffer_ids[buffer.doc_ids[live]], buffer.counts[live]
    order = np.argsort(terms, kind="stable")
    terms, doc_ids, counts = terms[order], doc_ids[order], counts[order]
    main_starts = np.pad(main.starts, (0, len(vocabulary) + 1 - len(main.starts)), mode="edge")  # (V + 1,)
    buffer_starts = np.searchsorted(terms, np.arange(len(vocabulary) + 1))  # (V + 1,)
    docs_of_term = np.zeros(len(vocabulary), dtype=np.int64)
    merged = [(Postings.empty().doc_ids, Postings.empty().counts)]
    for first, end in _strides(main_starts + buffer_starts):
        checkpoint()
        of_main, of_buffer = (slice(starts[first], starts[end]) for starts in (main_starts, buffer_starts))
        ids = main_ids[main.doc_ids[of_main]]
        live = ids != NO_DOC
        main_terms = np.repeat(np.arange(first, end, dtype=np.int32), np.diff(main_starts[first : end + 1]))[live]
        both_terms = np.concatenate([main_terms, terms[of_buffer]])
        order = np.argsort(both_terms, kind="stable")
        both_ids = np.concatenate([ids[live], doc_ids[of_buffer]])
        both_counts = np.concatenate([main.counts[of_main][live], counts[of_buffer]])
        merged.append((both_ids[order], both_counts[order]))
        docs_of_term[first:end] = np.bincount(both_terms - first, minlength=end - first)
    used = docs_of_term > 0
    if not used.all():
        vocabulary = {term: term_id for term_id, term in enumerate(term for term, old in vocabulary.items() if used[old])}
    starts = np.concatenate([[0], np.cumsum(docs_of_term[used])])
    return Postings(vocabulary, starts, *(np.concatenate(column) for column in zip(*merged, strict=True)))


def _strides(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return strides of about POSTINGS_PER_STRIDE postings, or of one longer term, as (first term id, last term id + 1).

    Args:
        starts: (V + 1,) index of each term's first posting.
    """
    cuts = np.searchsorted(starts, np.arange(0, starts[-1], POSTINGS_PER_STRIDE))
    return list(pairwise(np.unique(np.append(cuts, len(starts) - 1)).tolist()))
