"""Follow a database with the inverted lists of its items.

Each field has a main segment, which is mapped from files and never changed. Items that are committed later go into a buffer in
memory, where the next search finds them. Once the buffer is large, a background rebuild merges both into a new main segment without
deleted items. It writes the new segment to files, and swaps it in while searches go on.

The number of items, and of items with a term, is counted over main segment and buffer, with deleted items until a merge. The
average length of a text is that of the main segment.

bm25-<commit>                      main segment of the text, with the first <commit> commits
bm25-<commit>-<field>              main segment of a field with a boost
bm25-<commit>-<field>-<k1>-<b>     main segment of the attributes, with their BM25 parameters
"""

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.attributes import ATTRIBUTE_TEXT_FIELD
from retrieval.contracts.documents import TEXT_FIELD
from retrieval.errors import IndexUnavailable
from retrieval.index.embedded.bm25 import (
    TEXTS_PER_STEP,
    Bm25Buffer,
    Bm25BufferView,
    Bm25Index,
    Bm25Parameters,
    Segment,
    bm25_scores,
)
from retrieval.index.embedded.database import NO_COMMIT, CommitSeq, ItemDatabase, RowId
from retrieval.index.embedded.filter_columns import RowIds
from retrieval.index.embedded.follower import Follower
from retrieval.index.hybrid_tuning import FieldBoosts
from retrieval.index.validation import batches
from retrieval.text.stemming import stem

logger = logging.getLogger(__name__)

PREFIX = "bm25-"
SNAPSHOT_NAME = re.compile(rf"{PREFIX}(\d+)")
SMALL = 5_000  # an index of at most so many items is merged after each commit, within milliseconds, for exact statistics
MERGE_SHARE = 0.01  # a buffer with a larger share of the main segment's items is merged
MIN_MERGE_ITEMS = 1_000  # a buffer of at most so many items is not merged, because searching it is cheaper than writing files

Scores = tuple[NDArray[np.float32], RowIds]
"""(N,) scores of items, and the (N,) ascending row ids of these items."""
LiveRows = Callable[[], tuple[RowIds, RowId]]
"""Function that returns the ascending row ids of all items, and the last row id that was read for them."""


@dataclass(frozen=True, slots=True)
class BoostedField:
    """A field of words in BM25.

    Attributes:
        path: name of the field in documents.
        weight: boost of the field.
        parameters: BM25 parameters of the field; None takes those of this process.
    """

    path: str
    weight: float
    parameters: Bm25Parameters | None = None

    @property
    def suffix(self) -> str:
        """Return the end of the name of the field's folders."""
        numbers = f"-{self.parameters.k1:g}-{self.parameters.b:g}" if self.parameters else ""
        return "" if self.path == TEXT_FIELD else f"-{self.path}{numbers}"


