"""From embedding parts to a live index: upserts part by part, then a release's receipts, recall probe and alias swap.

Parts may come in any order, several at once, and more than once: an entry carries the version of its lot, and an older one
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
from retrieval.contracts.parts import Entry, PartReader
from retrieval.contracts.release import (
    INDEX_REJECTS_FILE,
    Manifest,
    PartReceipt,
    check_part,
    load_release,
    rejects_of,
    unproved_parts,
)
from retrieval.errors import GavelError, IndexMissing, IndexUnavailable, ReleaseError
from retrieval.files import replace_file
from retrieval.index.port import Filter, IndexStore, VectorIndex
from retrieval.index.ranking import SCORE_DECIMALS

Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)

PROBES = 50
DRAWN_PER_PROBE = 4  # lots drawn, so that equal ones, which are one probe, leave enough others
PROBE_K = 10
LEAST_RECALL = 0.95
MIN_SHARE = 0.5  # of the live index's lots, for a release to take the alias to another tower's index; no day's lots are so many
MAX_REFUSED_SHARE = 0.01  # of a release's items, for it to go live without --force
FEW_REFUSED = 3  # items of a small release, unless they are more than half of it
PROGRESS_STEP = 250
HEAD = 100  # lots of a part that vote on the length of a new index's vectors
REASONS_SHOWN = 3
REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """What became of a release.

    Attributes:
        index: physical name of the index that holds it.
        tower_id: whose vectors those are.
        upserts: what became of the entries of its parts.
        lots: lots in the index, those of other releases included.
        recall_at_10: share of the exact ten nearest that HNSW finds, mean over the probes, in [0, 1].
        published: True when the alias was moved; False when the index was live before.
    """

    index: str
    tower_id: str
    upserts: UpsertReport
    lots: int
    recall_at_10: float
    published: bool

    def to_json(self) -> str:
        """The report as JSON, but for what became of single entries."""
        told = {name: getattr(self, name) for name in ("index", "tower_id", "lots", "recall_at_10", "published")}
        return json.dumps({**told, **self.upserts.counts}, indent=2) + "\n"


def take_in_part(
    name: str,
    source: Path | BinaryIO,
    store: IndexStore,
    passing: Callable[[Iterable[Entry]], Iterable[Entry]] = iter,
    *,
    overwrite: bool = False,
) -> PartReceipt:
    """Index a part and write down what became of each of its items; damaged lines are set aside, and the others go in.

    Args:
        name: of the part.
        source: as of PartReader.
        store: where indices live.
        passing: looks on while the entries pass.
        overwrite: as of VectorIndex.upsert().

    Returns:
        The receipt, once the index acknowledged the part.

    Raises:
        ReleaseError, IndexUnavailable: as index_part() and PartReader raise them. The part may be sent again.
    """
    part = PartReader(source, name)
    return _accounted(name, part, index_part(passing(part), store, overwrite=overwrite))


def _accounted(name: str, part: PartReader, receipt: PartReceipt) -> PartReceipt:
    """The receipt of a part that was read, with its name, its hash and its damaged lines."""
    rejected = tuple((item_id, reason[:REASON_CHARS]) for item_id, reason in (*part.bad_lines, *receipt.rejected))
    if rejected:
        logger.error("part %s: %d items refused: %s", name, len(rejected), _reasons(rejected))
    return replace(receipt, part=name, sha256=part.sha256, rejected=rejected)


def index_part(entries: Iterable[Entry], store: IndexStore, *, overwrite: bool = False) -> PartReceipt:
    """Bring the entries of one part into the index of their tower, which is made when there is none.

    A part of another tower than the live one goes into an index of its own, so the live one never sees it.
    A part of tombstones alone names no tower; it goes into the live index.

    Args:
        entries: what read_part() yields; read once, never held as a whole.
        store: where indices live.
        overwrite: as of VectorIndex.upsert().

    Returns:
        What became of every entry in which index; the part's name and hash are empty. Sending refused entries again would not
        help.

    Raises:
        ReleaseError: the part is damaged, or holds vectors of several towers.
        IndexUnavailable: the index does not answer, or a newer index of this tower was made meanwhile; the same part
            may be sent again.
    """
    remaining = iter(entries)
    deletions, first = _leading_tombstones(remaining)
    if first is None:
        if not deletions:
            return PartReceipt()
        index = store.live()
        return _receipt(index, index.upsert(deletions, overwrite=overwrite))
    tower_id = _tower_of(first)
    head = [first, *islice(remaining, HEAD)]
    lengths = Counter(len(entry.vector) for entry in head if isinstance(entry, IndexedItem))
    index = ensure_index(tower_id, lengths.most_common(1)[0][0], store)  # one odd lot must not decide for all
    report = index.upsert(_of_one_tower(chain(deletions, head, remaining), tower_id), overwrite=overwrite)
    index.refresh()
    current = store.find(tower_id)
    if current is None or current.name != index.name:  # two workers met no index, and each made one
        raise IndexUnavailable(f"another index of tower {tower_id} took the place of {index.name}; send the part again")
    return _receipt(index, report)


def ensure_index(tower_id: str, dimensions: int, store: IndexStore) -> VectorIndex:
    """The index of a tower, made when there is none.

    Called before a job starts, it spares the workers that meet a new tower at once from each making an index.
    """
    return store.find(tower_id) or store.create(tower_id, dimensions)


def index_release(
    folder: Path, store: IndexStore, progress: Progress | None = None, *, overwrite: bool = False, force: bool = False
) -> ReleaseReport:
    """Index a whole release from this machine and make it live. Refused items are written to INDEX_REJECTS_FILE in its folder.

    Args:
        folder: `embeddings/<release_id>`.
        store: where indices live.
        progress: called with (lots done, lots in all).
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
        _check_share(manifest, store)  # before an index is made that would never go live
    ensure_index(manifest.tower_id, manifest.dimensions, store)
    watch = _Watch(manifest.items_embedded, progress)
    receipts = [take_in_part(part.name, folder / part.name, store, watch.passing, overwrite=overwrite) for part in manifest.parts]
    _write_rejects(folder, receipts)
    return publish_release(manifest, store, receipts, force=force)


