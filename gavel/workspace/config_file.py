"""`gavel.toml`: hyperparameters, weights and paths in one file, read into the dataclasses that the code takes anyway.

A command-line flag outranks a GAVEL_* variable, that the file, that the default. What variables can say, the file says by them: its
sections `service` and `retrieval` become variables of this process that are not set yet, so all code, and what it starts, reads one
source (docs/adr/0014-one-settings-file.md).
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
FLAGS = frozenset({"seed", "preset", "features"})  # of other origin than the file: --seed, --preset, and the catalogue
T = TypeVar("T")


@dataclass(frozen=True)
class Section:
    """A table of the file.

    Attributes:
        name: dots for a table within a table.
        about: what it is for, in a line.
        default: makes the dataclass whose fields are its keys.
        environment: whether its keys are GAVEL_* variables, too.
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
    from models.config.distillation import SmallQueryConfig

    return SmallQueryConfig()


SECTIONS = (
    Section("service", "where a process runs, and its limits", Settings, environment=True),
    Section("retrieval", "what an answer means: the same in training and serving", ScoringParameters, environment=True),
    Section("training", "of towers; a key that is not given keeps what was chosen for the catalogue", _training),
    Section("training.buyers", "of the buyer tower", _buyers),
    Section("mining", "which lots become hard negatives", _mining),
    Section("reranker", "how the re-ranker learns", _reranker),
    Section("distillation", "how `gavel adapt` learns", _distillation),
    Section("small_query", "how `gavel distill query` learns", _small_query),
)


