"""The embedding job: from catalogue files and their photos to a release of embedding parts.

It runs in a SageMaker Processing container, whose folders are the defaults. On a laptop every folder is an option.

Several instances share one run. Every instance has all files (S3DataDistributionType=FullyReplicated). Instance i of n embeds
every n-th file in the order of names, from file i on. It reads the other files only for their ids. So one rule holds over the
whole run: a row is embedded if it is the first with its id, or newer (Item.version) than all earlier rows with its id. Rows are
ordered by file name, then by line. In the index the newer row replaces the older row. A row that is not newer is rejected, and
the reason names the file and line of the row that counts.
"""

import io
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated, Any

import typer

from processing.command_line import (
    CONTAINER,
    AttributesOption,
    ColumnsOption,
    DatesOption,
    DecimalOption,
    EncodingOption,
    FetchOption,
    PhotoHostOption,
    read_options,
    run_job,
)
from processing.embedding.downloads import Downloads
from processing.embedding.parts import PartRecord
from processing.embedding.photos import PHOTO_FAULTS, PhotoLoader, PhotoState
from processing.embedding.pipeline import EmbeddingSteps, plan_parts
from processing.embedding.plan import BATCH_SIZE, PART_ITEMS, EmbeddingRun, rejects_name
from processing.embedding.prefetch import Stopwatch
from processing.embedding.rejects import summarise_rejects
from processing.embedding.rows import Rows, scan_inputs
from processing.embedding.thumbnails import Thumbnails
from retrieval.contracts.item_files import ReadingLog
from retrieval.contracts.release import MISSING_PHOTOS_FILE, REJECTS_FILE, Manifest, load_release
from retrieval.contracts.tower_card import TowerCard
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.files import replace_file, replacing
from retrieval.progress import Progress

if TYPE_CHECKING:  # torch is imported with the tower, because processes that decode photos import this file without it
    from models.artefacts.item_encoder import ItemEncoder

logger = logging.getLogger(__name__)

SAGEMAKER = CONTAINER
RESOURCE_CONFIG = Path("/opt/ml/config/resourceconfig.json")
EXIT_NOTHING_EMBEDDED = 1
PHOTO_CACHE = Path(gettempdir()) / "gavel-photos"


def embed(
    inputs: Sequence[Path],
    tower: Path,
    output: Path,
    *,
    progress: Progress | None = None,
    force: bool = False,
    dimensions: int | None = None,
    **settings: Any,
) -> Manifest:
    """Embed catalogue files into a release; an interrupted run continues with the part where it stopped.

    Args:
        inputs: catalogue files, or folders of them; the same for every instance.
        tower: folder of the artefact, `towers/<tower_id>`.
        output: folder of the releases; this release is written to `output/<release_id>/`.
        progress: called with (rows done, rows); the total is an estimate until the end.
        force: True writes parts again that are on disk already.
        dimensions: length of the vectors, one that the tower serves; None takes the tower's full length.
        settings: other attributes of EmbeddingRun.

    Returns:
        The manifest of this instance, as written.

    Raises:
        InvalidInput: a file, a setting or the release_id cannot be used.
        TowerError: the artefact is missing or damaged.
    """
    run = EmbeddingRun(inputs, output, **settings)
    scan_inputs(run.files()[0], run.options)  # reports an unreadable file before the tower is loaded, which takes seconds
    return embed_with(_load_encoder(tower, dimensions), run, progress, force=force)


