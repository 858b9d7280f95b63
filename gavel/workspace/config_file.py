"""Read `gavel.toml`: hyperparameters, weights and paths, as the dataclasses that they configure.

A command-line flag outranks a GAVEL_* variable, which outranks the file, which outranks the default. The sections `service` and
`retrieval` become environment variables of this process, unless the variables are already set. So all code, and all processes
that it starts, read one source (docs/adr/0014-one-settings-file.md).
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from retrieval.config.settings import PREFIX, ScoringParameters, Settings, allowed, read_field, write_pairs
from retrieval.errors import InvalidInput, InvalidSettings

CONFIG_FILE = Path("gavel.toml")
CONFIG_VARIABLE = PREFIX + "CONFIG"
NONE = "none"  # TOML has no null
FLAGS = frozenset({"seed", "preset"})  # set by --seed and --preset, not by the file
T = TypeVar("T")


@dataclass(frozen=True)
class Section:
    """A section of the file, which is a TOML table.

    Attributes:
        name: name of the table, with dots if it is nested.
        about: purpose of the section in one line.
        default: returns the dataclass whose fields are the keys of the section; the dataclass is imported on first use.
        environment: True if the keys are GAVEL_* variables, too.
    """

    name: str
    about: str
    default: Callable[[], Any]
    environment: bool = False


def _training() -> Any:
    from models.config.training import TrainingConfig

    return TrainingConfig()


def _buyers() -> Any:
    from models.config.buyers import BuyerTrainingConfig

    return BuyerTrainingConfig()


def _users_items() -> Any:
    from models.config.features import UsersItemsConfig

    return UsersItemsConfig()


def _mining() -> Any:
    from processing.training.mining_rules import MiningRules

    return MiningRules()


def _reranker() -> Any:
    from retrieval.ranker.parameters import BoosterParameters

    return BoosterParameters()


def _distillation() -> Any:
    from models.config.distillation import DistillationConfig

    return DistillationConfig()


def _small_query() -> Any:
    from models.config.distillation import StaticQueryConfig

    return StaticQueryConfig()


SECTIONS = (
    Section("service", "where a process runs, and its limits", Settings, environment=True),
    Section("retrieval", "what an answer means: the same in training and serving", ScoringParameters, environment=True),
    Section("training", "of towers; a key that is not given keeps what was chosen for the catalogue", _training),
    Section("training.buyers", "of the buyer tower", _buyers),
    Section("training.users_items", "of towers over tables of users and items", _users_items),
    Section("mining", "which lots become hard negatives", _mining),
    Section("reranker", "how the re-ranker learns", _reranker),
    Section("distillation", "how `gavel adapt` learns", _distillation),
    Section("small_query", "how `gavel distill query` learns", _small_query),
)


@dataclass(frozen=True)
class ConfigFile:
    """A parsed settings file.

    Attributes:
        path: path of the file.
        text: content of the file.
        tables: parsed content: section name -> table.
    """

    path: Path
    text: str
    tables: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """Read a file and check the names of its sections.

        Raises:
            InvalidSettings: the file cannot be read, is not TOML, or has a section outside SECTIONS.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
            tables = tomllib.loads(text)
        except OSError as error:
            raise InvalidSettings(f"{path} cannot be read: {error.strerror}; name a settings file with --config") from error
        except UnicodeDecodeError as error:
            raise InvalidSettings(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise InvalidSettings(f"{path} is no TOML: {error}") from error
        file = cls(path, text, tables)
        names = list(dict.fromkeys(section.name.split(".")[0] for section in SECTIONS))
        for name, table in tables.items():
            if name not in names:
                raise InvalidSettings(f"{path}{file.line(name)} has no section [{name}]{_suggest(name, names)}")
            if not isinstance(table, Mapping):
                raise InvalidSettings(f"{path}{file.line(name)}: {name} must be a section: write [{name}] with its keys below")
        return file

    def table(self, section: str) -> Mapping[str, Any]:
        """Return the table of a section without nested sections; empty if the file has none."""
        table: Any = self.tables
        for part in section.split("."):
            table = table.get(part, {}) if isinstance(table, Mapping) else {}
        sections = [other.name for other in SECTIONS]
        return {key: value for key, value in table.items() if f"{section}.{key}" not in sections}

    def line(self, name: str, key: str = "") -> str:
        """Return the line of a key, or of its section, as `:line`; "" if a search for the name fails."""
        for table in (f"{name}.{key}", name):
            start = re.search(rf"^\s*(\[+\s*{re.escape(table)}\s*\]|{re.escape(table)}\s*=)", self.text, re.M)
            if start is not None:
                match = re.compile(rf"^\s*{re.escape(key)}\s*=", re.M).search(self.text, start.end()) if key else None
                position = match if match and table == name else start
                return f":{self.text.count(chr(10), 0, position.end()) + 1}"
        return ""

    def locate(self, name: str, key: str) -> str:
        """Return a key with its file and line for a message."""
        return f"{self.path}{self.line(name, key)}: [{name}] {key}"


def find_config(env: Mapping[str, str] = os.environ) -> ConfigFile | None:
    """Read the file that GAVEL_CONFIG names, or gavel.toml in the working directory; return None if there is neither.

    Raises:
        InvalidSettings: the file cannot be read, is not TOML, or has an unknown section.
    """
    if env.get(CONFIG_VARIABLE):
        return ConfigFile.read(Path(env[CONFIG_VARIABLE]))
    return ConfigFile.read(CONFIG_FILE) if CONFIG_FILE.is_file() else None


def use_config(path: Path | None, env: MutableMapping[str, str] = os.environ) -> None:
    """Set the environment variables of a settings file, except those that are already set.

    Args:
        path: settings file; None takes that of find_config().
        env: environment to change.

    Raises:
        InvalidSettings: the file cannot be read, or has an unknown key or an invalid value.
    """
    if path is not None:
        env[CONFIG_VARIABLE] = str(path)
    file = find_config(env)
    if file is None:
        return
    for section in SECTIONS:
        for variable, text in _variables(file, section).items():
            shadowed = variable == PREFIX + "OPENSEARCH_URL" and env.get("OPENSEARCH_URL")
            if not env.get(variable) and not shadowed:
                env[variable] = text


def configured(default: T, section: str) -> T:
    """Return `default` with the values that a section of the settings file sets.

    Raises:
        InvalidSettings: a key is unknown, or a value has a wrong type or is not in its range.
    """
    file = find_config()
    return default if file is None else with_table(file, section, default)


def with_table(file: ConfigFile, section: str, default: T) -> T:
    """Return `default` with the values that a section of a file sets; raises as configured()."""
    try:
        return _apply(file, section, default, file.table(section))
    except InvalidSettings:
        raise
    except InvalidInput as error:
        raise InvalidSettings(f"{file.path}{file.line(section)}: [{section}]: {error}") from error


def check_config(file: ConfigFile) -> int:
    """Read every section of a file and return the number of keys that it sets.

    Raises:
        InvalidSettings: a key is unknown, or a value has a wrong type or is not in its range.
    """
    for section in SECTIONS:
        if section.environment:
            _variables(file, section)
        else:
            with_table(file, section.name, section.default())
    return sum(1 for section in SECTIONS for _ in keys_of(file.table(section.name)))


def origin(section: Section, path: str, file: ConfigFile | None, env: Mapping[str, str] = os.environ) -> str:
    """Return the source of a value: the name of an environment variable, "file" or "default"."""
    variable = PREFIX + path.split(".")[0].upper()
    from_file = _variables(file, section) if file else {}
    if section.environment and env.get(variable) and env[variable] != from_file.get(variable):
        return variable
    if variable == PREFIX + "OPENSEARCH_URL" and env.get("OPENSEARCH_URL") and not env.get(variable):
        return "OPENSEARCH_URL"
    keys = set(keys_of(file.table(section.name))) if file else set()
    return "file" if any(f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.") for key in keys) else "default"


def file_fields(cls: Any) -> dict[str, Field[Any]]:
    """Return the fields of a dataclass that the file may set: not those of flags, nor those that training fits to a catalogue."""
    return {f.name: f for f in fields(cls) if f.name not in FLAGS and not f.metadata.get("fitted")}


def keys_of(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the keys of a table; keys of nested tables are joined by dots, and an empty table is a key of its own."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _variables(file: ConfigFile, section: Section) -> dict[str, str]:
    """Return the variables that a section of the file sets."""
    if not section.environment:
        return {}
    cls = type(section.default())
    keys = {f.name: f for f in fields(cls)}
    variables = {}
    for key, value in file.table(section.name).items():
        field, location = _find_field(file, section.name, key, keys), file.locate(section.name, key)
        if not _fits(field, value):
            raise InvalidSettings(f"{location} is {value!r}; allowed are {allowed(cls, field)}")
        text = write_pairs(value) if isinstance(value, Mapping) else str(value)
        read_field(cls, field, text, location)
        variables[PREFIX + key.upper()] = text
    return variables


def _fits(field: Field[Any], value: Any) -> bool:
    """True if a value has the kind that a field needs: a table, a text, or a number or "none"."""
    if is_dataclass(field.default):
        return isinstance(value, Mapping)
    if isinstance(field.default, (str, Path)):
        return isinstance(value, str)
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or value == NONE


def _apply(file: ConfigFile, section: str, default: T, table: Mapping[str, Any]) -> T:
    cls: Any = type(default)
    keys = file_fields(cls)
    hints = get_type_hints(cls)
    changes = {}
    for key, value in table.items():
        hint = next((f.metadata["fitted"] for f in fields(cls) if f.name == key and f.metadata.get("fitted")), None)
        if hint:
            raise InvalidSettings(f"{file.locate(section, key)} is fitted to the catalogue; {hint}")
        _find_field(file, section, key, keys)
        current = getattr(default, key)
        if is_dataclass(current) and isinstance(value, Mapping):
            changes[key] = _apply(file, f"{section}.{key}", current, value)
        else:
            changes[key] = _typed(file, section, key, hints[key], value)
    return replace(default, **changes)  # type: ignore[type-var]


def _typed(file: ConfigFile, section: str, key: str, hint: Any, value: Any) -> Any:
    """Convert a value of the file to the type of its field."""
    from pydantic import TypeAdapter, ValidationError

    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if value == NONE and NoneType in kinds:
        return None
    item = get_args(kinds[0])[0] if get_origin(kinds[0]) is tuple else None
    if item is not None and is_dataclass(item) and isinstance(value, list):
        return tuple(_create(file, section, key, item, table) for table in value)
    try:
        # validated as JSON, which allows a list for a tuple; strict, so that "20" is not a number and true is not 1
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InvalidSettings(f"{file.locate(section, key)} is {value!r}; {reason[0].lower()}{reason[1:]}") from None


def _create(file: ConfigFile, section: str, key: str, cls: Any, table: Any) -> Any:
    """Create a dataclass from one table of a list of tables."""
    name = f"{section}.{key}"
    if not isinstance(table, Mapping):
        raise InvalidSettings(f"{file.locate(section, key)} holds {table!r}; it must be a list of tables: write [[{name}]]")
    keys = {f.name: f for f in fields(cls)}
    hints = get_type_hints(cls)
    values = {k: _typed(file, name, k, hints[_find_field(file, name, k, keys).name], value) for k, value in table.items()}
    lacking = [f.name for f in keys.values() if f.default is MISSING and f.default_factory is MISSING and f.name not in values]
    if lacking:
        raise InvalidSettings(f"{file.path}{file.line(name)}: a table of [[{name}]] lacks {', '.join(lacking)}")
    return cls(**values)


def _find_field(file: ConfigFile, section: str, key: str, keys: Mapping[str, Field[Any]]) -> Field[Any]:
    if key not in keys:
        flag = f"; it is a flag: --{key}" if key in FLAGS else _suggest(key, list(keys))
        raise InvalidSettings(f"{file.path}{file.line(section, key)}: [{section}] has no key {key!r}{flag}")
    return keys[key]


def _suggest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"{f'; did you mean {near[0]!r}?' if near else ';'} allowed are {', '.join(names)}"
