"""`gavel sanity`: check that a tower gets the obvious right."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from gavel.workspace.console import console, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from processing.evaluation.sanity import SanityModel, SanityResult

EXIT_FAILED = 1


def sanity(
    tower: Annotated[str | None, typer.Option(help="tower_id; the newest tower by default.")] = None,
    model: Annotated[str, typer.Option(help="Check an untrained sentence encoder instead: preset, hub name or folder.")] = "",
    checks: Annotated[Path | None, typer.Option(help="File of your own checks, TOML or YAML.")] = None,
    as_json: Json = False,
) -> None:
    """Check that a tower gets the obvious right: what is alike, what is not, what a buyer gets; exit status 1 if not."""
    from processing.evaluation.sanity import CHECKS_FILE, SanityChecks, run_sanity_checks

    if tower and model:
        raise InvalidInput("give --tower or --model, not both")
    path = checks or CHECKS_FILE
    planned = SanityChecks.load(path)
    subject = _sentence_encoder(model) if model else _tower(tower)
    results = run_sanity_checks(planned, subject)
    failed = sum(not result.holds for result in results)
    if as_json:
        print_json({"model": subject.name, "checks_file": str(path), "holds": not failed, "checks": [asdict(r) for r in results]})
    else:
        rows = [
            (escape(r.about), escape(" · ".join(r.request)), _answer(r), escape(r.required), "yes" if r.holds else "[bold]no[/]")
            for r in results
        ]
        show_table(f"Sanity of {escape(subject.name)}", ("check", "asked", "came back", "required", "holds"), rows, right_from=5)
        console.print(f"{len(results) - failed} of {len(results)} checks hold", highlight=False)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _tower(tower_id: str | None) -> "SanityModel":
    from gavel.workspace.wiring import find_tower, load_buyers, load_encoder
    from models.artefacts.item_encoder import ItemEncoder
    from processing.evaluation.sanity import SanityModel

    settings = Settings.from_env()
    tower_id = tower_id or Workspace(settings).tower(None).name
    items = ItemEncoder.load(find_tower(settings, tower_id))
    return SanityModel(
        tower_id,
        load_encoder(settings, tower_id).encode,
        lambda texts: items.encode(texts, [None] * len(texts)),
        load_buyers(settings, tower_id),
    )


def _sentence_encoder(model: str) -> "SanityModel":
    from processing.evaluation.sanity import SanityModel
    from processing.evaluation.zero_shot import SentenceEncoder

    encoder = SentenceEncoder(model)
    return SanityModel(encoder.model, encoder.encode, encoder.encode)


def _answer(result: "SanityResult") -> str:
    if isinstance(result.answer, float):
        return f"{result.answer:.3f}"
    return escape("\n".join(f"{item['title']} ({item['group']})" for item in result.answer))
