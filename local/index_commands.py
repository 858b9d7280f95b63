"""`gavel index [RELEASE]` and `gavel index advise`."""

from typing import Any

import typer
from typer.core import TyperGroup

from local.advise_command import advise
from local.release_commands import index

DEFAULT = "build"


class _WithDefault(TyperGroup):
    """What names no sub-command is meant for the first: `gavel index RELEASE` is `gavel index build RELEASE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else [DEFAULT, *args])


index_app = typer.Typer(cls=_WithDefault, help="Index a release and make it live: `gavel index [RELEASE]`; or choose an index.")
index_app.command(DEFAULT)(index)
index_app.command()(advise)
