"""The words of titles in an embedded index, by which words of a query are put right, as OpenSearch's term suggester does it.

Nearest is what takes the fewest edits for its length (optimal string alignment: a letter more, less, other, or two swapped), then
what more titles have, then what comes first in the alphabet; the first letter is taken to be right. So does Lucene's
DirectSpellChecker, with whose answers tests/contract/test_corrections.py compares these.
"""

import logging
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rapidfuzz import process
from rapidfuzz.distance import OSA

from retrieval.errors import GavelError
from retrieval.files import replace_file, seal_json, unseal_json
from retrieval.index.embedded.database import ItemDatabase, ItemSnapshot
from retrieval.text.analysis import ANALYSIS, words
from retrieval.text.spelling import can_be_misspelt, max_edits

logger = logging.getLogger(__name__)

PREFIX = "title-words-"  # title-words-<generation>.<analysis>.json
FILE_NAME = re.compile(rf"{PREFIX}(\d+)\.{ANALYSIS}\.json")
SMALL = 5_000  # titles that are counted anew as soon as one of them is gone
TITLES_A_STEP = 10_000


class TitleWords:
    """The words of titles that a query's words can be corrected to. One thread at a time adds, while others look.

    Args:
        titles: word in lower case -> number of titles that have it.
    """

    def __init__(self, titles: Mapping[str, int]) -> None:
        self._titles: dict[str, int] = {}
        self._by_letter: dict[str, list[str]] = defaultdict(list)
        self._count(titles)

    @property
    def titles(self) -> Mapping[str, int]:
        """Word in lower case -> number of titles that have it."""
        return self._titles

    def near(self, word: str) -> dict[str, int]:
        """The words of titles that a word may have been meant to be -> number of titles that have them."""
        others = process.extract_iter(word, self._by_letter.get(word[0], ()), scorer=OSA.distance, score_cutoff=max_edits(word))
        return {other: self._titles[other] for other, _, _ in others}

    def add(self, titles: Iterable[str]) -> None:
        """Count the words of titles in addition."""
        counts: Counter[str] = Counter()
        for title in titles:
            counts.update({word for word in words(title) if can_be_misspelt(word)})
        self._count(counts)

    def _count(self, counts: Mapping[str, int]) -> None:
        for word, count in counts.items():
            known = self._titles.get(word)
            self._titles[word] = (known or 0) + count
            if known is None:
                self._by_letter[word[0]].append(word)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A state of the words: of which generation, the last position that was read, and how many lots were, those gone included."""

    generation: int
    last: int
    lots: int
    words: TitleWords


class TitleTerms:
    """The words of a database's titles, kept in step with it; titles that are gone count until all are counted anew.

    Args:
        lots: the database.
        folder: where they are kept for the next start.
    """

    def __init__(self, lots: ItemDatabase, folder: Path) -> None:
        self._lots, self._folder = lots, folder
        self._turn = threading.Lock()  # one thread at a time counts
        self._counted: _Counted | None = None
        self._saved = -1  # generation

    def current(self) -> TitleWords:
        """The words of the newest generation; of an older one while another thread counts."""
        known, generation = self._counted, self._lots.generation()
        if known is not None and known.generation == generation:
            return known.words
        if not self._turn.acquire(blocking=known is None):
            assert known is not None
            return known.words
        try:
            return self._catch_up(all_from=SMALL).words
        finally:
            self._turn.release()

    def prepare(self) -> None:
        """Count the titles that are there, and keep that."""
        with self._turn:
            self._catch_up(all_from=None)
            self._save()

    def close(self) -> None:
        """Keep what was counted."""
        with self._turn:
            self._save()
            self._counted = None

    def _catch_up(self, *, all_from: int | None) -> _Counted:
        """Count what was committed since; all anew where titles are gone, if there are no more than that or it is None."""
        counted = self._counted or self._load()
        with self._lots.snapshot() as snapshot:
            try:
                counted = _caught_up(counted, snapshot)
            except (MemoryError, GavelError):
                self._counted = None  # what was counted on half-way would count twice
                raise
            if (all_from is None or counted.lots <= all_from) and counted.lots != snapshot.count():
                counted = _caught_up(_nothing(), snapshot)
        self._counted = counted
        return counted

    def _load(self) -> _Counted:
        newest = self._lots.generation()
        names = (FILE_NAME.fullmatch(path.name) for path in self._folder.glob(f"{PREFIX}*"))
        for generation in sorted((int(found[1]) for found in names if found and int(found[1]) <= newest), reverse=True):
            try:
                kept = unseal_json(_path(self._folder, generation).read_bytes())
                if kept.get("database_id") != self._lots.database_id:  # an older version wrote neither this nor a checksum
                    raise ValueError("they are of another index")
                self._saved = generation
                return _Counted(generation, int(kept["last"]), int(kept["lots"]), TitleWords(kept["titles"]))
            except FileNotFoundError:
                pass  # another process has just put a newer one in its place
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("the words of titles in %s are not usable (%s); they are counted again", self._folder, error)
        return _nothing()

    def _save(self) -> None:
        """Write the words in one step, in the place of older ones."""
        counted = self._counted
        if counted is None or counted.generation <= self._saved:
            return
        path = _path(self._folder, counted.generation)
        kept = {"last": counted.last, "lots": counted.lots, "titles": counted.words.titles}
        try:
            replace_file(path, seal_json({"database_id": self._lots.database_id, **kept}))
            self._saved = counted.generation
            for older in self._folder.glob(f"{PREFIX}*.json"):
                if (found := FILE_NAME.fullmatch(older.name)) is None or int(found[1]) < counted.generation:
                    older.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the words of titles could not be written to %s (%s)", path, error)


def _nothing() -> _Counted:
    return _Counted(-1, 0, 0, TitleWords({}))


def _caught_up(counted: _Counted, snapshot: ItemSnapshot) -> _Counted:
    last, lots = counted.last, counted.lots
    titles = snapshot.texts_after(last, ["title"])
    while some := list(islice(titles, TITLES_A_STEP)):
        counted.words.add(title for _, (title,) in some if title)
        last, lots = some[-1][0], lots + len(some)
    return _Counted(snapshot.generation(), last, lots, counted.words)


def nearest(word: str, near: Mapping[str, int]) -> str | None:
    """The word that a word was meant to be, of those that TitleWords.near() tells; None where there is none."""
    ranked = [(OSA.distance(word, other) / min(len(word), len(other)), -titles, other) for other, titles in near.items()]
    return min(ranked)[2] if ranked else None


def corrections(near: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """word -> nearest(), of the words that have one."""
    return {word: found for word, others in near.items() if (found := nearest(word, others)) is not None}


def _path(folder: Path, generation: int) -> Path:
    return folder / f"{PREFIX}{generation}.{ANALYSIS}.json"
