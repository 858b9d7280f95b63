"""`gavel config …`: show the settings in force, and check a settings file."""

from pathlib import Path
from typing import Annotated

import typer

from gavel.workspace.config_file import ConfigFile, check_config, find_config
from gavel.workspace.config_text import all_settings, as_toml, config_text
from gavel.workspace.console import notes, show_values
from gavel.workspace.options import Json, print_json, report

config_app = typer.Typer(no_args_is_help=True, help="Show the settings in force, or check a gavel.toml.")


@config_app.command()
def show(
    as_json: Json = False,
    toml: Annotated[bool, typer.Option("--toml", help="Print a settings file with every key, its meaning and its value.")] = False,
) -> None:
    """Print every setting with its value and where it comes from: the default, gavel.toml, or a variable."""
    file = find_config()
    settings = all_settings(file)
    if toml:
        print(config_text(settings), end="")
    elif as_json:
        sections: dict[str, dict[str, object]] = {}
        for setting in settings:
            sections.setdefault(setting.section, {})[setting.key] = {"value": setting.value, "origin": setting.origin}
        print_json({"file": file and str(file.path), "settings": sections})
    else:
        if file:
            notes.print(f"settings file: {file.path}", markup=False, highlight=False, soft_wrap=True)
        show_values({f"{s.section}.{s.key}": as_toml(s.value) + _set_by(s.origin) for s in settings})


def _set_by(origin: str) -> str:
    return "" if origin == "default" else f"   ({origin})"


@config_app.command()
def check(file: Annotated[Path, typer.Argument(help="Settings file.")] = Path("gavel.toml"), as_json: Json = False) -> None:
    """Check every section of a settings file, and report the first mistake."""
    keys = check_config(ConfigFile.read(file))
    report({"file": str(file), "keys": keys, "state": "sound"}, as_json)
