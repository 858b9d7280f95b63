"""`gavel embed`: embed lots into a release."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from gavel.workspace.console import notes, progress, show_table
from gavel.workspace.entry import EXIT_ERROR, say, show_next
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, report
from models.artefacts.run_record import cut_steps
from processing.command_line import (
    AttributesOption,
    ColumnsOption,
    DatesOption,
    DecimalOption,
    EncodingOption,
    FetchOption,
    PhotoHostOption,
    read_options,
)
from processing.embedding.rejects import RejectedKind, summarise_rejects
from retrieval.config.settings import Settings
from retrieval.contracts.item_files import ReadingLog, ReadOptions
from retrieval.contracts.item_folders import FolderListing, list_item_files
from retrieval.contracts.release import MISSING_PHOTOS_FILE, REJECTS_FILE, Manifest, load_release
from retrieval.errors import InvalidInput

if TYPE_CHECKING:  # photos bring Pillow
    from processing.embedding.photos import PhotoState

SHOWN_REASONS = 8
ALREADY_THERE = "already there, unchanged; --force embeds again"


class _Plan(TypedDict):
    release_id: str | None
    dimensions: int | None
    photos: list[Path]
    options: ReadOptions
    photo_hosts: Sequence[str] | None


def embed(
    source: Annotated[
        Path | None, typer.Argument(help="Catalogue file or folder of them; the newest catalogue by default.")
    ] = None,
    tower: Annotated[str | None, typer.Option(help="tower_id; the newest tower by default.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="In place of a trained tower a published encoder as it is: minilm, or a sentence encoder, CLIP or SigLIP by "
            "hub name or folder.",
        ),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Length of the vectors, one of those that the tower serves; the tower's own by default.")
    ] = None,
    release: Annotated[str | None, typer.Option(help="release_id; derived from tower and input by default.")] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(help="Further folder of photos that lots may name, besides the folder of their file; may be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode photos; 0 decodes in a thread.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Embed again although an unchanged release is there already.")] = False,
    columns: ColumnsOption = None,
    decimal: DecimalOption = None,
    dates: DatesOption = None,
    encoding: EncodingOption = None,
    attributes: AttributesOption = None,
    fetch: FetchOption = True,
    photo_hosts: PhotoHostOption = None,
    as_json: Json = False,
) -> None:
    """Embed lots into a release: bulk files with vectors, and a file of the rows that were rejected."""
    from catalog.folder import CatalogFolder
    from gavel.workspace import pipeline

    workspace = Workspace(Settings.from_env())
    options = read_options(columns, decimal, dates, encoding, attributes)
    listing = list_item_files(source) if source else FolderListing(CatalogFolder.load(workspace.catalog(None)).item_files())
    if encoder and tower:
        raise InvalidInput("--encoder and --tower both say what to embed with; leave one out")
    if encoder:
        with progress(f"prepare {encoder}"):
            folder = pipeline.published_tower(workspace, encoder)
    else:
        folder = workspace.tower(tower)
    if cut := cut_steps(folder):
        note = f"tower {folder.name} was cut after {cut[0]:,} of {cut[1]:,} steps; the command that trained it goes on"
        notes.print(note, style="yellow", highlight=False, soft_wrap=True)
    plan: _Plan = {
        "release_id": release,
        "dimensions": dimensions,
        "photos": photos or [],
        "options": options,
        "photo_hosts": (photo_hosts or []) if fetch else None,
    }
    log = ReadingLog(passed_over=listing.passed_over)
    committed = None if force else pipeline.find_release(workspace, listing.files, folder, log=log, **plan)
    if committed is None:
        log = ReadingLog(passed_over=listing.passed_over)
        with progress("embed lots") as step:
            written = pipeline.embed(workspace, listing.files, folder, workers=workers, force=force, progress=step, log=log, **plan)
    path = committed or written
    manifest = load_release(path)
    kinds, missing = summarise_rejects(path / REJECTS_FILE), _missing_photos(path)
    fit = pipeline.measure_fit(workspace, path)
    for line in log.lines():
        notes.print(line, markup=False, highlight=False, soft_wrap=True)
    values = _describe(path, manifest, committed is not None, log, kinds, missing, as_json)
    report({**values, **({"tower_fit": asdict(fit)} if as_json else {})}, as_json)
    if kinds and not as_json:
        rows = [(f"{kind.count:,}", kind.reason, kind.first, kind.example) for kind in kinds[:SHOWN_REASONS]]
        more = f", the {SHOWN_REASONS} most frequent reasons of {len(kinds)}" if len(kinds) > SHOWN_REASONS else ""
        show_table(f"\nrows that were rejected{more}", ("rows", "why", "first", "in words"), rows, right_from=9)
    if missing and not as_json:
        from processing.embedding.photos import PHOTO_FAULTS

        faults = [(f"{count:,}", PHOTO_FAULTS[fault], example) for fault, (count, example) in missing.items()]
        show_table(
            f"\nphotos that are missing; {path / MISSING_PHOTOS_FILE} has all", ("photos", "why", "first"), faults, right_from=9
        )
    if not as_json and manifest.items_embedded:
        show_next("index")
    if warning := fit.warning(manifest.tower_id):
        say(warning, style="yellow")
    if fault := _fault(path, manifest, log):
        say(fault)
        raise typer.Exit(EXIT_ERROR)


def _missing_photos(folder: Path) -> dict["PhotoState", tuple[int, str]]:
    """Return kind of fault -> number of photos and the reason of the first, the most frequent first."""
    from processing.embedding.photos import PhotoState

    path = folder / MISSING_PHOTOS_FILE
    misses = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    firsts = {PhotoState(miss["fault"]): f"{miss['source']}:{miss['line']}: {miss['reason']}" for miss in reversed(misses)}
    counts = Counter(PhotoState(miss["fault"]) for miss in misses)
    return {fault: (count, firsts[fault]) for fault, count in counts.most_common()}


def _fault(folder: Path, manifest: Manifest, log: ReadingLog) -> str:
    """Return why the command fails although it wrote a release; empty if every file with rows gave a lot."""
    if not manifest.items_in:
        return (
            f"nothing was embedded: there is no row in {', '.join(log.without_items)}; add rows below the header and run it again"
        )
    if not manifest.items_embedded:
        from processing.embedding.job import nothing_embedded

        return nothing_embedded(manifest, folder)
    if empty := [name for name, rows in log.without_items.items() if rows]:
        return f"no lot came from {', '.join(empty)}: all rows were rejected, and {folder / REJECTS_FILE} says why"
    return ""


def _describe(
    folder: Path,
    manifest: Manifest,
    already: bool,
    log: ReadingLog,
    kinds: list[RejectedKind],
    missing: Mapping["PhotoState", tuple[int, str]],
    as_json: bool,
) -> dict[str, object]:
    rejected: object = manifest.items_rejected
    if manifest.items_rejected and not as_json:
        rejected = f"{manifest.items_rejected} ({folder / REJECTS_FILE})"
    values: dict[str, object] = {
        "release": str(folder),
        **({"already_there": already} if as_json else {"state": ALREADY_THERE} if already else {}),
        "tower_id": manifest.tower_id,
        "items_in": manifest.items_in,
        "embedded": manifest.items_embedded,
        "rejected": rejected,
        "without_image": manifest.items_without_image,
    }
    if as_json:
        values |= {
            "rejected_by_reason": {kind.reason: kind.count for kind in kinds},
            "photos_missing": {fault.value: count for fault, (count, _) in missing.items()},
            "empty_values": dict(log.empty_values),
            "attributes_left_out": dict(log.attributes_left_out),
            "files_without_lots": list(log.without_items),
            "passed_over": log.passed_over,
            "notices": log.notices,
        }
    return values
