"""Index the embedding parts of a release, check the index by the records of its parts and by its recall, and make it live.

Parts may come in any order, several at once, and more than once. Every operation has the version of its item, and an older
operation changes nothing. `gavel index` and the bulk-index Lambda call the functions of this module.
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
    RECEIPT_FILE,
    IndexedPart,
    Manifest,
    check_part,
    load_release,
    rejects_of,
    unproved_parts,
)
from retrieval.errors import GavelError, IndexMissing, IndexUnavailable, ReleaseError
from retrieval.files import replace_file
from retrieval.index.filters import Filter, utc_now
from retrieval.index.port import IndexStore, VectorIndex
from retrieval.progress import Progress

logger = logging.getLogger(__name__)

PROBES = 50
SAMPLES_PER_PROBE = 4  # more items are sampled than probed, because equal vectors are probed only once
PROBE_K = 10
MIN_RECALL = 0.95
NEAR = 1e-3  # difference of two distances (1 - cosine) that counts as none
MIN_SHARE = 0.5  # share of the live index's items that a replacement must have; the release of one day has fewer
MAX_REJECTED_SHARE = 0.01  # largest share of rejected items with which a release goes live without --force
FEW_REJECTED = 3  # so many rejected items are always allowed, unless they are more than half of the release
PROGRESS_STEP = 250
HEAD = 100  # a new index takes the most common length of vectors among the first 100 items of a part
REASONS_SHOWN = 3
REASON_CHARS = 300

IndexCheck = Callable[[VectorIndex, VectorIndex], str | None]
"""Check of an index that is to replace the live one: called with both, returns the reason against it, or None."""


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """The result of indexing a release.

    Attributes:
        index: physical name of the index that holds the release.
        tower_id: id of the tower of the index.
        upserts: results of the operations of the release's parts.
        lots: number of items in the index, those of other releases included.
        recall_at_10: mean share of the exact ten nearest items that the approximate search finds, in [0, 1].
        published: True if the alias was moved; False if the index was live before.
    """

    index: str
    tower_id: str
    upserts: UpsertReport
    lots: int
    recall_at_10: float
    published: bool

    def to_json(self) -> str:
        """Return the report as JSON, with counts instead of the results of single operations."""
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
        name: name of the part.
        source: path or file object of the part, see PartReader.
        store: store of the indices.
        observe: function that wraps the stream of operations, for example to count them.
        overwrite: see VectorIndex.upsert().

    Returns:
        The record of the part, after the index has acknowledged all operations.

    Raises:
        ReleaseError: see index_part() and PartReader.
        IndexUnavailable: see index_part(). The part may be sent again.
    """
    part = PartReader(source, name)
    return _with_source(name, part, index_part(observe(part), store, overwrite=overwrite))


def _with_source(name: str, part: PartReader, indexed: IndexedPart) -> IndexedPart:
    """Return the record of a part with its name, hash and damaged lines, after the part was read."""
    rejected = tuple((item_id, reason[:REASON_CHARS]) for item_id, reason in (*part.bad_lines, *indexed.rejected))
    if rejected:
        logger.error("part %s: %d items refused: %s", name, len(rejected), _reasons(rejected))
    return replace(indexed, part=name, sha256=part.sha256, rejected=rejected)