def embed_with(
    encoder: "ItemEncoder",
    run: EmbeddingRun,
    progress: Progress | None = None,
    *,
    force: bool = False,
    watch: Stopwatch | None = None,
) -> Manifest:
    """Embed as embed() does, with a loaded tower.

    Args:
        encoder: the item tower.
        run: plan of the run.
        progress: as for embed().
        force: as for embed().
        watch: stopwatch for decode, collate, transfer, compute and write.

    Raises:
        AlreadyRunning: another process writes the same parts now.
    """
    files, own = run.files()
    inputs_hash, row_counts = scan_inputs(files, run.options)
    name = run.name(encoder.card.tower_id, inputs_hash)
    folder = run.part_folder(name, encoder.card.tower_id)
    thumbnails = Thumbnails(run.thumbnails) if run.thumbnails else None
    with run.exclusive(name):
        folder.withdraw()
        watch = watch or Stopwatch()
        with (
            replacing(run.output / name / rejects_name(run.instance, run.instances)) as partial,
            partial.open("wb") as rejects,
            PhotoLoader(encoder.card.image_size, run.workers, watch, thumbnails) as photos,
        ):
            rows = Rows(files, own, rejects, run.photos, run.options, run.log, run.downloads)
            total = sum(row_counts[file] for file in own)

            def report(done: int) -> None:
                if progress:
                    progress(done, max(total, done))

            report(0)
            steps = EmbeddingSteps(encoder, photos, name, run.batch_size, report, watch)
            start = time.perf_counter()
            records, embedded = steps.write_parts(plan_parts(rows, folder, run.part_items, again=force), folder)
            seconds = time.perf_counter() - start
        manifest = replace(
            _manifest(run, name, encoder.card, rows, records, inputs_hash),
            device=encoder.device_name,
            items_per_second=round(embedded / seconds, 1),
        )
        misses = sorted((miss for record in records for miss in record.misses), key=lambda miss: (miss["source"], miss["line"]))
        lines = "".join(f"{json.dumps(miss, ensure_ascii=False)}\n" for miss in misses)
        replace_file(run.output / name / rejects_name(run.instance, run.instances, MISSING_PHOTOS_FILE), lines)
        folder.commit(manifest)
        logger.info("%d lots embedded on %s, %s a second", embedded, manifest.device, manifest.items_per_second)
        _log_photos(manifest, records)
        if progress:
            progress(rows.read, rows.read)
        return manifest


def find_release(run: EmbeddingRun, card: TowerCard) -> Manifest | None:
    """Find the committed release that this run would only repeat; torch is not imported.

    Args:
        run: plan of the run.
        card: card of the tower.

    Returns:
        The manifest of the release; None if there is no such release, or if rows, photos, tower or sizes have changed.
    """
    files, own = run.files()
    inputs_hash, _ = scan_inputs(files, run.options)
    name = run.name(card.tower_id, inputs_hash)
    try:
        release = load_release(run.output / name)
    except ReleaseError:
        return None
    rows, records = Rows(files, own, io.BytesIO(), run.photos, run.options, run.log, run.downloads), []
    for part in plan_parts(rows, run.part_folder(name, card.tower_id), run.part_items):
        if part.record is None:
            return None
        records.append(part.record)
    return release if _manifest(run, name, card, rows, records, inputs_hash) == release else None


def nothing_embedded(manifest: Manifest, folder: Path) -> str:
    """Return a warning if every row of a release was rejected, otherwise an empty string.

    Args:
        manifest: manifest of the release.
        folder: folder of the release.
    """
    if manifest.items_embedded or not manifest.items_in:
        return ""
    return (
        f"nothing was embedded: all {manifest.items_in} rows were rejected; "
        f"{folder / REJECTS_FILE} says why, row by row: mend them and run it again"
    )


def _manifest(
    run: EmbeddingRun, name: str, card: TowerCard, rows: Rows, records: Sequence[PartRecord], inputs_hash: str
) -> Manifest:
    photos = _photo_counts(records)
    return Manifest(
        release_id=name,
        tower_id=card.tower_id,
        dimensions=card.dimensions,
        items_in=rows.read,
        items_embedded=sum(record.part.items for record in records),
        items_rejected=rows.rejected,
        items_without_image=photos.total() - photos[PhotoState.READ],
        parts=[record.part for record in records],
        items_superseded=rows.superseded,
        inputs=inputs_hash,
        instance=run.instance,
        instances=run.instances,
    )


def _photo_counts(records: Sequence[PartRecord]) -> Counter[str]:
    photos: Counter[str] = Counter()
    for record in records:
        photos.update(record.photos)
    return photos