class AlignedFields:
    """The documents of several fields, aligned by their items.

    Args:
        fields: segments, one per field.

    Attributes:
        row_ids: (N,) int64 row ids, ascending, of the items that have a term in any field.
    """

    def __init__(self, fields: Sequence[Segment]) -> None:
        row_ids = [field.row_ids for field in fields]
        only_first = not any(map(len, row_ids[1:]))  # as of lots without attributes
        self.row_ids: RowIds = row_ids[0] if only_first else np.unique(np.concatenate(row_ids))
        self._places = [] if only_first else [np.searchsorted(self.row_ids, each) for each in row_ids]

    def sum_scores(self, boosts: Sequence[float], scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return (N,) float32 >= 0: the sum over all fields of boost * score, per item.

        Args:
            boosts: one boost per field.
            scores: one array per field, with the scores of the field's documents.
        """
        if not self._places:
            return scores[0]  # of the text, whose boost is 1
        total = np.zeros(len(self.row_ids))
        for boost, places, of_field in zip(boosts, self._places, scores, strict=True):
            total[places] += boost * of_field
        summed: NDArray[np.float32] = total.astype(np.float32)
        return summed


@dataclass(frozen=True, slots=True)
class KeywordView:
    """The inverted lists of all fields up to one commit. The scores of fields are summed, like OpenSearch's `most_fields`.

    Attributes:
        commit_seq: last commit in this view.
        main_commit_seq: last commit in the main segments.
        saved: True if the main segments are mapped from files.
        boosts: boost of each field; the first one is 1, for the text.
        mains: main segment of each field.
        main_fields: alignment of the main segments.
        buffers: buffer of each field, to which later commits are added.
        buffered: content of each buffer that belongs to this view.
        buffered_fields: alignment of `buffered`.
    """

    commit_seq: CommitSeq
    main_commit_seq: CommitSeq
    saved: bool
    boosts: Sequence[float]
    mains: Sequence[Bm25Index]
    main_fields: AlignedFields
    buffers: Sequence[Bm25Buffer]
    buffered: Sequence[Bm25BufferView]
    buffered_fields: AlignedFields

    @classmethod
    def of(cls, mains: Sequence[Bm25Index], boosts: Sequence[float], commit_seq: CommitSeq, *, saved: bool) -> "KeywordView":
        """Return a view of main segments with empty buffers."""
        buffers = [Bm25Buffer(main) for main in mains]
        buffered = [buffer.view() for buffer in buffers]
        fields = AlignedFields(mains), AlignedFields(buffered)
        return cls(commit_seq, commit_seq, saved, boosts, mains, fields[0], buffers, buffered, fields[1])

    def advance(self, commit_seq: CommitSeq) -> "KeywordView":
        """Return the view of a later commit, with everything that is in the buffers now."""
        buffered = [buffer.view() for buffer in self.buffers]
        return replace(self, commit_seq=commit_seq, buffered=buffered, buffered_fields=AlignedFields(buffered))

    @property
    def counts(self) -> tuple[int, int]:
        """Return the numbers of items in the main segments and in the buffers, deleted items included."""
        return len(self.main_fields.row_ids), len(self.buffered_fields.row_ids)

    @property
    def last_row_id(self) -> int:
        """Return the last row id that was read into all buffers."""
        return min(buffer.last_row_id for buffer in self.buffered)

    @property
    def merge_due(self) -> bool:
        """True if the buffers hold so many items that they should go into the main segments."""
        in_main, in_buffer = self.counts
        return in_buffer > max(MIN_MERGE_ITEMS, MERGE_SHARE * in_main)

    def contains(self, word: str) -> bool:
        """True if an item has a word with the same stem in any field; deleted items count until a merge."""
        term = stem(word, self.mains[0].language)
        segments: list[Segment] = [*self.mains, *self.buffered]
        return any(len(segment.find(term)[0]) for segment in segments)

    def scores(self, text: str) -> tuple[Scores, Scores]:
        """Return the boosted BM25 scores of the items in the main segments, and of those in the buffers."""
        of_fields = [bm25_scores([*pair], text, pair[0].language) for pair in zip(self.mains, self.buffered, strict=True)]
        of_main, of_buffer = zip(*of_fields, strict=True)
        main, buffer = self.main_fields, self.buffered_fields
        return (main.sum_scores(self.boosts, of_main), main.row_ids), (buffer.sum_scores(self.boosts, of_buffer), buffer.row_ids)


class KeywordFollower(Follower[KeywordView]):
    """A follower of a database with a KeywordView. Processes may share the folder; each process has its own buffers.

    Args:
        database: database to follow.
        folder: folder of the files.
        boosts: boosts of the fields.
        language: language of words in Latin letters.
        live_rows: function that returns the row ids of all items, see LiveRows.
    """

    def __init__(self, database: ItemDatabase, folder: Path, boosts: FieldBoosts, language: str, live_rows: LiveRows) -> None:
        super().__init__(database, f"words of {folder.name}", f"{folder.name} keeps its words in main and delta as they are")
        self._folder, self._language, self._live_rows = folder, language, live_rows
        self._fields = {TEXT_FIELD: BoostedField(TEXT_FIELD, 1.0)}
        for name, weight in boosts.nonzero.items():
            self._fields[name] = BoostedField(name, weight)
        if boosts.attributes:
            parameters = Bm25Parameters(boosts.attributes_k1, boosts.attributes_b)
            self._fields["attributes"] = BoostedField(ATTRIBUTE_TEXT_FIELD, boosts.attributes, parameters)

    def _open(self) -> KeywordView:
        """Return a view of the newest usable files, else an empty view."""
        empty = [Bm25Index.empty(self._language, field.parameters) for field in self._fields.values()]
        return self._load(after=NO_COMMIT) or self._view(empty, NO_COMMIT, saved=False)

    def _refresh(self, view: KeywordView, checkpoint: Callable[[], None] = lambda: None) -> KeywordView:
        """Return a view with the new items in its buffers.

        The buffers are merged at once if the index is small, or if they hold more items than the main segments.
        """
        with self._database.snapshot() as snapshot:
            commit_seq = snapshot.commit_seq()
            if commit_seq == view.commit_seq:
                return view
            rows = snapshot.texts_after(view.last_row_id, [field.path for field in self._fields.values()])
            for batch in batches(rows, TEXTS_PER_STEP, lambda row: sum(len(text or "") for text in row[1])):
                for number, buffer in enumerate(view.buffers):
                    buffer.add((row_id, texts[number] or "") for row_id, texts in batch)
        view = view.advance(commit_seq)
        in_main, in_buffer = view.counts
        small = in_main + in_buffer <= SMALL
        if not (small or in_buffer > in_main) or not self._backoff.due:
            return view
        try:
            with self._backoff.attempt():
                merged = self._merge(view, checkpoint)
        except IndexUnavailable as error:
            logger.warning("%s; new words are searched beside the others", error)
            return view
        return merged if small else self._save(merged)

    def _is_rebuild_due(self, view: KeywordView) -> bool:
        return view.merge_due

    def _rebuild(self, view: KeywordView, *, in_background: bool) -> None:
        saved = self._load(after=view.main_commit_seq) if in_background else None
        if saved is None and (view.main_commit_seq < view.commit_seq or not view.saved):
            saved = self._save(view if view.main_commit_seq == view.commit_seq else self._merge(view, self._check_open))
        if saved is not None:
            self._swap(saved)

    def _merge(self, view: KeywordView, checkpoint: Callable[[], None]) -> KeywordView:
        live, last_row_id = self._live_rows()

        def is_live(row_ids: RowIds) -> NDArray[np.bool_]:
            mask: NDArray[np.bool_] = np.isin(row_ids, live) | (row_ids > last_row_id)
            return mask

        pairs = zip(view.mains, view.buffered, strict=True)
        return self._view([main.merge(buffer, is_live, checkpoint) for main, buffer in pairs], view.commit_seq, saved=False)

    def _view(self, mains: Sequence[Bm25Index], commit_seq: CommitSeq, *, saved: bool) -> KeywordView:
        return KeywordView.of(mains, [field.weight for field in self._fields.values()], commit_seq, saved=saved)

    def _load(self, after: CommitSeq) -> KeywordView | None:
        """Return a view of the newest usable files whose commit is later than `after`; None if there are none."""
        skipped: set[CommitSeq] = set()
        newest = self._database.commit_seq()
        while candidates := [commit for commit in self._saved_commits() if after < commit <= newest and commit not in skipped]:
            commit_seq = max(candidates)
            try:
                return self._view(self._load_mains(commit_seq), commit_seq, saved=True)
            except (OSError, ValueError) as error:
                skipped.add(commit_seq)
                if not all(self._path(commit_seq, field).is_dir() for field in self._fields.values()):
                    continue  # the files are of another tuning, or another process has just replaced them by newer ones
                logger.warning("the keyword snapshot of %s is not usable (%s); it is built again", self._folder, error)
                for field in self._fields.values():
                    shutil.rmtree(self._path(commit_seq, field), ignore_errors=True)
        return None

    def _save(self, view: KeywordView) -> KeywordView:
        """Write the main segments, remove older files, and return a view that maps the new files.

        A saved view is returned unchanged, and so is a view that cannot be written.
        """
        if view.saved:
            return view
        try:
            # the text last: its folder marks the files as complete
            for field, main in reversed([*zip(self._fields.values(), view.mains, strict=True)]):
                main.save(self._path(view.main_commit_seq, field), self._database.database_id)
            mains = self._load_mains(view.main_commit_seq)
            for path in self._folder.glob(f"{PREFIX}*"):
                if (name := SNAPSHOT_NAME.match(path.name)) and int(name[1]) < view.main_commit_seq:
                    shutil.rmtree(path, ignore_errors=True)
        except (OSError, ValueError) as error:
            logger.warning("the keyword snapshot of %s could not be written (%s)", self._folder, error)
            return view
        return self._view(mains, view.main_commit_seq, saved=True)

    def _load_mains(self, commit_seq: CommitSeq) -> list[Bm25Index]:
        return [
            Bm25Index.load(self._path(commit_seq, field), self._language, self._database.database_id, field.parameters)
            for field in self._fields.values()
        ]

    def _saved_commits(self) -> set[CommitSeq]:
        names = (SNAPSHOT_NAME.fullmatch(path.name) for path in self._folder.glob(f"{PREFIX}*"))
        return {CommitSeq(int(name[1])) for name in names if name}

    def _path(self, commit_seq: CommitSeq, field: BoostedField) -> Path:
        return self._folder / f"{PREFIX}{commit_seq}{field.suffix}"
