"""Inverted lists of an embedded index, scored with BM25 as Lucene computes it (Kamphuis et al., ECIR 2020).

Tokens, stems, statistics and document lengths follow the analyzer of schema.index_body(), so that the embedded index and
OpenSearch put the same items in the same order.

A Bm25Index is an immutable segment: an array of all postings, term after term. A Bm25Buffer gathers the postings of later
documents, document after document, until they are merged into a new Bm25Index.
"""

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
from retrieval.index.validation import batches
from retrieval.text.analysis import ANALYSIS, words
from retrieval.text.languages import DEFAULT_LANGUAGE
from retrieval.text.stemming import caching_stemmer, stem

STATISTICS_FILE = "statistics.json"
VOCABULARY_FILE = "vocabulary.txt"
ARRAYS = ("positions", "lengths", "starts", "rows", "counts", "shares")  # files of row_ids, lengths, Postings and tf_weights
TEXTS_PER_STEP = 10_000  # added to a buffer at a time
CACHED_STEMS = 1 << 18  # of a buffer: more than stem() caches, because a large catalogue has more words
POSTINGS_PER_STRIDE = 1 << 20  # merged at a time: searches wait for the interpreter for milliseconds at most
GROWTH = 1.2  # of the space of a full array
NO_DOC = -1
EXACT_LENGTHS = 40  # Lucene stores a document's length in one byte (SmallFloat.intToByte4): exact up to here, then 4 bits of it
FREE_VALUES = 24  # of that byte: the first lengths, which stand for themselves
SIGNIFICANT_BITS = 4

DocIds = NDArray[np.int32]
"""Places of documents in a segment, from 0; only items that have a term are documents."""
IsLive = Callable[[RowIds], NDArray[np.bool_]]
"""Tells of (N,) rows which ones were not replaced or deleted."""


class Segment(Protocol):
    """Documents that can be scored.

    Attributes:
        row_ids: (N,) int64, ascending: the row of each document's item.
    """

    @property
    def row_ids(self) -> RowIds:
        """See above."""
        ...

    def find(self, term: str) -> tuple[DocIds, NDArray[np.float64]]:
        """Return the (n,) documents that have a term, ascending, and its tf / (tf + norm) in each."""
        ...


def bm25_scores(segments: Sequence[Segment], text: str, language: str) -> list[NDArray[np.float32]]:
    """Score the documents of several segments as one index; a word that the text repeats counts each time.

    The number of documents, and of those that have a term, is counted over all segments.

    Returns:
        For every segment (N,) float32 >= 0.
    """
    # summed in double and only then cut to float, as Lucene does: equal sums stay equal in whatever order they are made
    totals = [np.zeros(len(segment.row_ids)) for segment in segments]
    documents = sum(map(len, totals))
    for word in words(text):
        postings = [segment.find(stem(word, language)) for segment in segments]
        containing = sum(len(doc_ids) for doc_ids, _ in postings)
        idf = np.log(1 + (documents - containing + 0.5) / (containing + 0.5))
        for total, (doc_ids, tf_weights) in zip(totals, postings, strict=True):
            np.add.at(total, doc_ids, idf * tf_weights)
    return [total.astype(np.float32) for total in totals]


@dataclass(frozen=True, slots=True)
class Postings:
    """The documents of every term, term after term.

    Attributes:
        vocabulary: term -> term id.
        starts: (V + 1,) int64: where the postings of each term begin in the two arrays below.
        doc_ids: (P,) int32, ascending within a term.
        counts: (P,) uint16: occurrences of the term in the document.
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
        """Return the place of a term's postings; empty for an unknown term."""
        term_id = self.vocabulary.get(term)
        return slice(0, 0) if term_id is None else slice(int(self.starts[term_id]), int(self.starts[term_id + 1]))


