"""From embedding parts to a live index: upserts part by part, then count check, recall probe and alias swap for a release.

Parts may come in any order, several at once, and more than once: an entry carries the version of its lot, and an older one
changes nothing. `gavel index` and the bulk-index Lambda are shells over this file.
"""

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from retrieval.errors import IndexMissing, IndexUnavailable, ReleaseError
from retrieval.index.base import (
    SCORE_DECIMALS,
    Filter,
    IndexedItem,
    IndexStore,
    Tombstone,
    UpsertReport,
    Vector,
    VectorIndex,
)
from retrieval.release import Manifest, check_part, load_release
from retrieval.schema import parse_bulk_lines

Entry = IndexedItem | Tombstone
Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)

PROBES = 50
DRAWN_PER_PROBE = 4  # lots drawn, so that equal ones, which are one probe, leave enough others
PROBE_K = 10
LEAST_RECALL = 0.95
PROGRESS_STEP = 250
REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """What became of a release.

    Attributes:
        index: physical name of the index that holds it.
        tower_id: whose vectors those are.
        upserts: what became of the entries of its parts; nothing in it when only the checks were made.
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
        return json.dumps(told, indent=2) + "\n"


def read_part(source: Path | BinaryIO) -> Iterator[Entry]:
    """Read an embedding part as a stream.

    Args:
        source: a .ndjson.gz file, or anything that reads its bytes, such as the body of an S3 object.

    Raises:
        ReleaseError: the bytes are not gzip, end too early, are none at all, or hold a line that is no bulk line.
    """
    empty = True
    try:
        with gzip.open(source, "rb") as unzipped, TextIOWrapper(unzipped, encoding="utf-8", newline="\n") as lines:
            for entry in parse_bulk_lines(lines):
                empty = False
                yield entry
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ReleaseError(f"{source} is not a whole embedding part: {error}; run `gavel embed` again") from error
    if empty:  # gzip takes a file of no bytes for a whole one, and no run writes a part without entries
        raise ReleaseError(f"{source} holds no entry; run `gavel embed` again")


def index_part(entries: Iterable[Entry], store: IndexStore) -> UpsertReport:
    """Bring the entries of one part into the index of their tower, which is made when there is none.

    A part of another tower than the live one goes into an index of its own, so the live one never sees it.
    A part of tombstones alone names no tower; it goes into the live index.

    Args:
        entries: what read_part() yields; read once, never held as a whole.
        store: where indices live.

    Returns:
        What became of every entry. Refused entries are logged with their reasons; sending them again would not help.

    Raises:
        ReleaseError: the part is damaged, or holds vectors of several towers.
        IndexUnavailable: the index does not answer, or a newer index of this tower was made meanwhile; the same part
            may be sent again.
    """
    remaining = iter(entries)
    tombstones, first = _leading_tombstones(remaining)
    if first is None:
        return store.live().upsert(tombstones) if tombstones else UpsertReport()
    tower_id = _tower_of(first)
    index = ensure_index(tower_id, len(first.vector), store)
    report = index.upsert(_of_one_tower(chain(tombstones, [first], remaining), tower_id))
    index.refresh()
    current = store.find(tower_id)
    if current is None or current.name != index.name:  # two workers met no index, and each made one
        raise IndexUnavailable(f"another index of tower {tower_id} took the place of {index.name}; send the part again")
    if report.rejected:
        logger.error("index %s refused %d lots: %s", index.name, len(report.rejected), _reasons(report))
    return report


def ensure_index(tower_id: str, dimensions: int, store: IndexStore) -> VectorIndex:
    """The index of a tower, made when there is none.

    Called before a job starts, it spares the workers that meet a new tower at once from each making an index.
    """
    return store.find(tower_id) or store.create(tower_id, dimensions)


def index_release(folder: Path, store: IndexStore, progress: Progress | None = None) -> ReleaseReport:
    """Index a whole release from this machine and make it live.

    Args:
        folder: `embeddings/<release_id>`.
        store: where indices live.
        progress: called with (lots done, lots in all).

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
    watch = _Watch(manifest.items_embedded, progress)
    report = UpsertReport()
    for part in manifest.parts:
        report += index_part(watch.passing(read_part(folder / part.name)), store)
    return publish_release(manifest, store, report)


