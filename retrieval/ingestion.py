"""Index the embedding parts of a release, check the index by the records of its parts and by its recall, and make it live.

Parts may come in any order, several at once, and more than once: an operation carries the version of its item, and an older one
changes nothing. `gavel index` and the bulk-index Lambda are shells over this file.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.contracts.items import latest_version
from retrieval.contracts.parts import IndexOp, PartReader
from retrieval.contracts.release import (
    INDEX_REJECTS_FILE,
    IndexedPart,
    Manifest,
    check_part,
    load_release,
    rejects_of,
    unproved_parts,
)
from retrieval.errors import GavelError, IndexMissing, IndexUnavailable, ReleaseError
from retrieval.files import replace_file
from retrieval.index.filters import Filter
from retrieval.index.port import IndexStore, VectorIndex
from retrieval.index.ranking import SCORE_DECIMALS
from retrieval.progress import Progress

logger = logging.getLogger(__name__)

PROBES = 50
SAMPLES_PER_PROBE = 4  # items, so that enough probes remain when equal vectors count once
PROBE_K = 10
MIN_RECALL = 0.95
MIN_SHARE = 0.5  # of the live index's items, for a release to move the alias to another tower's index; a day has fewer
MAX_REJECTED_SHARE = 0.01  # of a release's items, for it to go live without --force
FEW_REJECTED = 3  # items of a small release, unless they are more than half of it
PROGRESS_STEP = 250
HEAD = 100  # items of a part whose most common length of vectors is that of a new index
REASONS_SHOWN = 3
REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """The result of indexing a release.

    Attributes:
        index: physical name of the index that holds it.
        tower_id: of its vectors.
        upserts: results of the operations of its parts.
        lots: number of items in the index, those of other releases included.
        recall_at_10: share of the exact ten nearest that the approximate search finds, mean over the probes, in [0, 1].
        published: True if the alias was moved; False if the index was live before.
    """

    index: str
    tower_id: str
    upserts: UpsertReport
    lots: int
    recall_at_10: float
    published: bool

    def to_json(self) -> str:
        """Return the report as JSON, with counts in place of the results of single operations."""
        values = {name: getattr(self, name) for name in ("index", "tower_id", "lots", "recall_at_10", "published")}
        return json.dumps({**values, **self.upserts.counts}, indent=2) + "\n"


def ingest_part(
    name: str,
    source: Path | BinaryIO,
    store: IndexStore,
    observe: Callable[[Iterable[IndexOp]], Iterable[IndexOp]] = iter,
    *,
    overwrite: bool = False,
) -> IndexedPart:
    """Index a part and record the result of each of its operations; damaged lines are rejected, the others indexed.

    Args:
        name: of the part.
        source: as of PartReader.
        store: of the indices.
        observe: wraps the stream of operations, such as to count them.
        overwrite: as of VectorIndex.upsert().

    Returns:
        The record of the part, once the index acknowledged it.

    Raises:
        ReleaseError, IndexUnavailable: as index_part() and PartReader raise them. The part may be sent again.
    """
    part = PartReader(source, name)
    return _with_source(name, part, index_part(observe(part), store, overwrite=overwrite))


def _with_source(name: str, part: PartReader, indexed: IndexedPart) -> IndexedPart:
    """Add the name, hash and damaged lines of a part that was read to its record."""
    rejected = tuple((item_id, reason[:REASON_CHARS]) for item_id, reason in (*part.bad_lines, *indexed.rejected))
    if rejected:
        logger.error("part %s: %d items refused: %s", name, len(rejected), _reasons(rejected))
    return replace(indexed, part=name, sha256=part.sha256, rejected=rejected)


def index_part(ops: Iterable[IndexOp], store: IndexStore, *, overwrite: bool = False) -> IndexedPart:
    """Apply the operations of one part to the index of their tower, which is created if it is missing.

    A part of another tower than the live one goes into an index of its own, never into the live one. A part of deletions alone
    names no tower; it goes into the live index.

    Args:
        ops: as read_part() yields them; read once, never held as a whole.
        store: of the indices.
        overwrite: as of VectorIndex.upsert().

    Returns:
        The result of every operation, and the index; the part's name and hash are empty. Sending rejected operations again
        would not help.

    Raises:
        ReleaseError: the part is damaged, or holds vectors of several towers.
        IndexUnavailable: the index does not answer, or a newer index of this tower was made meanwhile; the same part
            may be sent again.
    """
    remaining = iter(ops)
    deletions, first = _leading_deletions(remaining)
    if first is None:
        if not deletions:
            return IndexedPart()
        index = store.live()
        return _record(index, index.upsert(deletions, overwrite=overwrite))
    tower_id = _tower_of(first)
    head = [first, *islice(remaining, HEAD)]
    lengths = Counter(len(op.vector) for op in head if isinstance(op, IndexedItem))
    index = ensure_index(tower_id, lengths.most_common(1)[0][0], store)  # one damaged item must not decide for all
    report = index.upsert(_of_one_tower(chain(deletions, head, remaining), tower_id), overwrite=overwrite)
    index.refresh()
    current = store.find(tower_id)
    if current is None or current.name != index.name:  # two workers found no index, and each created one
        raise IndexUnavailable(f"another index of tower {tower_id} took the place of {index.name}; send the part again")
    return _record(index, report)


def ensure_index(tower_id: str, dimensions: int, store: IndexStore) -> VectorIndex:
    """Find the index of a tower, or create it.

    Called before a job starts, it keeps workers that meet a new tower at once from each creating an index.
    """
    return store.find(tower_id) or store.create(tower_id, dimensions)


def index_release(
    folder: Path, store: IndexStore, progress: Progress | None = None, *, overwrite: bool = False, force: bool = False
) -> ReleaseReport:
    """Index a whole release from this machine and make it live; write rejected items to INDEX_REJECTS_FILE in its folder.

    Args:
        folder: `embeddings/<release_id>`.
        store: of the indices.
        progress: called with (items done, items in all).
        overwrite: as of VectorIndex.upsert().
        force: as of publish_release().

    Raises:
        ReleaseError: the release is unfinished, damaged or empty, or fails one of publish_release()'s checks.
        IndexUnavailable: the index does not answer.
    """
    manifest = load_release(folder)
    if not manifest.items_embedded:
        raise ReleaseError(
            f"release {manifest.release_id} holds no lot: {manifest.items_rejected} of its {manifest.items_in} rows were rejected; "
            f"see rejects.ndjson in {folder}, mend the rows and run `gavel embed` again"
        )
    for part in manifest.parts:
        check_part(part, folder / part.name)
    if not force:
        _check_share(manifest, store)  # before an index is created that would never go live
    ensure_index(manifest.tower_id, manifest.dimensions, store)
    counter = _Counter(manifest.items_embedded, progress)
    parts = [ingest_part(part.name, folder / part.name, store, counter.count, overwrite=overwrite) for part in manifest.parts]
    _write_rejects(folder, parts)
    return publish_release(manifest, store, parts, force=force)


def _write_rejects(folder: Path, parts: Sequence[IndexedPart]) -> None:
    path = folder / INDEX_REJECTS_FILE
    path.unlink(missing_ok=True)
    if lines := rejects_of(parts):
        replace_file(path, lines)


def publish_release(manifest: Manifest, store: IndexStore, parts: Sequence[IndexedPart], *, force: bool = False) -> ReleaseReport:
    """Check the index that holds a release, and make it live unless it is already.

    Items that are deleted in the live index stay deleted.

    Args:
        manifest: of the whole release; manifests of several instances are merged first.
        store: of the indices.
        parts: records of the release's indexed parts.
        force: publish even if the release has less than MIN_SHARE of the live index's items, its index that few open ones, or too
            many items were rejected.

    Raises:
        ReleaseError: a part is not proved to be whole in the index, too many items were rejected, the release or its index is too
            small to replace the live index, or the search finds fewer than 95% of the exact ten nearest. The alias then stays.
        IndexUnavailable: the index does not answer.
    """
    index = store.find(manifest.tower_id)
    if index is None:
        raise ReleaseError(
            f"release {manifest.release_id} has no lot in any index of tower {manifest.tower_id}; index its parts first"
        )
    _check_parts(manifest, parts, index)
    upserts = sum(parts, UpsertReport())
    if not force:
        _check_rejected(manifest, upserts)
        _check_share(manifest, store)
    live = _is_live(index, store)
    open_before, deletions = (0, UpsertReport()) if live else _copy_deletions(index, store)
    index.refresh()
    if not live and not force:
        _check_open(index, open_before)
    lots, recall = index.count(), _checked_recall(index, live=live)
    if not live:
        store.publish(index.name)
        logger.info("index %s is live: %d lots, recall@10 %.3f", index.name, lots, recall)
    return ReleaseReport(index.name, index.tower_id, upserts + deletions, lots, recall, not live)


def rebuild_index(
    folders: Sequence[Path],
    store: IndexStore,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    force: bool = False,
) -> ReleaseReport:
    """Build a new index from whole releases of one tower and make it live; the previous index stays as it is.

    Items that are deleted in the live index stay deleted. If the new index cannot be finished, it is dropped and the alias stays.
    Rejected items are written to INDEX_REJECTS_FILE in the folder of their release.

    Args:
        folders: `embeddings/<release_id>` each, the oldest first.
        store: of the indices.
        progress: called with (items done, items in all).
        overwrite: of several versions of an item use the one in the latest folder, not the highest.
        force: publish even if the index has less than MIN_SHARE of the live index's items, or too many items were rejected.

    Raises:
        ReleaseError: a release is damaged or has items of several towers, the search finds too few of the nearest items, the new
            index would be too small, or too many items were rejected.
        IndexUnavailable: the index does not answer.
    """
    manifests = [load_release(folder) for folder in folders]
    tower_id, report = manifests[0].tower_id, UpsertReport()
    counter = _Counter(sum(manifest.items_embedded for manifest in manifests), progress)
    index = store.create(tower_id, manifests[0].dimensions)
    try:
        for manifest, folder in zip(manifests, folders, strict=True):
            parts = []
            for part in manifest.parts:
                check_part(part, folder / part.name)
                lines = PartReader(folder / part.name)
                upserts = index.upsert(_of_one_tower(counter.count(lines), tower_id), overwrite=overwrite)
                parts.append(_with_source(part.name, lines, _record(index, upserts)))
            _write_rejects(folder, parts)
            _check_parts(manifest, parts, index)
            report += sum(parts, UpsertReport())
        open_before, deletions = _copy_deletions(index, store)
        report += deletions
        index.refresh()
        if not force:
            _check_rebuilt(index, report, open_before)
        recall = _checked_recall(index, live=False)
        store.publish(index.name)
    except BaseException:
        with suppress(GavelError):
            store.drop(index.name)
        raise
    return ReleaseReport(index.name, tower_id, report, index.count(), recall, published=True)


def _copy_deletions(index: VectorIndex, store: IndexStore) -> tuple[int, UpsertReport]:
    """Apply the deletions of the live index to another one; none if no index is live, or it cannot be read.

    Returns:
        Number of open items of the live index, and the deletions that were carried out. A deletion older than the item is not,
        because the item was added again since.
    """
    try:
        live = store.live()
        latest = latest_version()  # the index rejects versions in the future
        deletions = [replace(deletion, version=min(deletion.version, latest)) for deletion in live.deletions()]
        open_items = live.count(Filter())
    except IndexMissing:
        return 0, UpsertReport()
    except IndexUnavailable as error:
        logger.warning(
            "withdrawn lots come back where a release has them, withdraw these again; the live index is unreadable: %s", error
        )
        return 0, UpsertReport()
    return open_items, UpsertReport(deleted_ids=index.upsert(deletions).deleted_ids)


def _check_open(index: VectorIndex, open_before: int, rejected: Sequence[tuple[str, str]] = ()) -> None:
    """Reject an index that would remove many open items from the search, or has none.

    Raises:
        ReleaseError: it has less than MIN_SHARE of `open_before`, or no item.
    """
    open_items = index.count(Filter())
    if open_items < MIN_SHARE * open_before or not index.count():
        raise ReleaseError(
            f"index {index.name} would hold {open_items} open lots, the live one has {open_before}; below {MIN_SHARE:.0%} of them "
            f"the alias stays{f', and {len(rejected)} items were refused: {_reasons(rejected)}' if rejected else ''}: embed the "
            "lots that are missing, or replace the index all the same by adding --force to `gavel index`; "
            "on AWS see docs/operations.md"
        )


def _check_rebuilt(index: VectorIndex, report: UpsertReport, open_before: int) -> None:
    """Reject a rebuilt index that lost many items."""
    stored = {item.item_id for item in index.fetch(sorted({item_id for item_id, _ in report.rejected if item_id}))}
    lost = [(item_id, reason) for item_id, reason in report.rejected if item_id not in stored]  # sound in no release
    _check_open(index, open_before, lost)
    if len(lost) > _max_rejected(report.total):
        raise ReleaseError(
            f"{len(lost)} of the {report.total} items of the releases were refused: {_reasons(lost)}; see {INDEX_REJECTS_FILE} "
            "beside their manifests, mend the rows and run `gavel embed` again, or do without them by "
            "`gavel index --rebuild --force`"
        )


def probe_index(index: VectorIndex, seed: int = 0) -> float:
    """Measure the mean recall@10 over a sample of the whole index.

    Args:
        index: refreshed.
        seed: of the sample, which is the same until something is written.

    Returns:
        In [0, 1], over up to 50 different vectors of open items; 1 if there is none.
    """
    sample = index.sample(SAMPLES_PER_PROBE * PROBES, Filter(), seed)
    return recall_at_10(index, list({vector.tobytes(): vector for vector in sample}.values())[:PROBES])


def low_recall(name: str, recall: float) -> str:
    """Return the message for an index whose recall is too low, with the remedy."""
    return (
        f"index {name} finds {recall:.3f} of the exact ten nearest of lots drawn from all of it, {MIN_RECALL} is the least: "
        "build it again with `gavel index --rebuild`, with a larger GAVEL_HNSW_M where it stays so"
    )


def recall_at_10(index: VectorIndex, probes: Sequence[Vector]) -> float:
    """Measure the share of the exact ten nearest items that the approximate search finds.

    A result counts if its score reaches the tenth exact one, because items of equal score are interchangeable.

    Args:
        index: searched twice per probe, with one clock, so that no auction ends in between.
        probes: (dimensions,) float32 each.

    Returns:
        Mean over the probes, in [0, 1]; 1 if there is nothing to find.
    """
    filters = Filter()
    recalls: list[float] = []
    for probe in probes:
        exact = index.semantic(probe, PROBE_K, filters, exact=True)
        if exact:
            least = exact[-1].score - 10.0**-SCORE_DECIMALS
            results = index.semantic(probe, PROBE_K, filters)
            recalls.append(sum(hit.score >= least for hit in results) / len(exact))
    return sum(recalls) / len(recalls) if recalls else 1.0


def _checked_recall(index: VectorIndex, *, live: bool) -> float:
    recall = probe_index(index)
    if recall < MIN_RECALL:
        raise ReleaseError(f"{low_recall(index.name, recall)}; {'it is live already' if live else 'it was not published'}")
    return recall


class _Counter:
    """Counts the operations of a release while they are read, and reports progress."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._count = 0
        self._total = total
        self._progress = progress

    def count(self, ops: Iterable[IndexOp]) -> Iterator[IndexOp]:
        for op in ops:
            self._count += 1
            if self._progress and (self._count % PROGRESS_STEP == 0 or self._count >= self._total):
                self._progress(self._count, max(self._total, self._count))
            yield op


