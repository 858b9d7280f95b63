"""Options and output that the commands share."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gavel.workspace.console import show_values
from models.towers.config import PhotoUse
from retrieval.config.settings import QueryTowerKind

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
QueryTower = Annotated[QueryTowerKind | None, typer.Option(help="Query tower that encodes queries; GAVEL_QUERY_TOWER by default.")]
UsePhotos = Annotated[
    PhotoUse | None,
    typer.Option(
        help="auto trains without and with photos, and reads them only if that is better on the val queries; always; never. "
        "auto by default."
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(min=1e-3, help="Stop training after this many seconds, with exit status 3; the same command again goes on."),
]
CatalogOption = Annotated[Path | None, typer.Option("--catalog", help="Catalogue folder; the newest catalogue by default.")]


def report(values: dict[str, Any], as_json: bool) -> None:
    """Print named values, as a table or as JSON."""
    if as_json:
        print_json(values)
    else:
        show_values(values)


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))
