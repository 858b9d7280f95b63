"""The concurrent steps from items to the parts of a release: photos and tokens, vectors, bulk lines.

    thread 1          rows -> parts -> batches; photos decoded here or in worker processes; collate, transfer
    thread 2          compute
    calling thread    bulk lines, gzip

On a GPU, one batch is transferred while another is computed and a third is written. On a
CPU, the torch threads of the second step never wait for a file.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, tee
from typing import TYPE_CHECKING, Any

from processing.embedding.parts import LocatedItem, PartFolder, PartRecord, photo_miss
from processing.embedding.photos import Loaded, PhotoLoader, PhotoState
from processing.embedding.prefetch import Stopwatch, prefetch
from processing.embedding.rows import Rows
from retrieval.contracts.documents import IndexedItem, Vector, document_of
from retrieval.contracts.items import item_text
from retrieval.index.validation import batches

if TYPE_CHECKING:  # torch is imported when the tower is loaded, because processes that decode photos import these files without it
    from models.artefacts.item_encoder import ItemBatch, ItemEncoder

PART_CHARS = 32_000_000  # largest number of characters in a part's texts, because two parts are held in memory
DEPTH = 2  # batches that may wait between two steps
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedPart:
    """A part of the release that is to be written or reused.

    Attributes:
        number: number of the part among those of this instance, from 0.
        items: items of the part.
        fingerprint: hash of everything that the part's bytes depend on.
        record: record of the part if it is on disk already, otherwise None.
        rows_read: number of rows read up to the part's last item.
    """

    number: int
    items: Sequence[LocatedItem]
    fingerprint: str
    record: PartRecord | None
    rows_read: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of one part that go through the steps together; empty for a part that is reused.

    Attributes:
        part: part that the items belong to.
        items: B items.
        photos: photo and outcome of each item.
        vectors: (B, D) float32, vector of each item.
        remaining: number of items of the part after this batch.
    """

    part: PlannedPart
    items: Sequence[LocatedItem]
    photos: Sequence[Loaded] = ()
    vectors: Iterable[Vector] = ()
    remaining: int = 0


@dataclass(frozen=True)
class EmbeddingSteps:
    """The steps from items to parts.

    Attributes:
        encoder: the item tower.
        photos: the photo decoder.
        release_id: id of the release, written into every document.
        batch_size: number of items that are encoded at once.
        report: callback that gets the number of finished rows.
        watch: stopwatch for collate, transfer, compute and write.
    """

    encoder: "ItemEncoder"
    photos: PhotoLoader
    release_id: str
    batch_size: int
    report: Callable[[int], None]
    watch: Stopwatch = field(default_factory=Stopwatch)

    def write_parts(self, parts: Iterator[PlannedPart], folder: PartFolder) -> tuple[list[PartRecord], int]:
        """Write every part that is not on disk yet.

        Returns:
            The records of all parts, in order, and the number of items that were embedded.
        """
        records: list[PartRecord] = []
        embedded = 0
        with (
            closing(prefetch(self._collated(parts), DEPTH)) as collated,
            closing(prefetch(self._encoded(collated), DEPTH)) as stream,
        ):
            for part, group in groupby(stream, lambda batch: batch.part):
                record = part.record or folder.write(part.number, part.fingerprint, self._indexed(group), self.watch)
                state = "is finished already" if part.record else "written"
                logger.info("%s %s: %d lots", record.part.name, state, record.part.items)
                records.append(record)
                embedded += 0 if part.record else record.part.items
                self.report(part.rows_read)
        return records, embedded

    def _collated(self, parts: Iterator[PlannedPart]) -> Iterator[tuple[Batch, "ItemBatch | None"]]:
        """Yield each batch with its photos and its tensors on the device. Photos of the next part are decoded ahead, too."""
        batches, same = tee(chain.from_iterable(map(self._batches, parts)))
        decoded = self.photos.load([located.photo for located in batch.items] for batch in same)
        for batch in batches:
            photos = next(decoded)
            if not batch.items:
                yield batch, None
                continue
            items = [located.item for located in batch.items]
            texts = [item_text(item.title, item.description) for item in items]
            with self.watch.time("collate"):
                tensors = self.encoder.collate(texts, [loaded.photo for loaded in photos], items)
            with self.watch.time("transfer"):
                tensors = self.encoder.transfer(tensors)
            yield replace(batch, photos=photos), tensors

    def _batches(self, part: PlannedPart) -> Iterator[Batch]:
        if part.record is not None:
            yield Batch(part, ())
            return
        ordered = sorted(part.items, key=_chars)  # texts of like length need less padding
        for start in range(0, len(ordered), self.batch_size):
            items = ordered[start : start + self.batch_size]
            yield Batch(part, items, remaining=len(ordered) - start - len(items))

    def _encoded(self, collated: Iterator[tuple[Batch, "ItemBatch | None"]]) -> Iterator[Batch]:
        for batch, tensors in collated:
            if tensors is None:
                yield batch
                continue
            with self.watch.time("compute"):
                vectors = self.encoder.compute(tensors)  # (B, D)
            yield replace(batch, vectors=vectors)

    def _indexed(self, batches: Iterator[Batch]) -> Iterator[tuple[IndexedItem, PhotoState, Sequence[Mapping[str, Any]]]]:
        """Yield the items of a part with their vectors and their missing photos, in the order of the batches."""
        tower_id = self.encoder.card.tower_id
        for batch in batches:
            for located, (_, state, misses), vector in zip(batch.items, batch.photos, batch.vectors, strict=True):
                item, has_image = located.item, state is PhotoState.READ
                document = document_of(item, has_image=has_image, tower_id=tower_id, release_id=self.release_id)
                yield IndexedItem(item.item_id, item.version, document, vector), state, [photo_miss(located, m) for m in misses]
            self.report(batch.part.rows_read - batch.remaining)


def plan_parts(rows: Rows, folder: PartFolder, part_items: int, *, again: bool = False) -> Iterator[PlannedPart]:
    """Split the items of a run into parts and find the parts that are on disk already.

    Args:
        rows: rows of the run, which are read while parts are yielded.
        folder: folder of the release's parts.
        part_items: largest number of items in a part.
        again: True reuses no part.
    """
    for number, chunk in enumerate(batches(rows.items(), part_items, _stored_chars, PART_CHARS)):
        fingerprint = folder.fingerprint(chunk)
        yield PlannedPart(number, chunk, fingerprint, None if again else folder.find(number, fingerprint), rows.read)


def _chars(located: LocatedItem) -> int:
    return len(located.item.title) + len(located.item.description)


def _stored_chars(located: LocatedItem) -> int:
    return _chars(located) + sum(len(name) + len(str(value)) for name, value in located.item.attributes.items())
