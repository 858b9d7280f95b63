"""Follow a database with a vector index and filter columns.

New vectors go into an exact buffer beside the main segment. A background rebuild merges the buffer into a copy of the main segment.
If too many vectors are deleted, or there are many more than at training, it builds the vector index again instead.
"""

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from retrieval.config.index_spec import IndexSpec
from retrieval.errors import IndexUnavailable
from retrieval.index.ann.automatic import AutomaticIndex, IndexChoice
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.database import NO_COMMIT, CommitSeq, ItemDatabase, ItemFields, ItemSnapshot, RowId
from retrieval.index.embedded.filter_columns import DeletedItem, FilterColumns, RowIds
from retrieval.index.embedded.follower import Follower
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.embedded.segments import SegmentedVectors
from retrieval.index.embedded.states import StateDatabase

logger = logging.getLogger(__name__)

CHOICE_FILE = "vector-index.json"  # the index type that AutomaticIndex chose for the vector file beside it
MAX_DELETED_SHARE = 0.3  # with a larger share of deleted vectors, a graph search visits too many of them
MAX_UNSAVED_SHARE = 0.2  # share of vectors that may be missing in the file; the next start adds them to the graph again
ATTEMPTS = 2  # attempts to read a file that another process may replace
ITEMS_PER_STEP = 4_096  # items that are added to the buffer at a time, while searches wait
MERGE_SHARE = 0.01  # with a larger share of the vectors in the buffer, searches are slower than with all in the graph
MIN_MERGE_ITEMS = 1_000  # a buffer of at most so many vectors is searched faster than a graph is copied


