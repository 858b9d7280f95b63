"""Settings as people read them: every key with its value and where that comes from, and the file that says the same."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from inspect import getdoc
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gavel.workspace.config_file import FLAGS, NONE, SECTIONS, ConfigFile, Section, origin, with_table

HEAD = """\
# Settings of Gavel. A command-line flag outranks a GAVEL_* variable, that this file, that the default.
# `#key = value` is a default: take the # away to set it. `gavel config check FILE` tells what is wrong.
"""


@dataclass(frozen=True)
class Setting:
    """One key.

    Attributes:
        section: of the file.
        key: within the section; dots for tables within it.
        value: in force.
        origin: where it comes from: default, file, or the name of a variable.
        about: what it means, in a sentence.
    """

    section: str
    key: str
    value: Any
    origin: str
    about: str


def all_settings(file: ConfigFile | None) -> list[Setting]:
    """Every key of every section, with the value that is in force.

    Raises:
        InvalidSettings: a variable or a key of the file cannot be read.
    """
    return [setting for section in SECTIONS for setting in _settings(section, file)]


def config_text(settings: list[Setting]) -> str:
    """A settings file with every key: those that are set, and the defaults as comments. It reads back to the same."""
    lines, table = [HEAD.rstrip()], ""
    about = {section.name: section.about for section in SECTIONS}
    for setting in settings:
        before, _, key = setting.key.rpartition(".")
        name = f"{setting.section}.{before}" if before else setting.section
        if name != table:
            lines += ["", f"[{name}]  # {about[name]}" if name in about else f"[{name}]"]
            table = name
        lines += [f"# {setting.about}"] if setting.about else []
        lines.append(f"{'#' if setting.origin == 'default' else ''}{key} = {as_toml(setting.value)}")
    return "\n".join(lines) + "\n"


def as_toml(value: Any) -> str:
    """A value as TOML writes it; what is not there is "none"."""
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


def _leaves(values: Any, before: str = "") -> Iterator[tuple[str, Any, str]]:
    """The keys of a dataclass with their values: its own first, then those of dataclasses in it, as TOML needs them."""
    about, hints = _about(type(values)), get_type_hints(type(values), localns={"FeatureSpec": object})
    shown = [f.name for f in fields(values) if f.name not in FLAGS]
    nested = [name for name in shown if is_dataclass(getattr(values, name))]
    for name in shown:
        if name not in nested:
            choices = f" Allowed: {', '.join(get_args(hints[name]))}." if get_origin(hints[name]) is Literal else ""
            yield before + name, getattr(values, name), about.get(name, "") + choices
    for name in nested:
        yield from _leaves(getattr(values, name), f"{before}{name}.")


def _about(cls: type) -> dict[str, str]:
    """What a dataclass's docstring says of its attributes."""
    lines = (getdoc(cls) or "").partition("Attributes:\n")[2].splitlines()
    told: dict[str, str] = {}
    name = ""
    for line in lines:
        if line and not line.startswith(" "):
            break
        start, colon, rest = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            name, told[start] = start, rest
        elif name and line.strip():
            told[name] += f" {line.strip()}"
    return {name: f"{text[:1].upper()}{text[1:]}" for name, text in told.items()}
