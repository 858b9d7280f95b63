"""`gavel embed`: embed lots into a release."""

from pathlib import Path
from typing import Annotated, TypedDict

import typer

from gavel.workspace.console import progress
from gavel.workspace.entry import EXIT_ERROR, say
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, report
from retrieval.config.settings import Settings
from retrieval.contracts.release import REJECTS_FILE, Manifest, load_release

ALREADY_THERE = "already there, unchanged; --force embeds again"


class _Plan(TypedDict):
    release_id: str | None
    dimensions: int | None
    photos: list[Path]


def embed(
    source: Annotated[
        Path | None, typer.Argument(help="Catalogue file or folder of them; the newest catalogue by default.")
    ] = None,
    tower: Annotated[str | None, typer.Option(help="tower_id; the newest tower by default.")] = None,
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
    as_json: Json = False,
) -> None:
    """Embed lots into a release: bulk files with vectors, and a file of the rows that were rejected."""
    from catalog.folder import CatalogFolder
    from gavel.workspace import pipeline
    from processing.embedding.job import nothing_embedded
    from retrieval.contracts.item_files import find_item_files

    workspace = Workspace(Settings.from_env())
    inputs = find_item_files(source) if source else CatalogFolder.load(workspace.catalog(None)).item_files()
    folder = workspace.tower(tower)
    plan: _Plan = {"release_id": release, "dimensions": dimensions, "photos": photos or []}
    committed = None if force else pipeline.find_release(workspace, inputs, folder, **plan)
    if committed is None:
        with progress("embed lots", estimated=True) as step:
            written = pipeline.embed(workspace, inputs, folder, workers=workers, force=force, progress=step, **plan)
    path = committed or written
    manifest = load_release(path)
    report(_describe(path, manifest, committed is not None, as_json), as_json)
    if manifest.items_in and not manifest.items_embedded:
        say(nothing_embedded(manifest, path))
        raise typer.Exit(EXIT_ERROR)


def _describe(folder: Path, manifest: Manifest, already: bool, as_json: bool) -> dict[str, object]:
    rejected: object = manifest.items_rejected
    if manifest.items_rejected and not as_json:
        rejected = f"{manifest.items_rejected} ({folder / REJECTS_FILE})"
    return {
        "release": str(folder),
        **({"already_there": already} if as_json else {"state": ALREADY_THERE} if already else {}),
        "tower_id": manifest.tower_id,
        "items_in": manifest.items_in,
        "embedded": manifest.items_embedded,
        "rejected": rejected,
        "without_image": manifest.items_without_image,
    }