def index_part(ops: Iterable[IndexOp], store: IndexStore, *, overwrite: bool = False) -> IndexedPart:
    """Apply the operations of one part to the index of their tower, which is created if it is missing.

    A part of another tower than that of the live index never goes into the live index. A part that has only deletions names no
    tower, and goes into the live index.

    Args:
        ops: operations of the part, as read_part() yields them; the iterable is read once, as a stream.
        store: store of the indices.
        overwrite: see VectorIndex.upsert().

    Returns:
        The results of all operations, and the index; the name and hash of the part are empty. It does not help to send rejected
        operations again.

    Raises:
        ReleaseError: the part is damaged, or has vectors of several towers.
        IndexUnavailable: the index does not answer, or a newer index of this tower was created meanwhile. The part may be sent
            again.
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
    index = ensure_index(tower_id, lengths.most_common(1)[0][0], store)  # most common, so that one damaged item does not decide
    report = index.upsert(_of_one_tower(chain(deletions, head, remaining), tower_id), overwrite=overwrite)
    index.refresh()
    current = store.find(tower_id)
    if current is None or current.name != index.name:  # two workers found no index, and each created one
        raise IndexUnavailable(f"another index of tower {tower_id} took the place of {index.name}; send the part again")
    return _record(index, report)


def ensure_index(tower_id: str, dimensions: int, store: IndexStore) -> VectorIndex:
    """Return the index of a tower; create it if there is none.

    Call it before workers start, because several workers that meet a new tower at once would each create an index.
    """
    return store.find(tower_id) or store.create(tower_id, dimensions)


def index_release(
    folder: Path,
    store: IndexStore,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    force: bool = False,
    check: IndexCheck | None = None,
) -> ReleaseReport:
    """Index a whole release from this machine and make it live.

    The rejected items are written to INDEX_REJECTS_FILE in the release's folder, and the report to RECEIPT_FILE.

    Args:
        folder: folder of the release, `embeddings/<release_id>`.
        store: store of the indices.
        progress: progress of indexing; the unit is operations.
        overwrite: see VectorIndex.upsert().
        force: see publish_release().
        check: see publish_release().

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
    report = publish_release(manifest, store, parts, force=force, check=check)
    _write_receipt(folder, report)
    return report


def _write_rejects(folder: Path, parts: Sequence[IndexedPart]) -> None:
    path = folder / INDEX_REJECTS_FILE
    path.unlink(missing_ok=True)
    if lines := rejects_of(parts):
        replace_file(path, lines)


def _write_receipt(folder: Path, report: ReleaseReport) -> None:
    try:
        replace_file(folder / RECEIPT_FILE, report.to_json())
    except OSError as error:  # the release is live all the same
        logger.warning("%s; `gavel release status` does not know that the release was indexed", error)


