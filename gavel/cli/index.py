"""`gavel index [RELEASE]`, `gavel index probe` and `gavel index advise`."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from benchmarks.cli.advise import advise
from gavel.cli.release import index
from gavel.workspace.entry import EXIT_ERROR, say
from gavel.workspace.options import Json, report
from retrieval.config.settings import Settings

DEFAULT = "build"


class _WithDefault(TyperGroup):
    """What names no sub-command is meant for the first: `gavel index RELEASE` is `gavel index build RELEASE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else [DEFAULT, *args])


def probe(
    seed: Annotated[int, typer.Option(min=0, help="Draws other lots.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure how much of the exact answer the live index finds, over lots drawn from all of it; exit status 1 below .95."""
    from gavel.workspace.wiring import open_store
    from retrieval.ingestion import MIN_RECALL, low_recall, probe_index

    live = open_store(Settings.from_env()).live()
    live.refresh()
    recall = probe_index(live, seed)
    report({"index": live.name, "tower_id": live.tower_id, "lots": live.count(), "recall@10": recall}, as_json)
    if recall < MIN_RECALL:
        say(low_recall(live.name, recall))
        raise typer.Exit(EXIT_ERROR)


index_app = typer.Typer(cls=_WithDefault, help="Index a release and make it live: `gavel index [RELEASE]`; measure or choose one.")
index_app.command(DEFAULT)(index)
index_app.command()(probe)
index_app.command()(advise)