class VectorView:
    """The vectors and the filter columns of a database up to one commit.

    Args:
        database: database of the items.
        spec: spec of the vector index.
        states: states of the items; None for none.

    Attributes:
        vectors: vectors by vector id.
        columns: filter columns of the vectors' items, with their states.
        commit_seq: last commit whose items are in both; NO_COMMIT before the first catch_up().
        lock: lock that searches hold for reading, and changes for writing.
    """

    def __init__(self, database: ItemDatabase, spec: IndexSpec, states: StateDatabase | None = None) -> None:
        self._database, self._spec, self._states = database, spec, states
        self._path = database.path.with_name(f"{spec.index_type}.faiss")
        self.vectors = SegmentedVectors(AnnIndex(database.dimensions, spec, self._path.parent))
        self.columns = FilterColumns()
        self.commit_seq = NO_COMMIT
        self.lock = ReadWriteLock()
        self._states_to = 0  # sequence number of the last state in the columns
        self._states_lock = threading.Lock()
        self._deletions_to = 0  # sequence number of the last deletion that was applied
        self._saved = 0  # number of vectors in the file

    @classmethod
    def open(cls, database: ItemDatabase, spec: IndexSpec, states: StateDatabase | None = None) -> "VectorView":
        """Return a view of the vector file, with the vectors that the file lacks from the database.

        If the file is missing, damaged or of another index type, the view is built from the database alone.
        """
        problem: Exception | None = None
        for _ in range(ATTEMPTS):
            opened = cls(database, spec, states)
            with database.snapshot() as snapshot:
                try:
                    opened._load(snapshot)
                except FileNotFoundError:
                    return cls.build(database, spec, states)
                except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
                    problem = error  # maybe another process has just replaced the file, so try again
                    continue
                opened._fill(snapshot)
                return opened
        message = "%s is not usable (%s); the vector index is built again from %s"
        logger.warning(message, opened._path, problem, database.path)
        return cls.build(database, spec, states)

    @classmethod
    def build(
        cls,
        database: ItemDatabase,
        spec: IndexSpec,
        states: StateDatabase | None = None,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> "VectorView":
        """Return a view that is built from the database alone; checkpoint() is called between steps and may raise to give up."""
        built = cls(database, spec, states)
        with database.snapshot() as snapshot:
            built._fill(snapshot, checkpoint)
        return built

    @property
    def live(self) -> int:
        """Return the number of vectors that are not deleted."""
        return len(self.columns) - self.columns.deleted

    @property
    def needs_rebuild(self) -> bool:
        """True if more than 30 % of the vectors are deleted, or the main segment needs retraining."""
        return self.columns.deleted > MAX_DELETED_SHARE * len(self.columns) or self.vectors.main.needs_retraining

    @property
    def merge_due(self) -> bool:
        """True if the buffer holds so many vectors that they should go into the main segment."""
        return len(self.vectors.buffer) > max(MIN_MERGE_ITEMS, MERGE_SHARE * len(self.vectors))

    def catch_up(self, snapshot: ItemSnapshot, checkpoint: Callable[[], None] = lambda: None) -> None:
        """Apply the commits since the last call, in steps between which searches can run.

        Deleted items are marked in the columns, new vectors go into the buffer. If the last call was interrupted, this one
        continues after its last step.
        """
        deletions = snapshot.deleted_after(self._deletions_to)
        with self.lock.writing():
            for sequence, item_id in deletions:
                self.columns.delete(item_id)
                self._deletions_to = sequence
        last = int(self.columns.row_ids[-1]) if len(self.columns) else 0
        for items, vectors in snapshot.items_after(last, ITEMS_PER_STEP):
            with self.lock.writing():
                self.vectors.add(vectors)
                self.columns.append(items)
                if self._states is not None and self._states_to:  # else catch_up_states() reads all states
                    self.columns.set_states(self._states.columns_of([item.item_id for item in items]))
            checkpoint()
        self.commit_seq = snapshot.commit_seq()

    def catch_up_states(self) -> None:
        """Set the columns of the items whose state was written since the last call; vectors and words are not touched."""
        if self._states is None or self._states.sequence() == self._states_to:
            return
        with self._states_lock:
            for sequence, states in self._states.columns_after(self._states_to):
                with self.lock.writing():
                    self.columns.set_states(states)
                self._states_to = sequence

    def merge(self, checkpoint: Callable[[], None] = lambda: None) -> None:
        """Merge the buffer into a copy of the main segment, while searches go on; checkpoint() may raise to give up."""
        self.vectors.merge(self.lock, checkpoint)

    def save(self, max_unsaved_share: float = 0.0) -> None:
        """Write the main segment to the vector file, and let searches use the file.

        Nothing is written if at most `max_unsaved_share` of the main segment's vectors are missing in the file. An error is only
        logged, because it only makes the next start slower.
        """
        main = self.vectors.main
        if len(main) - self._saved <= max_unsaved_share * len(main):
            return
        try:
            mapped = main.save(self._path, self.columns.row_ids[: len(main)], self._database.database_id)
        except (OSError, RuntimeError, ValueError) as error:
            logger.warning("%s could not be written (%s); the next start builds the vector index again", self._path, error)
            return
        self._saved = len(main)
        with self.lock.writing():
            self.vectors.replace_main(mapped, expected=main)

    def _load(self, snapshot: ItemSnapshot) -> None:
        main, row_ids = AnnIndex.load(self._path, self._database.dimensions, self._database.database_id, self._spec)
        last, start = int(row_ids[-1]) if len(row_ids) else 0, 0
        if last > snapshot.last_row_id():  # the file is newer than the snapshot, or the database has lost commits
            raise ValueError("it holds lots that the database does not")
        for items in snapshot.fields_to(last, ITEMS_PER_STEP):  # all rows at once would take more memory than the columns
            end = int(np.searchsorted(row_ids, items[-1].row_id, side="right"))
            self._append_columns(row_ids[start:end], items)
            start = end
        self._append_columns(row_ids[start:], [])
        self.vectors, self._saved = SegmentedVectors(main), len(main)

    def _append_columns(self, row_ids: RowIds, items: Sequence[ItemFields]) -> None:
        """Append one entry per row to the columns; a row without an item was deleted."""
        live = {int(item.row_id): item for item in items}
        if len(live) > len(row_ids) or not np.isin(list(live), row_ids).all():
            raise ValueError("it leaves out lots of the database")
        self.columns.append([live.get(row_id) or DeletedItem(RowId(row_id)) for row_id in row_ids.tolist()])

    def _fill(self, snapshot: ItemSnapshot, checkpoint: Callable[[], None] = lambda: None) -> None:
        """Add all items before the first search. If the view is empty, they go into the main segment directly, without a copy."""
        fresh = not len(self.vectors)

        def after_step() -> None:
            checkpoint()
            if fresh:
                self.vectors.merge_in_place()

        self.catch_up(snapshot, after_step)
        if fresh:
            self.vectors.main.train(checkpoint)
        elif self.merge_due:
            try:
                self.merge()
            except IndexUnavailable as error:
                logger.warning("%s; the new lots are searched beside the others", error)


class VectorFollower(Follower[VectorView]):
    """A follower of a database with a VectorView.

    Args:
        database: database to follow.
        spec: spec of the vector index, or the rules that choose it. A choice is stored with the vector file, and made again when
            there are twice as many vectors.
        states: states of the items; None for none.

    Raises:
        InvalidInput: the parameters of the spec do not suit the vectors.
    """

    def __init__(self, database: ItemDatabase, spec: IndexSpec | AutomaticIndex, states: StateDatabase | None = None) -> None:
        if isinstance(spec, IndexSpec):
            spec.check_fit(database.dimensions)
        name = database.path.parent.name
        super().__init__(database, f"merge {name}", f"{name} keeps its graph and its delta as they are")
        self._spec, self._states = spec, states
        self._choice_path = database.path.with_name(CHOICE_FILE)
        self.choice: IndexChoice | None = None  # None for a spec that the settings name, and before the first view

    def current(self, min_commit: CommitSeq) -> VectorView:
        """Return the current view, with the states that were written until now; see Follower.current()."""
        view = super().current(min_commit)
        view.catch_up_states()
        return view

    def live_rows(self) -> tuple[RowIds, RowId]:
        """Return the ascending row ids of all items of the view, and the last row id in the view.

        The view is not refreshed here, because a low-priority thread may call this. While that thread refreshed, searches would use
        the previous view.
        """
        view = self.view or self.current(NO_COMMIT)
        with view.lock.reading():
            columns = view.columns
            return columns.live_row_ids, RowId(int(columns.row_ids[-1]) if len(columns) else 0)

    def _open(self) -> VectorView:
        if isinstance(self._spec, IndexSpec):
            return VectorView.open(self._database, self._spec, self._states)
        items = self._database.count()
        stored = IndexChoice.load(self._choice_path)
        stale = stored is None or self._spec.is_stale(stored, items)
        self.choice = self._spec.choose(items, self._database.dimensions) if stale else stored
        return VectorView.open(self._database, self._chosen_spec(), self._states)

    def _refresh(self, view: VectorView, checkpoint: Callable[[], None] = lambda: None) -> VectorView:
        with self._database.snapshot() as snapshot:
            view.catch_up(snapshot, checkpoint)
        return view

    def _is_rebuild_due(self, view: VectorView) -> bool:
        return view.merge_due or view.needs_rebuild or self._is_choice_stale(view)

    def _rebuild(self, view: VectorView, *, in_background: bool) -> None:
        other_type = self._is_choice_stale(view) and self._choose_again(view)
        if view.needs_rebuild or other_type:
            view = VectorView.build(self._database, self._chosen_spec(), self._states, self._check_open)
            self._swap(view)
        else:
            view.merge(self._check_open)
        view.save(MAX_UNSAVED_SHARE if in_background else 0.0)
        self._save_choice()

    def _save(self, view: VectorView) -> None:
        view.save()
        self._save_choice()

    def _chosen_spec(self) -> IndexSpec:
        if isinstance(self._spec, IndexSpec):
            return self._spec
        assert self.choice is not None
        return IndexSpec.parse(self.choice.spec)

    def _is_choice_stale(self, view: VectorView) -> bool:
        """True if the index type was chosen for fewer vectors, so that the choice should be made again."""
        if isinstance(self._spec, IndexSpec) or self.choice is None:
            return False
        return self._spec.is_stale(self.choice, view.live)

    def _choose_again(self, view: VectorView) -> bool:
        """Choose the index type for the present number of vectors; return True if the index must be built again for it."""
        assert isinstance(self._spec, AutomaticIndex)
        before, self.choice = self._chosen_spec(), self._spec.choose(view.live, self._database.dimensions)
        if not self._chosen_spec().lies_like(before):
            logger.info("%s: %s, %s", self._database.path.parent.name, self.choice.spec, self.choice.reason)
            return True
        return False

    def _save_choice(self) -> None:
        """Store the choice beside the vector file, and delete files of types that were chosen before."""
        if self.choice is None or self.choice == IndexChoice.load(self._choice_path):
            return
        try:
            self.choice.save(self._choice_path)
            for path in self._choice_path.parent.glob("*.faiss"):
                if path.stem != self._chosen_spec().index_type:
                    path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s could not be written (%s); the next start chooses the index type again", self._choice_path, error)