def _write_rejects(folder: Path, receipts: Sequence[PartReceipt]) -> None:
    rejects = folder / INDEX_REJECTS_FILE
    rejects.unlink(missing_ok=True)
    if refused := rejects_of(receipts):
        replace_file(rejects, refused)


def publish_release(
    manifest: Manifest, store: IndexStore, receipts: Sequence[PartReceipt], *, force: bool = False
) -> ReleaseReport:
    """Check the index that holds a release, and point the alias at it unless it is live already.

    What the live index knows to be withdrawn stays withdrawn.

    Args:
        manifest: of the whole release; manifests of several instances are merged before.
        store: where the parts were indexed.
        receipts: of the release's parts.
        force: publish although the release holds less than MIN_SHARE of the live index's lots, its index as few open ones, or
            the index refused too many.

    Raises:
        ReleaseError: a part is not proved to be whole in the index, too many items were refused, the release or its index is too
            small to take the place of the live index, or the whole index finds fewer than 95% of the exact ten nearest.
            The alias stays where it was.
        IndexUnavailable: the index does not answer.
    """
    index = store.find(manifest.tower_id)
    if index is None:
        raise ReleaseError(
            f"release {manifest.release_id} has no lot in any index of tower {manifest.tower_id}; index its parts first"
        )
    _check_parts(manifest, receipts, index)
    upserts = sum(receipts, UpsertReport())
    if not force:
        _check_refused(manifest, upserts)
        _check_share(manifest, store)
    live = _is_live(index, store)
    open_before, withdrawn = (0, UpsertReport()) if live else _take_over_withdrawals(index, store)
    index.refresh()
    if not live and not force:
        _check_open(index, open_before)
    lots, recall = index.count(), _checked_recall(index, live=live)
    if not live:
        store.publish(index.name)
        logger.info("index %s is live: %d lots, recall@10 %.3f", index.name, lots, recall)
    return ReleaseReport(index.name, index.tower_id, upserts + withdrawn, lots, recall, not live)


