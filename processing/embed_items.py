"""The embedding job: catalogue files and their photos in, a release of embedding parts out.

It runs in a SageMaker Processing container (its folders are the defaults) and on a laptop (every folder is a flag).

Several instances share one run: every instance is given all files (S3DataDistributionType=FullyReplicated), embeds those
whose turn it is by name, and reads the rest for their ids alone. So one rule holds over the whole run: a row is embedded when
it is the first of its id or newer than those before it (Item.version; files by name, rows in order). The newer one replaces
the older one in the index; a row that is not newer is rejected with the place of the one that stands.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from processing.embedding_input import Rows, input_files, survey
from processing.embedding_parts import Lot, PartFolder, Receipt, replacing
from processing.item_photos import PhotoLoader, PhotoState
from retrieval.errors import GavelError, InvalidInput
from retrieval.index.base import IndexedItem
from retrieval.items import item_text
from retrieval.release import REJECTS_FILE, Manifest
from retrieval.schema import document_of

if TYPE_CHECKING:  # torch is imported when the tower is loaded: processes that decode photos import this file and need none
    from models.item_encoder import ItemEncoder

Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)

SAGEMAKER = Path("/opt/ml/processing")
RESOURCE_CONFIG = Path("/opt/ml/config/resourceconfig.json")
RELEASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
BATCH_SIZE = 64
PART_ITEMS = 5_000  # about 12 MB of gzip: one Lambda indexes it well within its time
INPUT_HASH_CHARS = 12


def embed(
    inputs: Sequence[Path],
    tower: Path,
    output: Path,
    *,
    release_id: str | None = None,
    batch_size: int = BATCH_SIZE,
    part_items: int = PART_ITEMS,
    workers: int = 0,
    instance: int = 0,
    instances: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Embed catalogue files into a release; a run that was cut short goes on with the part where it stopped.

    Args:
        inputs: catalogue files, or folders of them; every instance is given the same.
        tower: the artefact, `towers/<tower_id>`.
        output: the release is written to `output/<release_id>/`.
        release_id: its name; by default one made of tower and input, so that the same run has the same name.
        batch_size: lots that the tower computes at once, > 0.
        part_items: lots of a part, > 0; they are held in memory.
        workers: processes that fetch and decode photos; 0 decodes in this one.
        instance: which of the instances this is, from 0.
        instances: how many share the run, > 0.
        progress: called with (rows done, rows in all); rows in all is an estimate until the end.

    Returns:
        The manifest of this instance, which has been written.

    Raises:
        InvalidInput: an argument, a file or the release_id cannot be used.
        TowerError: the artefact is missing or damaged.
    """
    for flag, value, least in (("batch_size", batch_size, 1), ("part_items", part_items, 1), ("workers", workers, 0)):
        if value < least:
            raise InvalidInput(f"{flag} is {value}; allowed are whole numbers from {least}")
    if not 0 <= instance < instances:
        raise InvalidInput(f"instance {instance} is out of range; {instances} instances count from 0 to {instances - 1}")
    files = input_files(inputs)
    mine = frozenset(files[instance::instances])
    inputs_hash, row_counts = survey(files)
    encoder = _load_encoder(tower)
    name = _release_name(release_id, encoder.card.tower_id, inputs_hash)
    folder = PartFolder(output / name, name, encoder.card.tower_id, instance, instances)
    folder.withdraw()
    with (
        replacing(output / name / _rejects_name(instance, instances)) as rejects,
        PhotoLoader(encoder.card.image_size, workers) as photos,
    ):
        rows = Rows(files, mine, rejects)
        job = _Job(encoder, photos, name, batch_size, _reporter(rows, sum(row_counts[f] for f in mine), progress))
        receipts = job.write_parts(rows.lots(), folder, part_items)
    manifest = _manifest(name, encoder, rows, receipts, inputs_hash, instance, instances)
    folder.commit(manifest)
    if progress:
        progress(rows.read, rows.read)
    return manifest


@dataclass(frozen=True)
class _Job:
    """The steps from lots to parts."""

    encoder: "ItemEncoder"
    photos: PhotoLoader
    release_id: str
    batch_size: int
    report: Callable[[int], None]

    def write_parts(self, lots: Iterator[Lot], folder: PartFolder, part_items: int) -> list[Receipt]:
        receipts: list[Receipt] = []
        while chunk := list(islice(lots, part_items)):
            count = len(receipts)
            fingerprint = folder.fingerprint(chunk)
            receipt = folder.finished(count, fingerprint)
            if receipt is None:
                receipt = folder.write(count, fingerprint, self._embedded(chunk))
                logger.info("%s written: %d lots", receipt.part.name, receipt.part.items)
            else:
                logger.info("%s is finished already: %d lots", receipt.part.name, receipt.part.items)
            receipts.append(receipt)
            self.report(0)
        return receipts

    def _embedded(self, chunk: Sequence[Lot]) -> Iterator[tuple[IndexedItem, PhotoState]]:
        """The lots of a part with their vectors, batch after batch, in order."""
        batches = [chunk[start : start + self.batch_size] for start in range(0, len(chunk), self.batch_size)]
        left = len(chunk)
        for batch, decoded in zip(batches, self.photos.load([lot.photo for lot in b] for b in batches), strict=True):
            texts = [item_text(lot.item.title, lot.item.description) for lot in batch]
            vectors = self.encoder.encode(texts, [photo for photo, _ in decoded], batch_size=self.batch_size)  # (B, D)
            for lot, (photo, state), vector in zip(batch, decoded, vectors, strict=True):
                document = document_of(
                    lot.item,
                    has_image=photo is not None,
                    tower_id=self.encoder.card.tower_id,
                    release_id=self.release_id,
                )
                yield IndexedItem(lot.item.item_id, lot.item.version, document, vector), state
            left -= len(batch)
            self.report(left)


