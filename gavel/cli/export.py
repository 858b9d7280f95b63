"""`gavel export`: files for other programs and for towers of older versions."""

from pathlib import Path
from typing import Annotated

import typer

from gavel.workspace.console import progress
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, report
from retrieval.config.settings import Settings
from retrieval.contracts.tower_card import HASHED_FILES, IMAGE_TOWER_FILE, TowerCard

export_app = typer.Typer(no_args_is_help=True, help="Write files for other programs, and add what towers of older versions lack.")


@export_app.command()
def faiss(
    release: Annotated[Path | None, typer.Argument(help="Release folder or release_id; the newest one by default.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write; <home>/exports/<release_id> by default.")] = None,
    spec: Annotated[
        str, typer.Option(help="Index type and parameters, such as flat or pq:pq_m=64; see `gavel index advise`.")
    ] = "hnsw",
    as_json: Json = False,
) -> None:
    """Write a release's vectors and ids as NumPy files, with a plain FAISS index over them."""
    from retrieval.index.ann.export import export_release
    from retrieval.index.embedded.segments import embedded_spec

    workspace = Workspace(Settings.from_env())
    path = workspace.release(release)
    folder = to or workspace.exports / path.name
    with progress("read lots") as read, progress("build index") as built:
        export = export_release(path, folder, embedded_spec(spec), on_read=read, on_built=built)
    values = {
        "release_id": export.release_id,
        "tower_id": export.tower_id,
        "lots": export.lots,
        "dimensions": export.dimensions,
    }
    report(
        {"folder": str(folder), **values, "spec": export.spec, "files": export.files if as_json else ", ".join(export.files)},
        as_json,
    )


@export_app.command()
def checksums(
    tower: Annotated[str | None, typer.Argument(help="tower_id; the newest tower by default.")] = None,
    as_json: Json = False,
) -> None:
    """Add missing checksums of files to the card of a tower that an older version saved."""
    folder = Workspace(Settings.from_env()).tower(tower)
    card = TowerCard.load(folder, verify=True)
    missing = [name for name in (*HASHED_FILES, IMAGE_TOWER_FILE) if name not in card.files and (folder / name).is_file()]
    card.with_files(folder, *missing).save_again(folder)
    report({"tower_id": folder.name, "added": missing if as_json else ", ".join(missing) or "none"}, as_json)


@export_app.command()
def image(
    tower: Annotated[str | None, typer.Argument(help="tower_id; the newest tower by default.")] = None,
    as_json: Json = False,
) -> None:
    """Add the image encoder for searches by photo to a tower that an older version saved without it."""
    from models.artefacts.tower_files import add_image_tower

    folder = Workspace(Settings.from_env()).tower(tower)
    added = add_image_tower(folder)
    report({"tower_id": folder.name, "image_branch": str(folder / IMAGE_TOWER_FILE), "added": added}, as_json)


@export_app.command()
def item(
    tower: Annotated[str | None, typer.Argument(help="tower_id; the newest tower by default.")] = None,
    as_json: Json = False,
) -> None:
    """Add the item tower as ONNX, by which a server encodes single lots; the first lot that is put does the same."""
    from models.artefacts.tower_files import add_item_encoder

    folder = Workspace(Settings.from_env()).tower(tower)
    added = add_item_encoder(folder)
    report({"tower_id": folder.name, "added": added}, as_json)
