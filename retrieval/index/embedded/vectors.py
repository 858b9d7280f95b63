"""The vectors and the filter columns of an embedded index, kept in step with its database."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.errors import IndexUnavailable
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.database import ItemDatabase, ItemFields, ItemSnapshot
from retrieval.index.embedded.filter_columns import DeletedItem, FilterColumns
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.embedded.segments import SegmentedVectors

logger = logging.getLogger(__name__)

MAX_DEAD_SHARE = 0.3  # of the slots; above it the graph spends its beam on lots that are gone
MAX_UNSAVED_SHARE = 0.2  # of the slots; what is not in the file is added to the graph again at the next start
ATTEMPTS = 2  # to read a file that another process may replace
LOTS_A_STEP = 4_096  # added to the delta at a time while searches wait
DELTA_SHARE = 0.01  # of the slots; what lies in the delta beyond that makes every search slower than the graph would
LEAST_DELTA = 1_000  # lots that are compared with one by one faster than a graph is copied


class VectorView:
    """The lots of a database up to one generation, ready to be searched.

    Args:
        spec: of the vector index.
        dimensions: length of the vectors.
        folder: of the index.

    Attributes:
        vectors: of the slots.
        columns: the lots of the slots.
        generation: the state of the database that both have; -1 before the first catch_up().
    """

    def __init__(self, spec: IndexSpec, dimensions: int, folder: Path) -> None:
        self._spec = spec
        self.vectors = SegmentedVectors(AnnIndex(dimensions, spec, folder))
        self.columns = FilterColumns()
        self.generation = -1
        self._tombstones_to = 0
        self._saved_slots = 0

    @classmethod
    def open(cls, lots: ItemDatabase, path: Path, spec: IndexSpec) -> "VectorView":
        """Load the vector file as far as it goes and take the rest from the database.

        Args:
            lots: the database.
            path: the vector file; one that is missing, damaged or of another family is passed over.
            spec: of the vector index.
        """
        problem: Exception | None = None
        for _ in range(ATTEMPTS):
            opened = cls(spec, lots.dimensions, path.parent)
            with lots.snapshot() as snapshot:
                try:
                    opened._load(lots, snapshot, path)
                except FileNotFoundError:
                    return cls.build(lots, spec)
                except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
                    problem = error  # or another process has just put a newer one in its place
                    continue
                opened._fill(snapshot)
                return opened
        logger.warning("%s is not usable (%s); the vector index is built again from %s", path, problem, lots.path)
        return cls.build(lots, spec)

    @classmethod
    def build(cls, lots: ItemDatabase, spec: IndexSpec, after_step: Callable[[], None] = lambda: None) -> "VectorView":
        """Build the vector index from the database alone; after_step() may give up by raising."""
        built = cls(spec, lots.dimensions, lots.path.parent)
        with lots.snapshot() as snapshot:
            built._fill(snapshot, after_step)
        return built

    @property
    def worn(self) -> bool:
        """Whether the vector index ought to be built again: many slots are dead, or it was trained for far fewer."""
        return self.columns.dead > MAX_DEAD_SHARE * len(self.columns) or self.vectors.main.needs_retraining

    @property
    def overdue(self) -> bool:
        """Whether so many lots are in the delta that they ought to go into the graph."""
        return len(self.vectors.buffer) > max(LEAST_DELTA, DELTA_SHARE * len(self.vectors))

    def catch_up(self, snapshot: ItemSnapshot, lock: ReadWriteLock, after_step: Callable[[], None] = lambda: None) -> None:
        """Take over what was committed since the last time into the delta, in steps between which searches can run."""
        generation = snapshot.generation()
        gone = snapshot.deleted_after(self._tombstones_to)
        with lock.writing():
            for sequence, item_id in gone:
                self.columns.bury(item_id)
                self._tombstones_to = sequence
        last = int(self.columns.positions[-1]) if len(self.columns) else 0
        for lots, vectors in snapshot.lots_after(last, LOTS_A_STEP):
            with lock.writing():
                self.vectors.add(vectors)
                self.columns.append(lots)
            after_step()
        self.generation = generation

    def save(self, lots: ItemDatabase, path: Path, lock: ReadWriteLock, *, everything: bool) -> None:
        """Write the vector file, unless nothing, or (with everything=False) not much, is new; from then on that is searched.

        A file that cannot be written is only a slower start next time, so that is logged and not raised.

        Args:
            lots: the database.
            path: replaced if it is there.
            lock: that searches hold; taken for the moment in which the mapped file takes the place of the memory.
            everything: whether little that is new is worth it.
        """
        main = self.vectors.main
        unsaved = len(main) - self._saved_slots
        if unsaved <= (0 if everything else MAX_UNSAVED_SHARE * len(main)):
            return
        try:
            mapped = main.save(path, self.columns.positions[: len(main)], lots.database_id)
        except (OSError, RuntimeError, ValueError) as error:
            logger.warning("%s could not be written (%s); the next start builds the vector index again", path, error)
            return
        self._saved_slots = len(main)
        with lock.writing():
            self.vectors.replace_main(mapped, expected=main)

    def _load(self, lots: ItemDatabase, snapshot: ItemSnapshot, path: Path) -> None:
        main, positions = AnnIndex.load(path, lots.dimensions, lots.database_id, self._spec)
        last, taken = int(positions[-1]) if len(positions) else 0, 0
        if last > snapshot.last_position():  # it was written just now, or the database has lost what was committed last
            raise ValueError("it holds lots that the database does not")
        for lots_there in snapshot.fields_to(last, LOTS_A_STEP):  # in steps, for all at once take more memory than the columns
            end = int(np.searchsorted(positions, lots_there[-1].position, side="right"))
            self._take_over(positions[taken:end], lots_there)
            taken = end
        self._take_over(positions[taken:], [])
        self.vectors, self._saved_slots = SegmentedVectors(main), len(main)

    def _take_over(self, positions: NDArray[np.int64], lots: Sequence[ItemFields]) -> None:
        """Give the next slots to the lots that stand at these positions; where none does any more the slot is dead."""
        living = {lot.position: lot for lot in lots}
        if len(living) > len(positions) or not np.isin(list(living), positions).all():
            raise ValueError("it leaves out lots of the database")
        self.columns.append([living.get(position) or DeletedItem(position) for position in positions.tolist()])

    def _fill(self, snapshot: ItemSnapshot, after_step: Callable[[], None] = lambda: None) -> None:
        """Take over all lots where nobody searches yet; without a file they go into the main index at once, not into a copy."""
        fresh = not len(self.vectors)

        def after_lots() -> None:
            after_step()
            if fresh:
                self.vectors.merge_in_place()

        self.catch_up(snapshot, ReadWriteLock(), after_lots)
        if fresh:
            self.vectors.main.train(after_step)
        elif self.overdue:
            try:
                self.vectors.merge(ReadWriteLock())
            except IndexUnavailable as error:
                logger.warning("%s; the new lots are searched beside the others", error)