@dataclass(frozen=True)
class ConfigFile:
    """A settings file that could be parsed.

    Attributes:
        path: where it lies.
        text: what stands in it.
        tables: the same, parsed.
    """

    path: Path
    text: str
    tables: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """Read a file, and see whether it has other sections than SECTIONS.

        Raises:
            InvalidSettings: it cannot be read, is no TOML, or has a section that nothing reads.
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
        made = cls(path, text, tables)
        known = list(dict.fromkeys(section.name.split(".")[0] for section in SECTIONS))
        for name, table in tables.items():
            if name not in known:
                raise InvalidSettings(f"{path}{made.line(name)} has no section [{name}]{_meant(name, known)}")
            if not isinstance(table, Mapping):
                raise InvalidSettings(f"{path}{made.line(name)}: {name} must be a section: write [{name}] with its keys below")
        return made

    def table(self, section: str) -> Mapping[str, Any]:
        """The table of a section without those within it that are sections of their own; empty where the file has none."""
        table: Any = self.tables
        for part in section.split("."):
            table = table.get(part, {}) if isinstance(table, Mapping) else {}
        own = [other.name for other in SECTIONS]
        return {key: value for key, value in table.items() if f"{section}.{key}" not in own}

    def line(self, name: str, key: str = "") -> str:
        """Where a key of a section stands, as `:line`; empty where a search by its name does not find it."""
        for table in (f"{name}.{key}", name):
            start = re.search(rf"^\s*(\[+\s*{re.escape(table)}\s*\]|{re.escape(table)}\s*=)", self.text, re.M)
            if start is not None:
                own = re.compile(rf"^\s*{re.escape(key)}\s*=", re.M).search(self.text, start.end()) if key else None
                place = own if own and table == name else start
                return f":{self.text.count(chr(10), 0, place.end()) + 1}"
        return ""

    def where(self, name: str, key: str) -> str:
        """A key of a section, with its file and line, for a message."""
        return f"{self.path}{self.line(name, key)}: [{name}] {key}"


def find_config(env: Mapping[str, str] = os.environ) -> ConfigFile | None:
    """The file that GAVEL_CONFIG names, else gavel.toml of the working directory, else None.

    Raises:
        InvalidSettings: it cannot be read.
    """
    if env.get(CONFIG_VARIABLE):
        return ConfigFile.read(Path(env[CONFIG_VARIABLE]))
    return ConfigFile.read(CONFIG_FILE) if CONFIG_FILE.is_file() else None


def use_config(path: Path | None, env: MutableMapping[str, str] = os.environ) -> None:
    """Let a file speak for the variables of this process that are not set.

    Args:
        path: the file; None takes the one that find_config() finds.
        env: the environment.

    Raises:
        InvalidSettings: the file cannot be read, or a key of it has no or a wrong meaning.
    """
    if path is not None:
        env[CONFIG_VARIABLE] = str(path)
    found = find_config(env)
    if found is None:
        return
    for section in SECTIONS:
        for variable, text in _variables(found, section).items():
            shadowed = variable == PREFIX + "OPENSEARCH_URL" and env.get("OPENSEARCH_URL")
            if not env.get(variable) and not shadowed:
                env[variable] = text


def configured(default: T, section: str) -> T:
    """A dataclass with what the settings file says of it.

    Raises:
        InvalidSettings: a key is unknown, or a value is of a wrong type or out of its range.
    """
    found = find_config()
    return default if found is None else with_table(found, section, default)


def with_table(file: ConfigFile, section: str, default: T) -> T:
    """As configured(), of a file."""
    try:
        return _changed(file, section, default, file.table(section))
    except InvalidSettings:
        raise
    except InvalidInput as error:
        raise InvalidSettings(f"{file.path}{file.line(section)}: [{section}]: {error}") from error


def check_config(file: ConfigFile) -> int:
    """Read every section of a file; returns how many keys it sets.

    Raises:
        InvalidSettings: a key is unknown, or a value is of a wrong type or out of its range.
    """
    for section in SECTIONS:
        if section.environment:
            _variables(file, section)
        else:
            with_table(file, section.name, section.default())
    return sum(1 for section in SECTIONS for _ in given_keys(file.table(section.name)))


def origin(section: Section, path: str, file: ConfigFile | None, env: Mapping[str, str] = os.environ) -> str:
    """Where the value of a key comes from: its variable's name, "file" or "default"."""
    variable = PREFIX + path.split(".")[0].upper()
    of_file = _variables(file, section) if file else {}
    if section.environment and env.get(variable) and env[variable] != of_file.get(variable):
        return variable
    if variable == PREFIX + "OPENSEARCH_URL" and env.get("OPENSEARCH_URL") and not env.get(variable):
        return "OPENSEARCH_URL"
    given = set(given_keys(file.table(section.name))) if file else set()
    return "file" if any(f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.") for key in given) else "default"


def given_keys(table: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The keys of a table, those of tables within it behind dots."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from given_keys(value, f"{before}{key}.")
        else:
            yield before + key


def _variables(file: ConfigFile, section: Section) -> dict[str, str]:
    """The variables that a section of the file stands for."""
    if not section.environment:
        return {}
    cls = type(section.default())
    known = {f.name: f for f in fields(cls)}
    variables = {}
    for key, value in file.table(section.name).items():
        of, where = _known(file, section.name, key, known), file.where(section.name, key)
        if not _fits(of, value):
            raise InvalidSettings(f"{where} is {value!r}; allowed are {allowed(cls, of)}")
        text = write_pairs(value) if isinstance(value, Mapping) else str(value)
        read_field(cls, of, text, where)
        variables[PREFIX + key.upper()] = text
    return variables


def _fits(of: Field[Any], value: Any) -> bool:
    """Whether a value of the file is of the kind of a field: a table, a text, or a number, which may be none."""
    if is_dataclass(of.default):
        return isinstance(value, Mapping)
    if isinstance(of.default, (str, Path)):
        return isinstance(value, str)
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or value == NONE


def _changed(file: ConfigFile, section: str, default: T, table: Mapping[str, Any]) -> T:
    cls: Any = type(default)
    known = {f.name: f for f in fields(cls) if f.name not in FLAGS}
    hints = get_type_hints(cls, localns={"FeatureSpec": object})
    changes = {}
    for key, value in table.items():
        _known(file, section, key, known)
        current = getattr(default, key)
        if is_dataclass(current) and isinstance(value, Mapping):
            changes[key] = _changed(file, f"{section}.{key}", current, value)
        else:
            changes[key] = _typed(file, section, key, hints[key], value)
    return replace(default, **changes)  # type: ignore[type-var]


def _typed(file: ConfigFile, section: str, key: str, hint: Any, value: Any) -> Any:
    """A value of the file in the type of its field."""
    from pydantic import TypeAdapter, ValidationError

    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if value == NONE and NoneType in kinds:
        return None
    item = get_args(kinds[0])[0] if get_origin(kinds[0]) is tuple else None
    if item is not None and is_dataclass(item) and isinstance(value, list):
        return tuple(_made(file, section, key, item, table) for table in value)
    try:
        # JSON, in which a list is how a tuple is written: strict otherwise, so that "20" is no number and true no 1
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise InvalidSettings(f"{file.where(section, key)} is {value!r}; {said[0].lower()}{said[1:]}") from None


def _made(file: ConfigFile, section: str, key: str, cls: Any, table: Any) -> Any:
    """One of a list of tables."""
    name = f"{section}.{key}"
    if not isinstance(table, Mapping):
        raise InvalidSettings(f"{file.where(section, key)} holds {table!r}; it must be a list of tables: write [[{name}]]")
    known = {f.name: f for f in fields(cls)}
    hints = get_type_hints(cls)
    values = {k: _typed(file, name, k, hints[_known(file, name, k, known).name], value) for k, value in table.items()}
    lacking = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING and f.name not in values]
    if lacking:
        raise InvalidSettings(f"{file.path}{file.line(name)}: a table of [[{name}]] lacks {', '.join(lacking)}")
    return cls(**values)


def _known(file: ConfigFile, section: str, key: str, known: Mapping[str, Field[Any]]) -> Field[Any]:
    if key not in known:
        flag = f"; it is a flag: --{key}" if key in FLAGS - {"features"} else _meant(key, list(known))
        raise InvalidSettings(f"{file.path}{file.line(section, key)}: [{section}] has no key {key!r}{flag}")
    return known[key]


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{f'; did you mean {near[0]!r}?' if near else ';'} allowed are {', '.join(known)}"
