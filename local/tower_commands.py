"""`gavel export`: what a tower of an older version lacks."""

from typing import Annotated

import typer

from local.command_options import Json, report
from local.home import Home
from retrieval.settings import Settings
from retrieval.tower import IMAGE_TOWER_FILE


def export(
    tower: Annotated[str | None, typer.Argument(help="tower_id; the newest tower by default.")] = None,
    as_json: Json = False,
) -> None:
    """Give a tower the image branch that searches by photo encode with, where an older version saved it without."""
    from models.artefact import add_image_tower

    folder = Home(Settings.from_env()).tower(tower)
    added = add_image_tower(folder)
    report({"tower_id": folder.name, "image_branch": str(folder / IMAGE_TOWER_FILE), "added": added}, as_json)
