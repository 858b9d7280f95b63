"""The words of titles in an embedded index, by which words of a query are put right, as OpenSearch's term suggester does it.

Nearest is what takes the fewest edits for its length (optimal string alignment: a letter more, less, other, or two swapped), then
what more titles have, then what comes first in the alphabet; the first letter is taken to be right. So does Lucene's
DirectSpellChecker, with whose answers tests/contract/test_corrections.py compares these.
"""

import json
import logging
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from rapidfuzz import process
from rapidfuzz.distance import OSA

from retrieval.index.bm25 import ANALYSIS, words
from retrieval.index.lot_store import LotStore
from retrieval.spelling import can_be_misspelt, most_edits

logger = logging.getLogger(__name__)

PREFIX = "title-words-"  # title-words-<generation>.<analysis>.json


class TitleWords:
    """The words of titles that a query's words can be corrected to.

    Args:
        titles: word in lower case -> number of titles that have it.
    """

    def __init__(self, titles: Mapping[str, int]) -> None:
        self._titles = titles
        self._by_letter: dict[str, list[str]] = defaultdict(list)
        for word in titles:
            self._by_letter[word[0]].append(word)

    def nearest(self, word: str) -> str | None:
        """The word of a title that a word was meant to be; None where none is near."""
        near = process.extract_iter(word, self._by_letter.get(word[0], ()), scorer=OSA.distance, score_cutoff=most_edits(word))
        ranked = [(edits / min(len(word), len(other)), -self._titles[other], other) for other, edits, _ in near]
        return min(ranked)[2] if ranked else None

    @classmethod
    def build(cls, titles: Iterable[str]) -> "TitleWords":
        """Count the words of titles."""
        counts: Counter[str] = Counter()
        for title in titles:
            counts.update({word for word in words(title) if can_be_misspelt(word)})
        return cls(counts)

    @classmethod
    def of(cls, lots: LotStore, folder: Path) -> tuple[int, "TitleWords"]:
        """The generation and the words of a database, read from the folder where they were kept, else counted and kept there."""
        generation = lots.generation()
        try:
            return generation, cls(json.loads(_path(folder, generation).read_text(encoding="utf-8")))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("the words of titles in %s are not usable (%s); they are counted again", folder, error)
        with lots.snapshot() as snapshot:
            generation, built = snapshot.generation(), cls.build(title for _, title in snapshot.texts("title"))
        built._save(_path(folder, generation))
        return generation, built

    def _save(self, path: Path) -> None:
        """Write the words in one step, in the place of older ones."""
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        try:
            partial.write_text(json.dumps(self._titles, ensure_ascii=False), encoding="utf-8")
            partial.replace(path)
            for older in path.parent.glob(f"{PREFIX}*.json"):
                if older != path:
                    older.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the words of titles could not be written to %s (%s)", path, error)
            partial.unlink(missing_ok=True)


def _path(folder: Path, generation: int) -> Path:
    return folder / f"{PREFIX}{generation}.{ANALYSIS}.json"