@dataclass(frozen=True, slots=True)
class Bm25Index:
    """An immutable inverted index over the texts of items.

    Attributes:
        row_ids: (N,) int64, ascending: see Segment.
        lengths: (N,) int32: words of each document.
        postings: of the documents' stems.
        tf_weights: (P,) float64: tf / (tf + norm) of every posting.
        language: of words in Latin letters, a key of SNOWBALL of retrieval.text.stemming.
        last_row_id: the last row that was read, whether it has a term or not; -1 before the first.
    """

    row_ids: RowIds
    lengths: NDArray[np.int32]
    postings: Postings
    tf_weights: NDArray[np.float64]
    language: str
    last_row_id: int

    @classmethod
    def empty(cls, language: str = DEFAULT_LANGUAGE) -> "Bm25Index":
        """Return the index of no text."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32), Postings.empty(), np.empty(0), language, -1)

    @classmethod
    def build(cls, texts: Iterable[tuple[int, str]], language: str = DEFAULT_LANGUAGE) -> "Bm25Index":
        """Index (row_id, text) pairs, which come by ascending row id."""
        empty = cls.empty(language)
        buffer = Bm25Buffer(empty)
        for batch in batches(texts, TEXTS_PER_STEP, lambda text: len(text[1])):
            buffer.add(batch)
        return empty.merge(buffer.view(), lambda row_ids: np.ones(len(row_ids), dtype=np.bool_))

    @property
    def average_length(self) -> float:
        """Words of a document on average; 0 where there is none."""
        return float(self.lengths.mean()) if len(self.lengths) else 0.0

    def find(self, term: str) -> tuple[DocIds, NDArray[np.float64]]:
        """See Segment."""
        place = self.postings.find(term)
        return self.postings.doc_ids[place], self.tf_weights[place]

    def scores(self, text: str) -> NDArray[np.float32]:
        """Return the BM25 score of every document as (N,) float32 >= 0; see bm25_scores()."""
        return bm25_scores([self], text, self.language)[0]

    def merge(self, buffer: "Bm25BufferView", is_live: IsLive, checkpoint: Callable[[], None] = lambda: None) -> "Bm25Index":
        """Return an index of its documents and those of its buffer, without the deleted ones, which no statistics count.

        Args:
            buffer: of this index.
            is_live: tells which documents' items are not deleted.
            checkpoint: called between strides; may raise to give up.
        """
        live, live_buffered = is_live(self.row_ids), is_live(buffer.row_ids)
        doc_ids, buffered_ids = _renumber(live, 0), _renumber(live_buffered, int(np.count_nonzero(live)))
        postings = _merge_postings(self.postings, buffer, doc_ids, buffered_ids, checkpoint)
        row_ids = np.concatenate([self.row_ids[live], buffer.row_ids[live_buffered]])
        lengths = np.concatenate([self.lengths[live], buffer.lengths[live_buffered]])
        norms = _norms(lengths, float(lengths.mean()) if len(lengths) else 0.0)  # (N,)
        tf_weights = np.empty(len(postings.doc_ids))
        for start in range(0, len(tf_weights), POSTINGS_PER_STRIDE):
            checkpoint()
            stride = slice(start, start + POSTINGS_PER_STRIDE)
            tf_weights[stride] = postings.counts[stride] / (postings.counts[stride] + norms[postings.doc_ids[stride]])
        return Bm25Index(row_ids, lengths, postings, tf_weights, self.language, buffer.last_row_id)

    def save(self, folder: Path, database_id: str = "") -> None:
        """Write the index to a new folder, durably and in one step; an existing folder stays as it is.

        Args:
            folder: created here.
            database_id: the database of the row ids.
        """
        with building_folder(folder) as partial:
            for name, values in self._arrays().items():
                np.save(partial / f"{name}.npy", values)
            (partial / VOCABULARY_FILE).write_text("\n".join(self.postings.vocabulary), encoding="utf-8")
            numbers = scoring_parameters()
            statistics = {
                "analysis": ANALYSIS,
                "language": self.language,
                "database_id": database_id,
                "last": self.last_row_id,
                "k1": numbers.bm25_k1,
                "b": numbers.bm25_b,
                "crc32": {path.name: crc32_of(path) for path in partial.iterdir()},
            }
            (partial / STATISTICS_FILE).write_text(seal_json(statistics))

    @classmethod
    def load(cls, folder: Path, language: str = DEFAULT_LANGUAGE, database_id: str | None = None) -> "Bm25Index":
        """Map the files of save().

        Args:
            folder: of the files.
            language: that they must be of.
            database_id: the database that they must be of; None for any.

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
            terms = (folder / VOCABULARY_FILE).read_text(encoding="utf-8").split("\n")
            last_row_id = int(statistics["last"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} is damaged: {error!r}") from error
        row_ids, lengths, starts, doc_ids, counts, tf_weights = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS
        )
        vocabulary = {term: term_id for term_id, term in enumerate(filter(None, terms))}
        return cls(row_ids, lengths, Postings(vocabulary, starts, doc_ids, counts), tf_weights, language, last_row_id)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        postings = self.postings
        arrays = (self.row_ids, self.lengths, postings.starts, postings.doc_ids, postings.counts, self.tf_weights)
        return dict(zip(ARRAYS, arrays, strict=True))


