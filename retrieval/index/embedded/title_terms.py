"""Follow a database with the dictionary of its titles, from which the words of a query are corrected.

Corrections are those of OpenSearch's term suggester: the nearest term is that with the fewest edits for its length (optimal string
alignment: a letter inserted, deleted, replaced, or two swapped), then the one in more titles, then the first in the alphabet. The
first letter is taken to be right. Lucene's DirectSpellChecker does the same (tests/contract/test_corrections.py).

title-words-<commit>.<analysis>.json    the dictionary of the titles of the first <commit> commits
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path

from rapidfuzz import process
from rapidfuzz.distance import OSA

from retrieval.files import replace_file, seal_json, unseal_json
from retrieval.index.embedded.database import NO_COMMIT, CommitSeq, ItemDatabase, ItemSnapshot
from retrieval.index.embedded.follower import Follower
from retrieval.text.analysis import ANALYSIS, words
from retrieval.text.spelling import can_be_misspelt, max_edits

logger = logging.getLogger(__name__)

PREFIX = "title-words-"
FILE_NAME = re.compile(rf"{PREFIX}(\d+)\.{ANALYSIS}\.json")
SMALL = 5_000  # up to so many titles are counted anew as soon as one of them is deleted
TITLES_PER_STEP = 10_000


class TitleTerms:
    """The terms of titles up to one commit; deleted titles count, too. One thread at a time adds, while others read.

    Args:
        titles: term in lower case -> number of titles that have it.

    Attributes:
        titles: the same.
        commit_seq: the last commit that is in it.
        last_row_id: the last row that was read.
        items: number of rows that were read.
    """

    def __init__(self, titles: Mapping[str, int], commit_seq: CommitSeq = NO_COMMIT, last_row_id: int = 0, items: int = 0) -> None:
        self.titles: dict[str, int] = {}
        self.commit_seq, self.last_row_id, self.items = commit_seq, last_row_id, items
        self._by_letter: dict[str, list[str]] = defaultdict(list)
        self._count(titles)

    def near(self, word: str) -> dict[str, int]:
        """Return the terms that a word may have been meant to be -> number of titles that have them."""
        others = process.extract_iter(word, self._by_letter.get(word[0], ()), scorer=OSA.distance, score_cutoff=max_edits(word))
        return {other: self.titles[other] for other, _, _ in others}

    def add(self, titles: Iterable[str]) -> None:
        """Count the terms of more titles."""
        counts: Counter[str] = Counter()
        for title in titles:
            counts.update({word for word in words(title) if can_be_misspelt(word)})
        self._count(counts)

    def catch_up(self, snapshot: ItemSnapshot) -> None:
        """Count the titles that were committed since the last call. It goes on where a call before ended early."""
        rows = snapshot.texts_after(self.last_row_id, ["title"])
        while batch := list(islice(rows, TITLES_PER_STEP)):
            self.add(title for _, (title,) in batch if title)
            self.last_row_id, self.items = batch[-1][0], self.items + len(batch)
        self.commit_seq = snapshot.commit_seq()

    def _count(self, counts: Mapping[str, int]) -> None:
        for term, count in counts.items():
            before = self.titles.get(term)
            self.titles[term] = (before or 0) + count
            if before is None:
                self._by_letter[term[0]].append(term)


class TitleFollower(Follower[TitleTerms]):
    """Follow a database with TitleTerms.

    Args:
        database: the database.
        folder: of the file.
    """

    def __init__(self, database: ItemDatabase, folder: Path) -> None:
        super().__init__(database, f"titles of {folder.name}", f"{folder.name} keeps the words of its titles as they are")
        self._folder = folder
        self._saved = NO_COMMIT

    def _open(self) -> TitleTerms:
        """Return the newest usable file, else an empty dictionary."""
        newest = self._database.commit_seq()
        names = (FILE_NAME.fullmatch(path.name) for path in self._folder.glob(f"{PREFIX}*"))
        for number in sorted((int(name[1]) for name in names if name and int(name[1]) <= newest), reverse=True):
            commit_seq = CommitSeq(number)
            try:
                values = unseal_json(self._path(commit_seq).read_bytes())
                if values.get("database_id") != self._database.database_id:  # an older version wrote neither this nor a checksum
                    raise ValueError("they are of another index")
                terms = TitleTerms(values["titles"], commit_seq, int(values["last"]), int(values["lots"]))
                self._saved = commit_seq
                return terms
            except FileNotFoundError:
                pass  # another process has just put a newer one in its place
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("the words of titles in %s are not usable (%s); they are counted again", self._folder, error)
        return TitleTerms({})

    def _refresh(self, view: TitleTerms, checkpoint: Callable[[], None] = lambda: None) -> TitleTerms:
        with self._database.snapshot() as snapshot:
            view.catch_up(snapshot)
            return _without_deleted(view, snapshot) if view.items <= SMALL else view

    def _rebuild(self, view: TitleTerms, *, in_background: bool) -> None:
        """Leave out the deleted titles."""
        with self._refresh_lock, self._database.snapshot() as snapshot:
            self.view = _without_deleted(view, snapshot)
            self._save(self.view)

    def _save(self, view: TitleTerms) -> None:
        """Write the dictionary in one step, in the place of older ones."""
        if view.commit_seq <= self._saved:
            return
        path = self._path(view.commit_seq)
        values = {"database_id": self._database.database_id, "last": view.last_row_id, "lots": view.items, "titles": view.titles}
        try:
            replace_file(path, seal_json(values))
            self._saved = view.commit_seq
            for older in self._folder.glob(f"{PREFIX}*.json"):
                if (name := FILE_NAME.fullmatch(older.name)) is None or int(name[1]) < view.commit_seq:
                    older.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the words of titles could not be written to %s (%s)", path, error)

    def _path(self, commit_seq: CommitSeq) -> Path:
        return self._folder / f"{PREFIX}{commit_seq}.{ANALYSIS}.json"


def corrections(near: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """Return word -> the nearest of its terms, of the words that have any; see TitleTerms.near()."""
    return {
        word: min(titles, key=lambda term: (OSA.distance(word, term) / min(len(word), len(term)), -titles[term], term))
        for word, titles in near.items()
        if titles
    }


def _without_deleted(terms: TitleTerms, snapshot: ItemSnapshot) -> TitleTerms:
    """Return the terms, counted anew if a title that counts in them is deleted."""
    if terms.items == snapshot.count():
        return terms
    counted = TitleTerms({})
    counted.catch_up(snapshot)
    return counted
