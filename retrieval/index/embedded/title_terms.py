"""Follow a database with the dictionary of its titles, from which the words of a query are corrected.

Corrections are those of OpenSearch's term suggester and Lucene's DirectSpellChecker (tests/contract/test_corrections.py). The best
term is that with the fewest edits relative to its length, then that in more titles, then the alphabetically first. An edit inserts,
deletes or replaces a letter, or swaps two neighbours (optimal string alignment). The first letter must be right.

title-words-<commit>.<analysis>.json    dictionary of the titles of the first <commit> commits
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
SMALL = 5_000  # in an index of at most so many titles, all are counted again as soon as one is deleted
TITLES_PER_STEP = 10_000


class TitleTerms:
    """The terms of titles up to one commit; deleted titles count, too. One thread at a time may add, while others read.

    Attributes:
        titles: term in lower case -> number of titles that have it.
        commit_seq: last commit whose titles are counted.
        last_row_id: last row id that was read.
        items: number of rows that were read.
    """

    def __init__(self, titles: Mapping[str, int], commit_seq: CommitSeq = NO_COMMIT, last_row_id: int = 0, items: int = 0) -> None:
        self.titles: dict[str, int] = {}
        self.commit_seq, self.last_row_id, self.items = commit_seq, last_row_id, items
        self._by_letter: dict[str, list[str]] = defaultdict(list)
        self._count(titles)

    def near(self, word: str) -> dict[str, int]:
        """Return similar term -> number of titles that have it, for the terms that may be meant by a misspelt word."""
        others = process.extract_iter(word, self._by_letter.get(word[0], ()), scorer=OSA.distance, score_cutoff=max_edits(word))
        return {other: self.titles[other] for other, _, _ in others}

    def add(self, titles: Iterable[str]) -> None:
        """Add the terms of these titles to the counts."""
        counts: Counter[str] = Counter()
        for title in titles:
            counts.update({word for word in words(title) if can_be_misspelt(word)})
        self._count(counts)

    def catch_up(self, snapshot: ItemSnapshot) -> None:
        """Count the titles that were committed since the last call; continue if the last call was interrupted."""
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
    """A follower of a database with TitleTerms.

    Args:
        database: database to follow.
        folder: folder of the file.
    """

    def __init__(self, database: ItemDatabase, folder: Path) -> None:
        super().__init__(database, f"titles of {folder.name}", f"{folder.name} keeps the words of its titles as they are")
        self._folder = folder
        self._saved = NO_COMMIT

    def _open(self) -> TitleTerms:
        """Return the terms in the newest usable file, else an empty dictionary."""
        newest = self._database.commit_seq()
        names = (FILE_NAME.fullmatch(path.name) for path in self._folder.glob(f"{PREFIX}*"))
        for number in sorted((int(name[1]) for name in names if name and int(name[1]) <= newest), reverse=True):
            commit_seq = CommitSeq(number)
            try:
                values = unseal_json(self._path(commit_seq).read_bytes())
                if values.get("database_id") != self._database.database_id:  # older versions wrote no database_id and no checksum
                    raise ValueError("they are of another index")
                terms = TitleTerms(values["titles"], commit_seq, int(values["last"]), int(values["lots"]))
                self._saved = commit_seq
                return terms
            except FileNotFoundError:
                pass  # another process has just replaced the file by a newer one
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("the words of titles in %s are not usable (%s); they are counted again", self._folder, error)
        return TitleTerms({})

    def _refresh(self, view: TitleTerms, checkpoint: Callable[[], None] = lambda: None) -> TitleTerms:
        with self._database.snapshot() as snapshot:
            view.catch_up(snapshot)
            return _without_deleted(view, snapshot) if view.items <= SMALL else view

    def _rebuild(self, view: TitleTerms, *, in_background: bool) -> None:
        """Count the titles again without the deleted ones, and save the terms."""
        with self._refresh_lock, self._database.snapshot() as snapshot:
            self.view = _without_deleted(view, snapshot)
            self._save(self.view)

    def _save(self, view: TitleTerms) -> None:
        """Write the dictionary in one step and remove older files, unless a file of this commit was saved already."""
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
    """Return word -> its best correction; words without similar terms are left out.

    Args:
        near: word -> result of TitleTerms.near().
    """
    return {
        word: min(titles, key=lambda term: (OSA.distance(word, term) / min(len(word), len(term)), -titles[term], term))
        for word, titles in near.items()
        if titles
    }


def _without_deleted(terms: TitleTerms, snapshot: ItemSnapshot) -> TitleTerms:
    """Return the terms; count them again if they include a deleted title."""
    if terms.items == snapshot.count():
        return terms
    counted = TitleTerms({})
    counted.catch_up(snapshot)
    return counted