def publish_release(
    manifest: Manifest,
    store: IndexStore,
    parts: Sequence[IndexedPart],
    *,
    force: bool = False,
    check: IndexCheck | None = None,
) -> ReleaseReport:
    """Check the index that holds a release, and make it live unless it is already.

    Items that are deleted in the live index stay deleted.

    Args:
        manifest: manifest of the whole release; manifests of several instances must be merged.
        store: store of the indices.
        parts: records of the release's indexed parts.
        force: True publishes even if too many items were rejected, or if the release or its index is too small to replace the live
            index, or against recall and check. Too small are less than MIN_SHARE of the live index's items, or of its open items.
        check: further check of an index that is to replace the live one.

    Raises:
        ReleaseError: no record proves that a part is whole in the index, too many items were rejected, the release or its index is
            too small, the recall is below MIN_RECALL, or the check has a reason against it. The alias then stays.
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
    lots, recall = index.count(), _checked_recall(index, live=live, force=force and not live)
    if not live:
        if not force:
            _check_swap(index, store, check)
        store.publish(index.name)
        logger.info("index %s is live: %d lots, recall@10 %.3f", index.name, lots, recall)
    return ReleaseReport(index.name, index.tower_id, upserts + deletions, lots, recall, not live)


def publish_index(index: VectorIndex, store: IndexStore, *, force: bool = False, check: IndexCheck | None = None) -> None:
    """Make an index live that was filled before, such as the one before a rebuild.

    Items that are deleted in the live index stay deleted.

    Args:
        index: index to make live.
        store: store of the indices.
        force: True publishes an index with less than MIN_SHARE of the live index's open items, too, and against recall and check.
        check: further check of an index that is to replace the live one.

    Raises:
        ReleaseError: the index has too few open items, its recall is below MIN_RECALL, or the check has a reason against it. The
            alias then stays.
        IndexUnavailable: the index does not answer.
    """
    open_before, _ = _copy_deletions(index, store)
    index.refresh()
    if not force:
        _check_open(index, open_before)
        _checked_recall(index, live=False)
        _check_swap(index, store, check)
    store.publish(index.name)


def drop_old_indices(store: IndexStore, keep: int) -> list[str]:
    """Delete the oldest indices that are not live, and return their names.

    The index that was live before stays, so that a rollback needs no rebuild. Indices that are newer than the live one stay, too,
    because another process may be filling them.

    Args:
        store: store of the indices.
        keep: number of indices beside the live one that stay, >= 1.
    """
    live, previous, names = store.live().name, store.previous(), store.names()
    older = names[names.index(live) + 1 :] if live in names else []
    surplus = [name for name in older if name != previous][max(0, keep - (previous is not None)) :]
    for name in surplus:
        store.drop(name)
        logger.info("index %s is dropped: %d others stay beside the live one", name, keep)
    return surplus


def rebuild_index(
    folders: Sequence[Path],
    store: IndexStore,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    force: bool = False,
    check: IndexCheck | None = None,
    undo: Sequence[Path] = (),
) -> ReleaseReport:
    """Build a new index from whole releases of one tower and make it live; the previous index stays as it is.

    Items that are deleted in the live index stay deleted. If the new index cannot be finished, it is dropped and the alias stays.
    Rejected items are written to INDEX_REJECTS_FILE in the folder of their release, and its report to RECEIPT_FILE.

    Args:
        folders: folders of the releases, `embeddings/<release_id>`, the oldest first.
        store: store of the indices.
        progress: progress of indexing; the unit is operations.
        overwrite: True takes the version of an item in the latest folder; False the highest version.
        force: True publishes even if too many items were rejected, or the index has less than MIN_SHARE of the live index's open
            items, and against recall and check.
        check: further check of an index that is to replace the live one.
        undo: folders of releases whose deletions do not count, because the new index leaves these releases out.

    Raises:
        ReleaseError: a release is damaged, the releases are of several towers, the recall is below MIN_RECALL, the new index is too
            small, too many items were rejected, or the check has a reason against the index.
        IndexUnavailable: the index does not answer.
    """
    manifests = [load_release(folder) for folder in folders]
    tower_id, report, reports = manifests[0].tower_id, UpsertReport(), list[UpsertReport]()
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
            reports.append(sum(parts, UpsertReport()))
            report += reports[-1]
        open_before, deletions = _copy_deletions(index, store, undo)
        report += deletions
        index.refresh()
        if not force:
            _check_rebuilt(index, report, open_before)
        recall = _checked_recall(index, live=False, force=force)
        if not force:
            _check_swap(index, store, check)
        store.publish(index.name)
    except BaseException:
        with suppress(GavelError):
            store.drop(index.name)
        raise
    result = ReleaseReport(index.name, tower_id, report, index.count(), recall, published=True)
    for folder, upserts in zip(folders, reports, strict=True):
        _write_receipt(folder, replace(result, upserts=upserts))
    return result


def _copy_deletions(index: VectorIndex, store: IndexStore, undo: Sequence[Path] = ()) -> tuple[int, UpsertReport]:
    """Apply the deletions of the live index to another index. Apply none if no index is live, or it cannot be read.

    A deletion that is older than the item has no effect, because the item was added again since. Deletions of the releases in
    `undo` are left out.

    Returns:
        The number of open items in the live index, and a report of the deletions that were carried out.
    """
    try:
        live = store.live()
        latest = latest_version()  # the index rejects versions in the future
        undone = {op for folder in undo for op in _deletions_of(folder)}
        deletions = [
            replace(deletion, version=min(deletion.version, latest)) for deletion in live.deletions() if deletion not in undone
        ]
        open_items = live.count(Filter())
    except IndexMissing:
        return 0, UpsertReport()
    except IndexUnavailable as error:
        logger.warning(
            "withdrawn lots come back where a release has them, withdraw these again; the live index is unreadable: %s", error
        )
        return 0, UpsertReport()
    return open_items, UpsertReport(deleted_ids=index.upsert(deletions).deleted_ids)


def _deletions_of(folder: Path) -> Iterator[Deletion]:
    """Yield the deletions in the parts of a release that can be read; a damaged part may be the reason for undoing the release."""
    for part in load_release(folder).parts:
        with suppress(ReleaseError, OSError):
            yield from (op for op in PartReader(folder / part.name) if isinstance(op, Deletion))


def _check_swap(index: VectorIndex, store: IndexStore, check: IndexCheck | None) -> None:
    """Run a further check of an index that is to replace the live one, if an index is live and can be read.

    Raises:
        ReleaseError: the check has a reason against the index.
    """
    if check is None:
        return
    try:
        reason = check(index, store.live())
    except IndexMissing:
        return
    except IndexUnavailable as error:
        logger.warning("%s was not compared with the live index: %s", index.name, error)
        return
    if reason:
        raise ReleaseError(f"{reason}; the alias stays. Add --force to make {index.name} live all the same")


def _check_open(index: VectorIndex, open_before: int, rejected: Sequence[tuple[str, str]] = ()) -> None:
    """Check that an index has items, and enough open ones to replace the live index.

    Args:
        index: index to check.
        open_before: number of open items in the live index.
        rejected: rejected items, for the message.

    Raises:
        ReleaseError: the index has fewer open items than MIN_SHARE of `open_before`, or no item.
    """
    open_items = index.count(Filter())
    if open_items < MIN_SHARE * open_before or not index.count():
        raise ReleaseError(
            f"index {index.name} would hold {open_items} open lots, the live one has {open_before}; below {MIN_SHARE:.0%} of them "
            f"the alias stays{f', and {len(rejected)} items were refused: {_reasons(rejected)}' if rejected else ''}: embed the "
            "lots that are missing, or replace the index all the same by adding --force to `gavel index` or, on AWS, to "
            "`gavel aws publish-index`"
        )


def _check_rebuilt(index: VectorIndex, report: UpsertReport, open_before: int) -> None:
    """Check that a rebuilt index has lost few items.

    Raises:
        ReleaseError: see _check_open(); or too many rejected items are valid in no release.
    """
    stored = {item.item_id for item in index.fetch(sorted({item_id for item_id, _ in report.rejected if item_id}))}
    lost = [(item_id, reason) for item_id, reason in report.rejected if item_id not in stored]  # valid in no release
    _check_open(index, open_before, lost)
    if len(lost) > _max_rejected(report.total):
        raise ReleaseError(
            f"{len(lost)} of the {report.total} items of the releases were refused: {_reasons(lost)}; see {INDEX_REJECTS_FILE} "
            "beside their manifests, mend the rows and run `gavel embed` again, or do without them by "
            "`gavel index --rebuild --force`"
        )


def probe_index(index: VectorIndex, seed: int = 0) -> float:
    """Measure the mean recall@10 with stored vectors of open items as queries.

    Args:
        index: index to measure, refreshed.
        seed: seed of the sample; the same seed gives the same sample until something is written.

    Returns:
        The mean recall@10 over at most 50 different vectors, in [0, 1]; 1 if there is no open item.
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

    A result counts if its distance is at most that of the tenth exact result plus NEAR, as in ann-benchmarks. Items at the same
    distance are interchangeable: which of a thousand equal vectors are found says nothing about an index.

    Args:
        index: index to search, twice per probe.
        probes: query vectors, (dimensions,) float32 each.

    Returns:
        The mean over the probes, in [0, 1]; 1 if no probe has a result.
    """
    filters = Filter(now=utc_now())  # an auction may end between the two searches
    recalls: list[float] = []
    for probe in probes:
        exact = index.semantic(probe, PROBE_K, filters, exact=True)
        if exact:
            least = exact[-1].score - NEAR
            results = index.semantic(probe, PROBE_K, filters)
            recalls.append(sum(hit.score >= least for hit in results) / len(exact))
    return sum(recalls) / len(recalls) if recalls else 1.0


def _checked_recall(index: VectorIndex, *, live: bool, force: bool = False) -> float:
    recall = probe_index(index)
    if recall < MIN_RECALL and not force:
        raise ReleaseError(f"{low_recall(index.name, recall)}; {'it is live already' if live else 'it was not published'}")
    return recall


class _Counter:
    """A counter of a release's operations while they are read, which reports progress."""

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
    """Read up to the first item, because only an item names its tower; return the deletions before it, and the item or None."""
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
    """Check that the index holds every part of a release whole, by the records of the parts.

    The number of items in the index would not prove that, because they may be of other releases.

    Raises:
        ReleaseError: a part has no record, or its record proves nothing.
    """
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
    """Check that a release has enough items to replace a live index of another tower.

    Raises:
        ReleaseError: the release has fewer items than MIN_SHARE of the live index's.
    """
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