def publish_release(
    manifest: Manifest,
    store: IndexStore,
    upserts: UpsertReport | None = None,
    *,
    least_share: float = 0.0,
) -> ReleaseReport:
    """Check the index that holds a release, and point the alias at it unless it is live already.

    Args:
        manifest: of the whole release; manifests of several instances are merged before.
        store: where the parts were indexed.
        upserts: what index_part() reported, when the caller knows.
        least_share: share of the live index's lots that the release itself must hold for the alias to leave that index; above
            0 where releases of a single day come by themselves, which must not take the place of all lots.

    Raises:
        ReleaseError: lots are missing in the index (some part is not indexed yet), the release is too small to take the
            place of the live index, or the whole index finds fewer than 95% of the exact ten nearest. The alias stays where it
            was.
        IndexUnavailable: the index does not answer.
    """
    index = store.find(manifest.tower_id)
    if index is None:
        raise ReleaseError(
            f"release {manifest.release_id} has no lot in any index of tower {manifest.tower_id}; index its parts first"
        )
    index.refresh()
    lots, live = index.count(), _is_live(index, store)
    if not live:  # from a live index lots may have been deleted since
        _check_count(manifest, index, lots, upserts)
        _check_share(manifest, store, least_share)
    recall = probe_index(index)
    if recall < LEAST_RECALL:
        raise ReleaseError(f"{low_recall(index.name, recall)}; {'it is live already' if live else 'it was not published'}")
    if not live:
        store.publish(index.name)
        logger.info("index %s is live: %d lots, recall@10 %.3f", index.name, lots, recall)
    return ReleaseReport(index.name, index.tower_id, upserts or UpsertReport(), lots, recall, not live)


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
    where = Filter()
    shares: list[float] = []
    for probe in probes:
        exact = index.semantic(probe, PROBE_K, where, exact=True)
        if exact:
            least = exact[-1].score - 10.0**-SCORE_DECIMALS
            found = index.semantic(probe, PROBE_K, where)
            shares.append(sum(hit.score >= least for hit in found) / len(exact))
    return sum(shares) / len(shares) if shares else 1.0


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


def _leading_tombstones(entries: Iterator[Entry]) -> tuple[list[Tombstone], IndexedItem | None]:
    """The tombstones before the first lot, and that lot, which alone tells the tower."""
    tombstones: list[Tombstone] = []
    for entry in entries:
        if isinstance(entry, IndexedItem):
            return tombstones, entry
        tombstones.append(entry)
    return tombstones, None


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


def _check_count(manifest: Manifest, index: VectorIndex, lots: int, upserts: UpsertReport | None) -> None:
    if lots < manifest.lots:
        refused = f"; it refused {_reasons(upserts)}" if upserts and upserts.rejected else ""
        raise ReleaseError(
            f"index {index.name} holds {lots} of the {manifest.lots} lots of release {manifest.release_id}{refused}; "
            "index the missing parts, then publish again"
        )


def _check_share(manifest: Manifest, store: IndexStore, least_share: float) -> None:
    """Refuse a release that would take the alias from an index of another tower with many more lots."""
    try:
        live = store.live()
    except IndexMissing:
        return
    lots = live.count()
    if manifest.lots < least_share * lots:
        raise ReleaseError(
            f"release {manifest.release_id} of tower {manifest.tower_id} has {manifest.lots} lots, the live index {live.name} of "
            f"tower {live.tower_id} has {lots}; below {least_share:.0%} of them the alias stays: rebuild with the new tower "
            "(docs/operations.md), or name the live tower in current.json again"
        )


def _reasons(report: UpsertReport) -> str:
    shown = "; ".join(f"{item_id}: {reason}" for item_id, reason in report.rejected[:REASONS_SHOWN])
    more = len(report.rejected) - REASONS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