def _leading_deletions(ops: Iterator[IndexOp]) -> tuple[list[Deletion], IndexedItem | None]:
    """Read the deletions before the first item, and that item, because only an item names its tower."""
    deletions: list[Deletion] = []
    for op in ops:
        if isinstance(op, IndexedItem):
            return deletions, op
        deletions.append(op)
    return deletions, None


def _of_one_tower(ops: Iterable[IndexOp], tower_id: str) -> Iterator[IndexOp]:
    for op in ops:
        if isinstance(op, IndexedItem) and _tower_of(op) != tower_id:
            raise ReleaseError(
                f"lot {op.item_id!r} is of tower {_tower_of(op)}, the part began with tower {tower_id}; embed them apart"
            )
        yield op


def _tower_of(item: IndexedItem) -> str:
    tower_id = item.document.get("tower_id")
    if not isinstance(tower_id, str) or not tower_id:
        raise ReleaseError(f"lot {item.item_id!r} does not say which tower its vector is of; run `gavel embed` again")
    return tower_id


def _is_live(index: VectorIndex, store: IndexStore) -> bool:
    try:
        return store.live().name == index.name
    except IndexMissing:
        return False


def _record(index: VectorIndex, report: UpsertReport) -> IndexedPart:
    return IndexedPart(
        report.indexed, report.deleted_ids, report.stale_ids, report.rejected, index=index.name, tower_id=index.tower_id
    )