def rebuild_index(
    folders: Sequence[Path],
    store: IndexStore,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    force: bool = False,
) -> ReleaseReport:
    """Build a new index from whole releases of one tower and make it live; the one before stays as it is.

    What the live index knows to be withdrawn stays withdrawn. If the new index cannot be finished, it is dropped and the alias
    stays where it was. Refused items are written to INDEX_REJECTS_FILE in the folder of their release.

    Args:
        folders: `embeddings/<release_id>` each, the oldest first.
        store: where indices live.
        progress: called with (lots done, lots in all).
        overwrite: of several versions of a lot the one in the latest folder counts, not the highest.
        force: publish although the index holds less than MIN_SHARE of the live index's lots, or too many items were refused.

    Raises:
        ReleaseError: a release is damaged, holds lots of several towers, or HNSW finds too few of the nearest lots; or the new
            index would be too small, or too many items were refused.
        IndexUnavailable: the index does not answer.
    """
    manifests = [load_release(folder) for folder in folders]
    tower_id, watch, report = manifests[0].tower_id, _Watch(sum(m.items_embedded for m in manifests), progress), UpsertReport()
    index = store.create(tower_id, manifests[0].dimensions)
    try:
        for manifest, folder in zip(manifests, folders, strict=True):
            receipts = []
            for part in manifest.parts:
                check_part(part, folder / part.name)
                lines = PartReader(folder / part.name)
                written = index.upsert(_of_one_tower(watch.passing(lines), tower_id), overwrite=overwrite)
                receipts.append(_accounted(part.name, lines, _receipt(index, written)))
            _write_rejects(folder, receipts)
            _check_parts(manifest, receipts, index)
            report += sum(receipts, UpsertReport())
        open_before, withdrawn = _take_over_withdrawals(index, store)
        report += withdrawn
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


def _take_over_withdrawals(index: VectorIndex, store: IndexStore) -> tuple[int, UpsertReport]:
    """Withdraw from an index what the live one knows to be withdrawn; nothing where none is live, or it cannot be read.

    Returns:
        The number of open lots of the live index, and what was withdrawn. A withdrawal that is older than the lot is left out:
        the lot came back since.
    """
    try:
        live = store.live()
        latest = latest_version()  # one that lies in the future would be refused
        withdrawn = [replace(gone, version=min(gone.version, latest)) for gone in live.deletions()]
        open_lots = live.count(Filter())
    except IndexMissing:
        return 0, UpsertReport()
    except IndexUnavailable as error:
        logger.warning(
            "withdrawn lots come back where a release has them, withdraw these again; the live index is unreadable: %s", error
        )
        return 0, UpsertReport()
    return open_lots, UpsertReport(deleted_ids=index.upsert(withdrawn).deleted_ids)


def _check_open(index: VectorIndex, open_before: int, rejected: Sequence[tuple[str, str]] = ()) -> None:
    """Refuse an index that would take many open lots out of the search, or holds none at all."""
    lots = index.count(Filter())
    if lots < MIN_SHARE * open_before or not index.count():
        raise ReleaseError(
            f"index {index.name} would hold {lots} open lots, the live one has {open_before}; below {MIN_SHARE:.0%} of them the "
            f"alias stays{f', and {len(rejected)} items were refused: {_reasons(rejected)}' if rejected else ''}: embed the lots "
            "that are missing, or replace the index all the same by adding --force to `gavel index`; on AWS see docs/operations.md"
        )


def _check_rebuilt(index: VectorIndex, report: UpsertReport, open_before: int) -> None:
    """Refuse an index that would take many lots out of the search."""
    there = {found.item_id for found in index.fetch(sorted({item_id for item_id, _ in report.rejected if item_id}))}
    lost = [(item_id, reason) for item_id, reason in report.rejected if item_id not in there]  # of no release that was sound
    _check_open(index, open_before, lost)
    if len(lost) > _most_refused(report.total):
        raise ReleaseError(
            f"{len(lost)} of the {report.total} items of the releases were refused: {_reasons(lost)}; see {INDEX_REJECTS_FILE} "
            "beside their manifests, mend the rows and run `gavel embed` again, or do without them by "
            "`gavel index --rebuild --force`"
        )


def probe_index(index: VectorIndex, seed: int = 0) -> float:
    """Mean recall@10 of lots drawn from the whole index, whatever was written to it last.

    Args:
        index: refreshed.
        seed: the same seed draws the same lots as long as nothing is written.

    Returns:
        In [0, 1], over up to 50 different vectors of lots that a search may find; 1 where there is none.
    """
    drawn = index.sample(DRAWN_PER_PROBE * PROBES, Filter(), seed)
    return recall_at_10(index, list({vector.tobytes(): vector for vector in drawn}.values())[:PROBES])


def low_recall(name: str, recall: float) -> str:
    """Say that an index finds too little, and the way out."""
    return (
        f"index {name} finds {recall:.3f} of the exact ten nearest of lots drawn from all of it, {LEAST_RECALL} is the least: "
        "build it again with `gavel index --rebuild`, with a larger GAVEL_HNSW_M where it stays so"
    )


