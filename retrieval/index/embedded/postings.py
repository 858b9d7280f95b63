"""Inverted lists: which texts have a word, and how often. Some never change; new ones are gathered beside them and joined in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROWTH = 1.2  # of the space of a column where it runs out
POSTINGS_A_STRIDE = 1 << 20  # joined at a time; so long do searches wait for the interpreter at most, and that is milliseconds
NO_ROW = -1


@dataclass(frozen=True, slots=True)
class Postings:
    """The texts of every word, word after word.

    Attributes:
        vocabulary: word -> its number.
        starts: (V + 1,) int64: where the texts of each word begin in the two below.
        rows: (P,) int32, ascending within a word: the texts.
        counts: (P,) uint16: how often each has the word.
    """

    vocabulary: dict[str, int]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    counts: NDArray[np.uint16]

    @classmethod
    def none(cls) -> "Postings":
        """Of no text."""
        return cls({}, np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.uint16))

    def of(self, word: str) -> slice:
        """Where the texts of a word stand; empty for an unknown word."""
        number = self.vocabulary.get(word)
        return slice(0, 0) if number is None else slice(int(self.starts[number]), int(self.starts[number + 1]))


@dataclass(frozen=True, slots=True)
class NewPostings:
    """The words of every text, text after text.

    Attributes:
        vocabulary: word -> its number; may have later words, too.
        words: (P,) int32: their numbers.
        rows: (P,) int32, ascending: the texts.
        counts: (P,) uint16: how often each has the word.
    """

    vocabulary: dict[str, int]
    words: NDArray[np.int32]
    rows: NDArray[np.int32]
    counts: NDArray[np.uint16]

    def of(self, word: str) -> NDArray[np.int64]:
        """Where the texts of a word stand; empty for an unknown word."""
        return np.flatnonzero(self.words == self.vocabulary.get(word, NO_ROW))


class Column:
    """Numbers that are only ever added to: what was handed out stays as it is."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._space: NDArray[Any] = np.empty(0, dtype=kind)
        self.values = self._space

    def append(self, values: NDArray[Any]) -> None:
        """Add some numbers at the end."""
        first, end = len(self.values), len(self.values) + len(values)
        if end > len(self._space):
            space = np.empty(int(GROWTH * end), dtype=self._space.dtype)
            space[:first] = self.values
            self._space = space
        self._space[first:end] = values
        self.values = self._space[:end]


class GatheredPostings:
    """Postings of texts as they come; one thread at a time adds."""

    def __init__(self) -> None:
        self._vocabulary: dict[str, int] = {}
        self._words, self._rows, self._counts = Column(np.int32), Column(np.int32), Column(np.uint16)
        self._texts = 0

    def add(self, texts: Sequence[Sequence[str]]) -> None:
        """Add the words of some texts."""
        number = self._vocabulary
        words = np.array([number.setdefault(word, len(number)) for text in texts for word in text], dtype=np.int64)
        rows = np.repeat(np.arange(self._texts, self._texts + len(texts)), [len(text) for text in texts])
        different = max(len(number), 1)
        pairs, counts = np.unique(rows * different + words, return_counts=True)
        self._words.append(pairs % different)
        self._rows.append(pairs // different)
        self._counts.append(np.minimum(counts, np.iinfo(np.uint16).max))
        self._texts += len(texts)

    def view(self) -> NewPostings:
        """What is there now; it does not change."""
        return NewPostings(self._vocabulary, self._words.values, self._rows.values, self._counts.values)


def join(
    old: Postings, new: NewPostings, old_rows: NDArray[np.int32], new_rows: NDArray[np.int32], before_stride: Callable[[], None]
) -> Postings:
    """Put old and new postings together and leave out texts that are gone, and words that no text has any more.

    Args:
        old: stays as it is.
        new: stays as it is.
        old_rows: (N,) the row that each old text has from now on, in the old order; NO_ROW for one that is gone.
        new_rows: (M,) the same of the new texts; they come after the old ones.
        before_stride: called every now and then; may give up by raising.
    """
    vocabulary = dict(old.vocabulary)
    numbers = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in list(new.vocabulary)], dtype=np.int32)
    here = new_rows[new.rows] != NO_ROW
    words, rows, counts = numbers[new.words[here]], new_rows[new.rows[here]], new.counts[here]
    order = np.argsort(words, kind="stable")
    words, rows, counts = words[order], rows[order], counts[order]
    old_starts = np.pad(old.starts, (0, len(vocabulary) + 1 - len(old.starts)), mode="edge")  # (V + 1,)
    new_starts = np.searchsorted(words, np.arange(len(vocabulary) + 1))  # (V + 1,)
    texts_of_word = np.zeros(len(vocabulary), dtype=np.int64)
    joined: list[tuple[NDArray[np.int32], NDArray[np.uint16]]] = [(Postings.none().rows, Postings.none().counts)]
    for first, end in _strides(old_starts + new_starts):
        before_stride()
        of_old, of_new = (slice(starts[first], starts[end]) for starts in (old_starts, new_starts))
        kept = old_rows[old.rows[of_old]]
        there = kept != NO_ROW
        of_word = np.repeat(np.arange(first, end, dtype=np.int32), np.diff(old_starts[first : end + 1]))[there]
        of_both = np.concatenate([of_word, words[of_new]])
        order = np.argsort(of_both, kind="stable")
        both = np.concatenate([kept[there], rows[of_new]]), np.concatenate([old.counts[of_old][there], counts[of_new]])
        joined.append((both[0][order], both[1][order]))
        texts_of_word[first:end] = np.bincount(of_both - first, minlength=end - first)
    return _without_unused(vocabulary, texts_of_word, *(np.concatenate(column) for column in zip(*joined, strict=True)))


def _strides(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut the words where a stride's postings are enough: (first word, word behind the last)."""
    cuts = np.searchsorted(starts, np.arange(0, starts[-1], POSTINGS_A_STRIDE))
    return list(pairwise(np.unique(np.append(cuts, len(starts) - 1)).tolist()))


def _without_unused(vocabulary: dict[str, int], texts_of_word: NDArray[np.int64], rows: Any, counts: Any) -> Postings:
    used = texts_of_word > 0
    if not used.all():
        vocabulary = {word: number for number, word in enumerate(word for word, number in vocabulary.items() if used[number])}
    return Postings(vocabulary, np.concatenate([[0], np.cumsum(texts_of_word[used])]), rows, counts)