def _check_parts(manifest: Manifest, parts: Sequence[IndexedPart], index: VectorIndex) -> None:
    """Reject a release if some part is not whole in the index; a count of items would not show whose they are."""
    if faults := unproved_parts(manifest, parts, index.name):
        raise ReleaseError(
            f"index {index.name} does not hold {len(faults)} of the {len(manifest.parts)} parts of release {manifest.release_id}: "
            f"{_some([f'{name} {fault}' for name, fault in faults.items()])}; index these parts with the bytes that the manifest "
            "names (docs/operations.md, dead-letters), or run `gavel embed` again"
        )


def _check_rejected(manifest: Manifest, upserts: UpsertReport) -> None:
    rejected, items = len(upserts.rejected), manifest.items_embedded
    if rejected > _max_rejected(items):
        raise ReleaseError(
            f"{rejected} of the {items} items of release {manifest.release_id} were refused: {_reasons(upserts.rejected)}; "
            f"see {INDEX_REJECTS_FILE} beside its manifest, mend the rows and run `gavel embed` again, or do without them by "
            "`gavel index --force`"
        )


def _max_rejected(items: int) -> float:
    return min(max(FEW_REJECTED, MAX_REJECTED_SHARE * items), items / 2)


def _check_share(manifest: Manifest, store: IndexStore) -> None:
    """Reject a release that would take the alias from an index of another tower with many more items."""
    try:
        live = store.live()
    except IndexMissing:
        return
    if live.tower_id == manifest.tower_id:
        return
    lots = live.count()
    if manifest.lots < MIN_SHARE * lots:
        raise ReleaseError(
            f"release {manifest.release_id} of tower {manifest.tower_id} has {manifest.lots} lots, the live index {live.name} of "
            f"tower {live.tower_id} has {lots}; below {MIN_SHARE:.0%} of them the alias stays: rebuild with the new tower, that is "
            f"embed all lots with it, or embed these with tower {live.tower_id} (`gavel embed --tower`), or replace the index all "
            "the same with `gavel index --force`; on AWS see docs/operations.md, or name the live tower in current.json again"
        )


def _reasons(rejected: Sequence[tuple[str, str]]) -> str:
    return _some([f"{item_id!r}: {reason}" if item_id else reason for item_id, reason in rejected])


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - REASONS_SHOWN
    return "; ".join(texts[:REASONS_SHOWN]) + (f" and {more} more" if more > 0 else "")
