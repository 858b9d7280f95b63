"""The embedding job: catalogue files and their photos in, a release of embedding parts out.

It runs in a SageMaker Processing container (its folders are the defaults) and on a laptop (every folder is a flag).

Several instances share one run: every instance is given all files (S3DataDistributionType=FullyReplicated), embeds those
whose turn it is by name, and reads the rest for their ids alone. So one rule holds over the whole run: a row is embedded when
it is the first of its id or newer than those before it (Item.version; files by name, rows in order). The newer one replaces
the older one in the index; a row that is not newer is rejected with the place of the one that stands.
"""

import io
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from processing.command_line import CONTAINER, run_job
from processing.embedding.input import Rows, item_folders, scan_inputs
from processing.embedding.parts import PartRecord
from processing.embedding.photos import PhotoLoader, PhotoState
from processing.embedding.pipeline import EmbeddingSteps, plan_parts
from processing.embedding.plan import BATCH_SIZE, PART_ITEMS, EmbeddingRun
from processing.embedding.prefetch import Stopwatch
from processing.embedding.thumbnails import Thumbnails
from retrieval.contracts.release import REJECTS_FILE, Manifest, load_release
from retrieval.contracts.tower_card import TowerCard
from retrieval.encoders.photos import MAX_BYTES, MAX_PIXELS
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.files import replacing
from retrieval.progress import Progress

if TYPE_CHECKING:  # torch is imported when the tower is loaded: processes that decode photos import this file and need none
    from models.artefacts.item_encoder import ItemEncoder

logger = logging.getLogger(__name__)

SAGEMAKER = CONTAINER
RESOURCE_CONFIG = Path("/opt/ml/config/resourceconfig.json")
EXIT_NOTHING_EMBEDDED = 1
MISSED = {
    PhotoState.UNREADABLE: "missing, damaged or not to be read",
    PhotoState.FORMAT: "neither JPEG, PNG nor WebP",
    PhotoState.TOO_LARGE: f"of more than {MAX_PIXELS:,} pixels or {MAX_BYTES:,} bytes",
    PhotoState.OUTSIDE: "outside the folder of their file (--photos opens another)",
    PhotoState.OTHER_SCHEME: "neither a path nor s3://",
}


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
    """Embed catalogue files into a release; a run that was cut short goes on with the part where it stopped.

    Args:
        inputs: catalogue files, or folders of them; every instance is given the same.
        tower: the artefact, `towers/<tower_id>`.
        output: the release is written to `output/<release_id>/`.
        progress: called with (rows done, rows in all); rows in all is an estimate until the end.
        force: make parts again that are there already.
        dimensions: length of the vectors, one that the tower serves; None is its own.
        settings: further attributes of EmbeddingRun.

    Returns:
        The manifest of this instance, which has been written.

    Raises:
        InvalidInput: a file, a setting or the release_id cannot be used.
        TowerError: the artefact is missing or damaged.
    """
    run = EmbeddingRun(inputs, output, **settings)
    scan_inputs(run.files()[0])  # a file that cannot be read is told before the seconds that a tower takes to load
    return embed_with(_load_encoder(tower, dimensions), run, progress, force=force)


def embed_with(
    encoder: "ItemEncoder",
    run: EmbeddingRun,
    progress: Progress | None = None,
    *,
    force: bool = False,
    watch: Stopwatch | None = None,
) -> Manifest:
    """As embed(), with a tower that is loaded already.

    Args:
        encoder: the item tower.
        run: what to embed.
        progress: as embed()'s.
        force: as embed()'s.
        watch: is told how long decode, collate, transfer, compute and write were busy.
    """
    files, mine = run.files()
    inputs_hash, row_counts = scan_inputs(files)
    name = run.name(encoder.card.tower_id, inputs_hash)
    folder = run.part_folder(name, encoder.card.tower_id)
    folder.withdraw()
    watch = watch or Stopwatch()
    with (
        replacing(run.output / name / run.rejects_name) as partial,
        partial.open("wb") as rejects,
        PhotoLoader(encoder.card.image_size, run.workers, watch, run.thumbnails and Thumbnails(run.thumbnails)) as photos,
    ):
        rows = Rows(files, mine, rejects, run.photos)
        report = _reporter(sum(row_counts[f] for f in mine), progress)
        report(0)
        steps = EmbeddingSteps(encoder, photos, name, run.batch_size, report, watch)
        records = steps.write_parts(plan_parts(rows, folder, run.part_items, again=force), folder)
    manifest = _manifest(run, name, encoder.card, rows, records, inputs_hash)
    folder.commit(manifest)
    _tell(manifest, records)
    if progress:
        progress(rows.read, rows.read)
    return manifest


