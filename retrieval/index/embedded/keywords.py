"""The keyword index of an embedded index, kept in step with its database: a main one in files, and a delta in memory after it.

The main one is mapped from a snapshot and never changed. Lots that were committed since are added to the delta, a copy of their
words each, and are found by the next search. Where the delta has grown, a thread of low priority joins both to a new main one,
without the lots that are gone, and exchanges it in one step while searches go on. How many lots there are, and how many have a
word, is counted over main and delta, lots that are gone included until then; the average length of a text is that of the main one.

bm25-<generation>            a snapshot of the lots' text: of the lots that <generation> commits had led to
bm25-<generation>-<field>    and of a field that a boost counts in
"""

import logging
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import TEXT_FIELD
from retrieval.errors import GavelError, IndexUnavailable
from retrieval.index.embedded.background import BackgroundRebuild, Closed
from retrieval.index.embedded.bm25 import TEXTS_A_STEP, Bm25Delta, Bm25Index
from retrieval.index.embedded.database import ItemDatabase
from retrieval.index.embedded.keyword_fields import FieldRows, KeywordFields
from retrieval.index.hybrid_tuning import FieldBoosts
from retrieval.index.validation import batches

logger = logging.getLogger(__name__)

PREFIX = "bm25-"
SNAPSHOT_NAME = re.compile(rf"{PREFIX}(\d+)")
SMALL = 5_000  # lots that are joined anew after each commit, in some milliseconds, so that their statistics are never behind
DELTA_SHARE = 0.01  # of the lots in the main index; beyond it the delta goes into it
LEAST_DELTA = 1_000  # lots that are looked through faster than files are written

LivingLots = Callable[[], tuple[NDArray[np.int64], int]]  # positions of the lots that are there, up to which position that is known


@dataclass(frozen=True, slots=True)
class _Held:
    """A state of the index; only its deltas take more in.

    Attributes:
        generation: of the database, up to which it was read.
        main_generation: the same of the main index.
        saved: whether the main index is that of files.
        fields: what searches see.
        deltas: of the fields.
    """

    generation: int
    main_generation: int
    saved: bool
    fields: KeywordFields
    deltas: Sequence[Bm25Delta]