def _manifest(
    name: str,
    encoder: "ItemEncoder",
    rows: Rows,
    receipts: Sequence[Receipt],
    inputs_hash: str,
    instance: int,
    instances: int,
) -> Manifest:
    photos: Counter[str] = Counter()
    for receipt in receipts:
        photos.update(receipt.photos)
    logger.info("photos: %s", ", ".join(f"{photos[state]} {state}" for state in PhotoState))
    if photos[PhotoState.UNREADABLE] and not photos[PhotoState.READ]:
        logger.warning("none of the %d photos could be read: all lots are embedded from text", photos[PhotoState.UNREADABLE])
    return Manifest(
        release_id=name,
        tower_id=encoder.card.tower_id,
        dimensions=encoder.card.dimensions,
        items_in=rows.read,
        items_embedded=sum(receipt.part.items for receipt in receipts),
        items_rejected=rows.rejected,
        items_without_image=photos.total() - photos[PhotoState.READ],
        parts=[receipt.part for receipt in receipts],
        items_superseded=rows.superseded,
        inputs=inputs_hash,
        instance=instance,
        instances=instances,
    )


def _load_encoder(tower: Path) -> "ItemEncoder":
    from models.item_encoder import ItemEncoder

    return ItemEncoder.load(tower)


def _release_name(given: str | None, tower_id: str, inputs_hash: str) -> str:
    name = given or f"{tower_id}-{inputs_hash[:INPUT_HASH_CHARS]}"
    if not RELEASE_ID.fullmatch(name):
        raise InvalidInput(f"release_id {name!r} cannot name a folder; use 1 to 100 letters, digits, '.', '_' and '-'")
    return name


def _rejects_name(instance: int, instances: int) -> str:
    return REJECTS_FILE if instances == 1 else f"rejects-{instance:05}-of-{instances:05}.ndjson"


def _reporter(rows: Rows, total: int, progress: Progress | None) -> Callable[[int], None]:
    """A function of the rows that were read but wait for their vectors."""

    def report(waiting: int) -> None:
        if progress:
            done = rows.read - waiting
            progress(done, max(total, done))

    return report


def read_instances(path: Path = RESOURCE_CONFIG) -> tuple[int, int]:
    """Which of how many instances this is, by SageMaker's resource config; (0, 1) where there is none.

    Raises:
        InvalidInput: the file is there and cannot be used.
    """
    try:
        config = json.loads(path.read_text())
        hosts = sorted(config["hosts"])
        return hosts.index(config["current_host"]), len(hosts)
    except FileNotFoundError:
        return 0, 1
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is not SageMaker's resource config: {error!r}") from error


def _log_tenths() -> Progress:
    """Progress as a line of the log every tenth of the way."""
    tenths = 0

    def report(done: int, total: int) -> None:
        nonlocal tenths
        if total and done * 10 // total > tenths:
            tenths = done * 10 // total
            logger.info("%d of %d rows", done, total)

    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from the command line.

    Returns:
        0; 2 when the input or a flag cannot be used, with one line on stderr that says why.
    """
    parser = argparse.ArgumentParser(description="Embed catalogue files and their photos into a release of embedding parts.")
    parser.add_argument("--input", type=Path, action="append", help="file or folder, may be repeated")
    parser.add_argument("--tower", type=Path, default=SAGEMAKER / "input/tower", help="the tower artefact")
    parser.add_argument("--output", type=Path, default=SAGEMAKER / "output", help="gets one folder a release")
    parser.add_argument("--release-id", help="name of the release; by default made of tower and input")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--part-items", type=int, default=PART_ITEMS)
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 1) - 1, help="processes that decode photos, 0 for none")
    flags = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        instance, instances = read_instances()
        manifest = embed(
            flags.input or [SAGEMAKER / "input/items"],
            flags.tower,
            flags.output,
            release_id=flags.release_id,
            batch_size=flags.batch_size,
            part_items=flags.part_items,
            workers=flags.workers,
            instance=instance,
            instances=instances,
            progress=_log_tenths(),
        )
    except GavelError as error:
        print(f"embed_items: {error}", file=sys.stderr)
        return 2
    print(manifest.to_json(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