def find_release(run: EmbeddingRun, card: TowerCard) -> Manifest | None:
    """The committed release that this run would write once more; it needs no torch.

    Args:
        run: what would be embedded.
        card: of the tower.

    Returns:
        Its manifest; None when there is none, or anything that it comes from (rows, photos, tower, sizes) has changed.
    """
    files, mine = run.files()
    inputs_hash, _ = scan_inputs(files)
    name = run.name(card.tower_id, inputs_hash)
    try:
        there = load_release(run.output / name)
    except ReleaseError:
        return None
    rows, records = Rows(files, mine, io.BytesIO(), run.photos), []
    for part in plan_parts(rows, run.part_folder(name, card.tower_id), run.part_items):
        if part.record is None:
            return None
        records.append(part.record)
    return there if _manifest(run, name, card, rows, records, inputs_hash) == there else None


def nothing_embedded(manifest: Manifest, where: Path) -> str:
    """A warning when every row of a release was rejected; empty otherwise.

    Args:
        manifest: of the release.
        where: its folder.
    """
    if manifest.items_embedded or not manifest.items_in:
        return ""
    return (
        f"nothing was embedded: all {manifest.items_in} rows were rejected; "
        f"{where / REJECTS_FILE} says why, row by row: mend them and run it again"
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


def _tell(manifest: Manifest, records: Sequence[PartRecord]) -> None:
    photos = _photo_counts(records)
    logger.info("photos: %s", ", ".join(f"{photos[state]} {state}" for state in PhotoState))
    missed = {state: photos[state] for state in PhotoState if photos[state] and state in MISSED}
    if missed:
        told = "; ".join(f"{count} {MISSED[state]}" for state, count in missed.items())
        logger.warning("%d lots are embedded from their text alone, without the photo they name: %s", sum(missed.values()), told)
    if not manifest.items_in:
        logger.info("this instance had no row to embed")


def _load_encoder(tower: Path, dimensions: int | None) -> "ItemEncoder":
    from models.artefacts.item_encoder import ItemEncoder

    return ItemEncoder.load(tower, dimensions=dimensions)


def _reporter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """A function of the rows that are done."""

    def report(done: int) -> None:
        if progress:
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


def run_embedding(
    inputs: Annotated[list[Path] | None, typer.Option("--input", help="File or folder; may be repeated.")] = None,
    tower: Annotated[Path | None, typer.Option("--tower", help="The tower artefact.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Gets one folder a release.")] = None,
    photos: Annotated[
        list[Path] | None, typer.Option("--photos", help="Folder whose photos lots may name; may be repeated.")
    ] = None,
    release_id: Annotated[str | None, typer.Option(help="Name of the release; by default made of tower and input.")] = None,
    batch_size: Annotated[int, typer.Option(help="Lots that are encoded at once.")] = BATCH_SIZE,
    part_items: Annotated[int, typer.Option(help="Lots of a part.")] = PART_ITEMS,
    workers: Annotated[int, typer.Option(help="Processes that decode photos, 0 for none.")] = (os.cpu_count() or 1) - 1,
    dimensions: Annotated[
        int | None, typer.Option(help="Length of the vectors, one that the tower serves; by default its own.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make parts again that are there already.")] = False,
) -> int:
    """Embed catalogue files and their photos into a release of embedding parts.

    Without --input, --tower or --output, the folders of a SageMaker processing job are used.
    """
    instance, instances = read_instances()
    output = output or SAGEMAKER / "output"
    manifest = embed(
        inputs or item_folders(SAGEMAKER / "input/items"),
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
    )
    print(manifest.to_json(), end="")
    warning = nothing_embedded(manifest, output / manifest.release_id)
    if warning:
        print(f"gavel: {warning}", file=sys.stderr)
    return EXIT_NOTHING_EMBEDDED if warning else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from the command line.

    Returns:
        0; 1 when every row was rejected; 2 when the input or a flag cannot be used; with one line on stderr that says why.
    """
    return run_job(run_embedding, arguments, "gavel")


if __name__ == "__main__":
    sys.exit(main())