@dataclass(frozen=True, slots=True)
class Bm25BufferView:
    """The content of a Bm25Buffer at one moment: postings document after document. It does not change.

    Attributes:
        row_ids: (N,) int64, ascending: see Segment.
        lengths: (N,) int32: words of each document.
        vocabulary: term -> term id; may have later terms, too.
        term_ids: (P,) int32, of each posting.
        doc_ids: (P,) int32, ascending.
        counts: (P,) uint16: occurrences of the term in the document.
        tf_weights: (P,) float64: tf / (tf + norm).
        last_row_id: the last row that was read; that of the index where none came after it.
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
        """See Segment."""
        places = np.flatnonzero(self.term_ids == self.vocabulary.get(term, NO_DOC))
        return self.doc_ids[places], self.tf_weights[places]


class Bm25Buffer:
    """Documents that come after those of an index, weighted by its average length. One thread at a time adds.

    Args:
        main: the index.
    """

    def __init__(self, main: Bm25Index) -> None:
        self._stem = caching_stemmer(main.language, CACHED_STEMS)
        self._average, self._last_row_id = main.average_length, main.last_row_id
        self._vocabulary: dict[str, int] = {}
        self._row_ids, self._lengths = _GrowingArray(np.int64), _GrowingArray(np.int32)
        self._term_ids, self._doc_ids, self._counts = _GrowingArray(np.int32), _GrowingArray(np.int32), _GrowingArray(np.uint16)
        self._tf_weights = _GrowingArray(np.float64)

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """Add (row_id, text) pairs, which come by ascending row id; those that were read already are skipped."""
        new = [(row_id, [self._stem(word) for word in words(text)]) for row_id, text in texts if row_id > self._last_row_id]
        if documents := [(row_id, terms) for row_id, terms in new if terms]:
            self._add(documents)
        if new:
            self._last_row_id = new[-1][0]

    def view(self) -> Bm25BufferView:
        """Return what is in it now."""
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
        # where the index has no document, these are all that there is to take an average of
        norms = _norms(lengths, self._average or float(lengths.mean()))
        self._row_ids.append(np.array([row_id for row_id, _ in documents]))
        self._lengths.append(lengths)
        self._term_ids.append(term_ids)
        self._doc_ids.append(doc_ids)
        self._counts.append(counts)
        self._tf_weights.append(counts / (counts + norms[doc_ids - first]))


class _GrowingArray:
    """Numbers that are only appended to: views that were handed out do not change."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._space: NDArray[Any] = np.empty(0, dtype=kind)
        self.values = self._space

    def append(self, values: NDArray[Any]) -> None:
        first, end = len(self.values), len(self.values) + len(values)
        if end > len(self._space):
            space = np.empty(int(GROWTH * end), dtype=self._space.dtype)
            space[:first] = self.values
            self._space = space
        self._space[first:end] = values
        self.values = self._space[:end]


def lucene_length(length: int) -> int:
    """Round the length of a document as Lucene does, which stores it in one byte."""
    if length <= EXACT_LENGTHS:
        return length
    rest = length - FREE_VALUES
    shift = rest.bit_length() - SIGNIFICANT_BITS
    return FREE_VALUES + (rest >> shift << shift)


def _norms(lengths: NDArray[np.int32], average: float) -> NDArray[np.float64]:
    """Return (N,) float64: the BM25 norms of documents of some lengths, to be added to their term counts."""
    numbers = scoring_parameters()
    distinct, places = np.unique(lengths, return_inverse=True)
    rounded = np.array([lucene_length(int(length)) for length in distinct], dtype=np.float64)[places]
    return numbers.bm25_k1 * (1 - numbers.bm25_b + numbers.bm25_b * rounded / max(average, 1.0))


def _renumber(live: NDArray[np.bool_], first: int) -> DocIds:
    """Return the (N,) new ids of documents, of which only the live ones stay: from `first` on, NO_DOC for the others."""
    return np.where(live, np.cumsum(live) - 1 + first, NO_DOC).astype(np.int32)


def _merge_postings(
    main: Postings, buffer: Bm25BufferView, main_ids: DocIds, buffer_ids: DocIds, checkpoint: Callable[[], None]
) -> Postings:
    """Merge postings without deleted documents, and without terms that no document has any more.

    Args:
        main: stays as it is.
        buffer: stays as it is.
        main_ids: (N,) new id of each document of main, in the old order; NO_DOC for a deleted one.
        buffer_ids: (M,) the same of the buffer's documents; they come after those of main.
        checkpoint: called between strides; may raise to give up.
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
    """Cut the terms into strides of POSTINGS_PER_STRIDE postings or little more: (first term, term behind the last)."""
    cuts = np.searchsorted(starts, np.arange(0, starts[-1], POSTINGS_PER_STRIDE))
    return list(pairwise(np.unique(np.append(cuts, len(starts) - 1)).tolist()))