def recall_at_10(index: VectorIndex, probes: Sequence[Vector]) -> float:
    """Share of the exact ten nearest lots that the approximate search finds.

    A hit counts when its score reaches the tenth exact one: lots of equal score stand for each other.

    Args:
        index: asked twice for every probe, with one clock, so that no auction ends in between.
        probes: (dimensions,) float32 each.

    Returns:
        Mean over the probes, in [0, 1]; 1 where there is nothing to find.
    """
    filters = Filter()
    shares: list[float] = []
    for probe in probes:
        exact = index.semantic(probe, PROBE_K, filters, exact=True)
        if exact:
            least = exact[-1].score - 10.0**-SCORE_DECIMALS
            found = index.semantic(probe, PROBE_K, filters)
            shares.append(sum(hit.score >= least for hit in found) / len(exact))
    return sum(shares) / len(shares) if shares else 1.0


def _checked_recall(index: VectorIndex, *, live: bool) -> float:
    recall = probe_index(index)
    if recall < LEAST_RECALL:
        raise ReleaseError(f"{low_recall(index.name, recall)}; {'it is live already' if live else 'it was not published'}")
    return recall


class _Watch:
    """Looks on while the entries of a release pass, and counts them."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._seen = 0
        self._total = total
        self._progress = progress

    def passing(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            self._seen += 1
            if self._progress and (self._seen % PROGRESS_STEP == 0 or self._seen >= self._total):
                self._progress(self._seen, max(self._total, self._seen))
            yield entry


def _leading_tombstones(entries: Iterator[Entry]) -> tuple[list[Deletion], IndexedItem | None]:
    """The tombstones before the first lot, and that lot, which alone tells the tower."""
    deletions: list[Deletion] = []
    for entry in entries:
        if isinstance(entry, IndexedItem):
            return deletions, entry
        deletions.append(entry)
    return deletions, None


def _of_one_tower(entries: Iterable[Entry], tower_id: str) -> Iterator[Entry]:
    for entry in entries:
        if isinstance(entry, IndexedItem) and _tower_of(entry) != tower_id:
            raise ReleaseError(
                f"lot {entry.item_id!r} is of tower {_tower_of(entry)}, the part began with tower {tower_id}; embed them apart"
            )
        yield entry


def _tower_of(entry: IndexedItem) -> str:
    tower_id = entry.document.get("tower_id")
    if not isinstance(tower_id, str) or not tower_id:
        raise ReleaseError(f"lot {entry.item_id!r} does not say which tower its vector is of; run `gavel embed` again")
    return tower_id


def _is_live(index: VectorIndex, store: IndexStore) -> bool:
    try:
        return store.live().name == index.name
    except IndexMissing:
        return False


def _receipt(index: VectorIndex, report: UpsertReport) -> PartReceipt:
    return PartReceipt(
        report.indexed, report.deleted_ids, report.stale_ids, report.rejected, index=index.name, tower_id=index.tower_id
    )


def _check_parts(manifest: Manifest, receipts: Sequence[PartReceipt], index: VectorIndex) -> None:
    """Refuse a release of which some part is not whole in the index: a count of lots would not show whose they are."""
    if faults := unproved_parts(manifest, receipts, index.name):
        raise ReleaseError(
            f"index {index.name} does not hold {len(faults)} of the {len(manifest.parts)} parts of release {manifest.release_id}: "
            f"{_some([f'{name} {fault}' for name, fault in faults.items()])}; index these parts with the bytes that the manifest "
            "names (docs/operations.md, dead-letters), or run `gavel embed` again"
        )


def _check_refused(manifest: Manifest, upserts: UpsertReport) -> None:
    refused, items = len(upserts.rejected), manifest.items_embedded
    if refused > _most_refused(items):
        raise ReleaseError(
            f"{refused} of the {items} items of release {manifest.release_id} were refused: {_reasons(upserts.rejected)}; "
            f"see {INDEX_REJECTS_FILE} beside its manifest, mend the rows and run `gavel embed` again, or do without them by "
            "`gavel index --force`"
        )


def _most_refused(items: int) -> float:
    return min(max(FEW_REFUSED, MAX_REFUSED_SHARE * items), items / 2)


def _check_share(manifest: Manifest, store: IndexStore) -> None:
    """Refuse a release that would take the alias from an index of another tower with many more lots."""
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
