"""From lots to the parts of a release, three steps at once: photos and tokens, vectors, bulk lines.

    thread 1          rows -> parts -> batches; photos decoded here or in worker processes; collate, transfer
    thread 2          compute
    calling thread    bulk lines, gzip

On a GPU the batch that is transferred, the one that is computed and the one that is written are three different ones; on a
CPU the torch threads of the second step never wait for a file.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, groupby, tee
from typing import TYPE_CHECKING

from processing.embedding.input import Rows
from processing.embedding.parts import Lot, PartFolder, PartRecord
from processing.embedding.photos import Decoded, PhotoLoader, PhotoState
from processing.embedding.prefetch import Stopwatch, prefetch
from retrieval.contracts.documents import IndexedItem, Vector, document_of
from retrieval.contracts.items import item_text
from retrieval.index.validation import batches

if TYPE_CHECKING:  # torch is imported when the tower is loaded: processes that decode photos import these files and need none
    from models.artefacts.item_encoder import ItemBatch, ItemEncoder

PART_CHARS = 32_000_000  # of the texts of a part's lots, as those of two parts are held in memory
DEPTH = 2  # batches that may wait between two steps
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedPart:
    """A part of the release before it is written.

    Attributes:
        number: from 0, among the parts of this instance.
        lots: what goes into it.
        fingerprint: hash of what its bytes come from.
        receipt: of the same part when it is there already.
        rows_read: rows that were read until its last lot.
    """

    number: int
    lots: Sequence[Lot]
    fingerprint: str
    record: PartRecord | None
    rows_read: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Lots of one part that go through the steps together; none of a part that is there already."""

    part: PlannedPart
    lots: Sequence[Lot]
    photos: Sequence[Decoded] = ()
    vectors: Sequence[Vector] = ()
    left: int = 0  # lots of the part that come after these


@dataclass(frozen=True)
class EmbeddingSteps:
    """The steps from lots to parts.

    Attributes:
        encoder: the item tower.
        photos: decodes.
        release_id: stands in every document.
        batch_size: lots that are computed at once.
        report: called with the number of rows that are done.
        watch: is told how long collate, transfer, compute and write were busy.
    """

    encoder: "ItemEncoder"
    photos: PhotoLoader
    release_id: str
    batch_size: int
    report: Callable[[int], None]
    watch: Stopwatch = field(default_factory=Stopwatch)

    def write_parts(self, parts: Iterator[PlannedPart], folder: PartFolder) -> list[PartRecord]:
        """Write every part that is not there yet.

        Returns:
            The receipts of all parts, in order.
        """
        records: list[PartRecord] = []
        with (
            closing(prefetch(self._collated(parts), DEPTH)) as collated,
            closing(prefetch(self._encoded(collated), DEPTH)) as stream,
        ):
            for part, group in groupby(stream, lambda batch: batch.part):
                record = part.record or folder.write(part.number, part.fingerprint, self._entries(group), self.watch)
                state = "is finished already" if part.record else "written"
                logger.info("%s %s: %d lots", record.part.name, state, record.part.items)
                records.append(record)
                self.report(part.rows_read)
        return records

    def _collated(self, parts: Iterator[PlannedPart]) -> Iterator[tuple[Batch, "ItemBatch | None"]]:
        """Batches with their photos, and as tensors on the device; the look-ahead goes past the end of a part."""
        batches, same = tee(chain.from_iterable(map(self._batches, parts)))
        decoded = self.photos.load([lot.photo for lot in batch.lots] for batch in same)
        for batch in batches:
            photos = next(decoded)
            if not batch.lots:
                yield batch, None
                continue
            texts = [item_text(lot.item.title, lot.item.description) for lot in batch.lots]
            with self.watch.time("collate"):
                tensors = self.encoder.collate(texts, [photo for photo, _ in photos], [lot.item for lot in batch.lots])
            with self.watch.time("transfer"):
                tensors = self.encoder.transfer(tensors)
            yield Batch(batch.part, batch.lots, photos, (), batch.left), tensors

    def _batches(self, part: PlannedPart) -> Iterator[Batch]:
        if part.record is not None:
            yield Batch(part, ())
            return
        alike = sorted(part.lots, key=_chars)  # less padding
        for start in range(0, len(alike), self.batch_size):
            lots = alike[start : start + self.batch_size]
            yield Batch(part, lots, left=len(alike) - start - len(lots))

    def _encoded(self, collated: Iterator[tuple[Batch, "ItemBatch | None"]]) -> Iterator[Batch]:
        for batch, tensors in collated:
            if tensors is None:
                yield batch
                continue
            with self.watch.time("compute"):
                vectors = self.encoder.compute(tensors)  # (B, D)
            yield Batch(batch.part, batch.lots, batch.photos, vectors, batch.left)

    def _entries(self, batches: Iterator[Batch]) -> Iterator[tuple[IndexedItem, PhotoState]]:
        """The lots of a part with their vectors, in the order of the batches."""
        tower_id = self.encoder.card.tower_id
        for batch in batches:
            for lot, (_, state), vector in zip(batch.lots, batch.photos, batch.vectors, strict=True):
                has_image = state is PhotoState.READ
                document = document_of(lot.item, has_image=has_image, tower_id=tower_id, release_id=self.release_id)
                yield IndexedItem(lot.item.item_id, lot.item.version, document, vector), state
            self.report(batch.part.rows_read - batch.left)


def plan_parts(rows: Rows, folder: PartFolder, part_items: int, *, again: bool = False) -> Iterator[PlannedPart]:
    """Cut the lots of a run into parts, and look which of them are there already.

    Args:
        rows: of the run; read here.
        folder: of the release.
        part_items: lots of a part.
        again: take no part for finished.
    """
    for number, chunk in enumerate(batches(rows.lots(), part_items, _chars, PART_CHARS)):
        fingerprint = folder.fingerprint(chunk)
        yield PlannedPart(number, chunk, fingerprint, None if again else folder.finished(number, fingerprint), rows.read)


def _chars(lot: Lot) -> int:
    return len(lot.item.title) + len(lot.item.description)