class LotKeywords:
    """Keyword scores of a database's lots. Threads may share it, and processes the folder: each has a delta of its own.

    Args:
        lots: the database.
        folder: of its snapshots.
        boosts: of the fields.
        language: of words in Latin letters.
        living: tells which lots are there.
    """

    def __init__(self, lots: ItemDatabase, folder: Path, boosts: FieldBoosts, language: str, living: LivingLots) -> None:
        self._lots, self._folder, self._language, self._living = lots, folder, language, living
        self._weights = {TEXT_FIELD: 1.0, **boosts.nonzero}
        self._turn = threading.Lock()  # one thread at a time catches up
        self._merging = threading.Lock()  # one thread at a time makes a new main index
        self._held: _Held | None = None
        self._exchanging = self._closed = False
        self._renewal = BackgroundRebuild(f"words of {folder.name}")

    @property
    def merging(self) -> bool:
        """Whether the delta goes into a new main index, while searches go on."""
        return self._merging.locked()

    def current(self, at_least: int) -> KeywordFields:
        """The newest generation; an older one, but `at_least` that, while another thread catches up."""
        known, generation = self._held, self._lots.generation()
        if known is not None and known.generation == generation:
            return known.fields
        if not self._turn.acquire(blocking=known is None or known.generation < at_least or self._exchanging):
            assert known is not None
            return known.fields
        try:
            held = self._held or self._open()
            if held.generation < generation:
                held = self._caught_up(held)
            self._held = held
        except (MemoryError, GavelError):
            self._held = None  # what was taken in half-way would be taken in twice
            raise
        finally:
            self._turn.release()
        if self._overdue(held) and not self.merging:
            name = self._folder.name
            self._renewal.start(lambda: self.merge(wait=False), f"{name} keeps its words in main and delta as they are")
        return held.fields

    def merge(self, *, wait: bool) -> None:
        """Make a main index of all that is there and save it; searches go on meanwhile.

        Args:
            wait: for another thread that does the same; else there is nothing to do. What another process saved is as good then.
        """
        if not self._merging.acquire(blocking=wait):
            return
        try:
            held = self._held
            if held is None:
                return
            with self._renewal.attempt():
                saved = None if wait else self._load(held.main_generation)
                if saved is None and (held.main_generation < held.generation or not held.saved):
                    joined = held if held.main_generation == held.generation else self._merged(held, self._go_on)
                    saved = self._save(joined)
                if saved is not None:
                    self._exchange(self._caught_up(saved))
        except Closed:
            pass
        finally:
            self._merging.release()

    def close(self) -> None:
        """Save what a next start would have to build again; who makes a new main index gives up."""
        self._closed = True
        with self._merging:
            if self._held is not None and not self._held.saved:
                self._save(self._held)
            self._held = None

    def _exchange(self, held: _Held) -> None:
        """Let searches see this state; those that come meanwhile wait, for a lot of just now must not be missed."""
        self._exchanging = True
        try:
            with self._turn:
                self._held = self._caught_up(held)
        finally:
            self._exchanging = False

    def _open(self) -> _Held:
        """The newest snapshot that is usable, else nothing yet."""
        return self._load(-1) or self._begin([Bm25Index.none(self._language) for _ in self._weights], generation=-1, saved=False)

    def _begin(self, mains: Sequence[Bm25Index], generation: int, *, saved: bool, rows: FieldRows | None = None) -> _Held:
        deltas = [Bm25Delta(main) for main in mains]
        fields = KeywordFields([*self._weights.values()], mains, [delta.view() for delta in deltas], rows)
        return _Held(generation, generation, saved, fields, deltas)

    def _caught_up(self, held: _Held) -> _Held:
        """Take in what was committed since; a main index that is small, or no larger than that, is joined with it at once."""
        with self._lots.snapshot() as snapshot:
            generation = snapshot.generation()
            if generation == held.generation:
                return held
            lots = snapshot.texts_after(held.fields.last, [*self._weights])
            for some in batches(lots, TEXTS_A_STEP, lambda lot: sum(len(text or "") for text in lot[1])):
                for number, delta in enumerate(held.deltas):
                    delta.add((position, texts[number] or "") for position, texts in some)
        views = [delta.view() for delta in held.deltas]
        fields = KeywordFields([*self._weights.values()], held.fields.mains, views, held.fields.rows)
        caught_up = _Held(generation, held.main_generation, held.saved, fields, held.deltas)
        in_main, in_delta = fields.lots
        small = in_main + in_delta <= SMALL
        if not (small or in_delta > in_main) or not self._renewal.due:
            return caught_up
        try:
            with self._renewal.attempt():
                merged = self._merged(caught_up)
        except IndexUnavailable as error:
            logger.warning("%s; new words are searched beside the others", error)
            return caught_up
        return merged if small else self._save(merged)

    def _overdue(self, held: _Held) -> bool:
        in_main, in_delta = held.fields.lots
        return in_delta > max(LEAST_DELTA, DELTA_SHARE * in_main)

    def _merged(self, held: _Held, before_stride: Callable[[], None] = lambda: None) -> _Held:
        positions, known_to = self._living()

        def living(asked: NDArray[np.int64]) -> NDArray[np.bool_]:
            there: NDArray[np.bool_] = np.isin(asked, positions) | (asked > known_to)
            return there

        pairs = zip(held.fields.mains, held.fields.deltas, strict=True)
        mains = [main.merged(delta, living, before_stride) for main, delta in pairs]
        return self._begin(mains, held.generation, saved=False)

    def _load(self, after: int) -> _Held | None:
        """The newest usable snapshot of a generation after another one; None where all must be built."""
        passed_over: set[int] = set()
        newest = self._lots.generation()
        while left := [found for found in self._generations() if after < found <= newest and found not in passed_over]:
            generation = max(left)
            try:
                return self._begin(self._load_mains(generation), generation, saved=True)
            except (OSError, ValueError) as error:
                passed_over.add(generation)
                if not all(self._path(generation, field).is_dir() for field in self._weights):
                    continue  # of another tuning, or another process has just put a newer one in its place
                logger.warning("the keyword snapshot of %s is not usable (%s); it is built again", self._folder, error)
                for field in self._weights:
                    shutil.rmtree(self._path(generation, field), ignore_errors=True)
        return None

    def _save(self, held: _Held) -> _Held:
        """Keep a main index in the folder in the place of older generations, and map it from there."""
        try:
            # the text last, by whose folder a snapshot is known
            for field, main in reversed([*zip(self._weights, held.fields.mains, strict=True)]):
                main.save(self._path(held.main_generation, field), self._lots.database_id)
            mains = self._load_mains(held.main_generation)
            for path in self._folder.glob(f"{PREFIX}*"):
                if (found := SNAPSHOT_NAME.match(path.name)) and int(found[1]) < held.main_generation:
                    shutil.rmtree(path, ignore_errors=True)
        except (OSError, ValueError) as error:
            logger.warning("the keyword snapshot of %s could not be written (%s)", self._folder, error)
            return held
        return self._begin(mains, held.main_generation, saved=True)

    def _load_mains(self, generation: int) -> list[Bm25Index]:
        folders = [self._path(generation, field) for field in self._weights]
        return [Bm25Index.load(folder, self._language, self._lots.database_id) for folder in folders]

    def _generations(self) -> set[int]:
        names = (SNAPSHOT_NAME.fullmatch(path.name) for path in self._folder.glob(f"{PREFIX}*"))
        return {int(found[1]) for found in names if found}

    def _path(self, generation: int, field: str) -> Path:
        return self._folder / (f"{PREFIX}{generation}" if field == TEXT_FIELD else f"{PREFIX}{generation}-{field}")

    def _go_on(self) -> None:
        if self._closed:
            raise Closed