def _log_photos(manifest: Manifest, records: Sequence[PartRecord]) -> None:
    photos = _photo_counts(records)
    logger.info("photos: %s", ", ".join(f"{photos[state]} {state}" for state in PhotoState))
    faults = {state: photos[state] for state in PhotoState if photos[state] and state in PHOTO_FAULTS}
    if faults:
        text = "; ".join(f"{count} {PHOTO_FAULTS[state]}" for state, count in faults.items())
        logger.warning("%d lots are embedded from their text alone, without the photo they name: %s", sum(faults.values()), text)
    if not manifest.items_in:
        logger.info("this instance had no row to embed")


def _load_encoder(tower: Path, dimensions: int | None) -> "ItemEncoder":
    from models.artefacts.item_encoder import ItemEncoder

    return ItemEncoder.load(tower, dimensions=dimensions)


def read_instances(path: Path = RESOURCE_CONFIG) -> tuple[int, int]:
    """Return (number of this instance, number of instances) from SageMaker's resource config; (0, 1) without the file.

    Raises:
        InvalidInput: the file exists and cannot be used.
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
    """Return a progress callback that logs one line for every tenth of the rows."""
    tenths = 0

    def report(done: int, total: int) -> None:
        nonlocal tenths
        if total and done * 10 // total > tenths:
            tenths = done * 10 // total
            logger.info("%d of %d rows", done, total)

    return report


def run_embedding(
    inputs: Annotated[list[Path] | None, typer.Option("--input", help="File or folder; may be repeated.")] = None,
    tower: Annotated[Path | None, typer.Option("--tower", help="The tower artefact.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder of the releases, each in its own folder.")] = None,
    photos: Annotated[
        list[Path] | None, typer.Option("--photos", help="Folder whose photos lots may name; may be repeated.")
    ] = None,
    release_id: Annotated[str | None, typer.Option(help="Name of the release; by default made of tower and input.")] = None,
    batch_size: Annotated[int, typer.Option(help="Lots that are encoded at once.")] = BATCH_SIZE,
    part_items: Annotated[int, typer.Option(help="Lots per part.")] = PART_ITEMS,
    workers: Annotated[int, typer.Option(help="Processes that decode photos, 0 for none.")] = (os.cpu_count() or 1) - 1,
    dimensions: Annotated[
        int | None, typer.Option(help="Length of the vectors, one that the tower serves; by default its own.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write parts again that are on disk already.")] = False,
    columns: ColumnsOption = None,
    decimal: DecimalOption = None,
    dates: DatesOption = None,
    encoding: EncodingOption = None,
    attributes: AttributesOption = None,
    fetch: FetchOption = False,
    photo_hosts: PhotoHostOption = None,
    photo_cache: Annotated[Path, typer.Option(help="Folder of the photos that are fetched.")] = PHOTO_CACHE,
) -> int:
    """Embed catalogue files and their photos into a release of embedding parts.

    Without --input, --tower or --output, the folders of a SageMaker processing job are used.
    """
    instance, instances = read_instances()
    output = output or SAGEMAKER / "output"
    log = ReadingLog()
    manifest = embed(
        inputs or [SAGEMAKER / "input/items"],
        tower or SAGEMAKER / "input/tower",
        output,
        progress=_log_tenths(),
        force=force,
        dimensions=dimensions,
        release_id=release_id,
        batch_size=batch_size,
        part_items=part_items,
        workers=workers,
        instance=instance,
        instances=instances,
        photos=photos or ([] if inputs else [SAGEMAKER / "input/items"]),
        options=read_options(columns, decimal, dates, encoding, attributes),
        log=log,
        downloads=Downloads(photo_cache, frozenset(photo_hosts or ())) if fetch else None,
    )
    for line in log.lines():
        logger.warning("%s", line)
    for name, rows in log.without_items.items():
        logger.warning("%s gave no lot: %d rows, all rejected", name, rows)
    for kind in summarise_rejects(output / manifest.release_id / rejects_name(instance, instances)):
        logger.warning("%d rows rejected: %s; first %s: %s", kind.count, kind.reason, kind.first, kind.example)
    print(manifest.to_json(), end="")
    warning = nothing_embedded(manifest, output / manifest.release_id)
    if warning:
        print(f"gavel: {warning}", file=sys.stderr)
    return EXIT_NOTHING_EMBEDDED if warning else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from a command line; return 1 if every row was rejected, otherwise the result of run_job()."""
    return run_job(run_embedding, arguments, "gavel")
