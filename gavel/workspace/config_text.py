"""List all settings with their values and sources, or as the text of a settings file."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from inspect import getdoc
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gavel.workspace.config_file import NONE, SECTIONS, ConfigFile, Section, file_fields, origin, with_table

HEAD = """\
# Settings of Gavel. A command-line flag outranks a GAVEL_* variable, that this file, that the default.
# `#key = value` is a default: take the # away to set it. `gavel config check FILE` tells what is wrong.
"""


@dataclass(frozen=True)
class Setting:
    """One key of the settings file.

    Attributes:
        section: name of the section.
        key: name within the section, with dots for nested tables.
        value: value in force.
        origin: source of the value: "default", "file", or the name of an environment variable.
        about: meaning of the key in a sentence.
    """

    section: str
    key: str
    value: Any
    origin: str
    about: str


def all_settings(file: ConfigFile | None) -> list[Setting]:
    """Return every key of every section with the value in force.

    Raises:
        InvalidSettings: a variable or a key of the file cannot be read.
    """
    return [setting for section in SECTIONS for setting in _settings(section, file)]


def config_text(settings: list[Setting]) -> str:
    """Return the text of a settings file with every key, defaults as comments. Reading the file gives the same settings."""
    lines, table = [HEAD.rstrip()], ""
    about = {section.name: section.about for section in SECTIONS}
    for setting in settings:
        prefix, _, key = setting.key.rpartition(".")
        name = f"{setting.section}.{prefix}" if prefix else setting.section
        if name != table:
            lines += ["", f"[{name}]  # {about[name]}" if name in about else f"[{name}]"]
            table = name
        lines += [f"# {setting.about}"] if setting.about else []
        lines.append(f"{'#' if setting.origin == 'default' else ''}{key} = {as_toml(setting.value)}")
    return "\n".join(lines) + "\n"


def as_toml(value: Any) -> str:
    """Format a value as TOML; None becomes "none"."""
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_toml, value))}]"
    if is_dataclass(value) and not isinstance(value, type):
        return as_toml({key: item for key, item in asdict(value).items() if item is not None})
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _settings(section: Section, file: ConfigFile | None) -> Iterator[Setting]:
    default = section.default()
    if section.environment:
        default = type(default).from_env()
    elif file is not None:
        default = with_table(file, section.name, default)
    for key, value, about in _leaves(default):
        yield Setting(section.name, key, value, origin(section, key, file), about)


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield (key, value, meaning) of a dataclass: plain keys first, then those of nested dataclasses, as TOML needs."""
    about, hints = _about(type(values)), get_type_hints(type(values))
    shown = list(file_fields(type(values)))
    nested = [name for name in shown if is_dataclass(getattr(values, name))]
    for name in shown:
        if name not in nested:
            choices = f" Allowed: {', '.join(get_args(hints[name]))}." if get_origin(hints[name]) is Literal else ""
            yield prefix + name, getattr(values, name), about.get(name, "") + choices
    for name in nested:
        yield from _leaves(getattr(values, name), f"{prefix}{name}.")


def _about(cls: type) -> dict[str, str]:
    """Return attribute -> meaning, read from a dataclass's docstring."""
    lines = (getdoc(cls) or "").partition("Attributes:\n")[2].splitlines()
    meanings: dict[str, str] = {}
    name = ""
    for line in lines:
        if line and not line.startswith(" "):
            break
        start, colon, rest = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            name, meanings[start] = start, rest
        elif name and line.strip():
            meanings[name] += f" {line.strip()}"
    return {name: f"{text[:1].upper()}{text[1:]}" for name, text in meanings.items()}
