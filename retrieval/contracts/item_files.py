"""Items of catalogue files: columns as people have them, values by what the whole column says, every row an item or a reject."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from retrieval.contracts.attributes import read_attributes
from retrieval.contracts.item_columns import MAX_LISTED, Column, ColumnMap, map_columns, require_fields, unique_names
from retrieval.contracts.items import ALIASES, REQUIRED, AttributeValue, Item, Reject, parse_item
from retrieval.contracts.table_files import NumberedRow, TableFile, open_table
from retrieval.contracts.written_values import (
    DATE_ORDERS,
    DECIMAL_SIGNS,
    NUMBER_FIELDS,
    TIME_FIELDS,
    Convention,
    currency_of,
    html_text,
    is_empty_marker,
    read_date,
    read_number,
)
from retrieval.errors import InvalidInput
from retrieval.files import reason_of
from retrieval.text.analysis import fold_name

MAX_ID_CHARS = 100  # a longer id of a rejected row is cut in the report
MAX_NAMES = 10_000  # names of columns that are collected from the objects of a JSON file
CACHED_FILES = 4_096
HIVE_FOLDER = re.compile(r"([A-Za-z_][\w.-]*)=(.+)")
HIVE_EMPTY = "__HIVE_DEFAULT_PARTITION__"
_PHOTO_LIST = re.compile(r"\s*[,;|]\s*")
_ADDRESS_START = re.compile(r"(?:https?|s3)://", re.IGNORECASE)
_BEFORE_ADDRESS = re.compile(r"[\s,;|]+(?=(?:https?|s3)://)", re.IGNORECASE)  # an address may have commas itself
_PHOTO = re.compile(r"(?:https?|s3)://\S+|.+\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options of reading catalogue files, as the user gave them.

    Attributes:
        columns: field -> names of its columns, as parse_columns() returns them.
        decimal: decimal sign of numbers that are text, "comma" or "point"; None decides by the whole column.
        dates: order of dates such as 03/04/2026, "day-first" or "month-first"; None decides by the whole column.
        encoding: encoding of text files; None finds it.
        attributes: names of the attributes to keep; None keeps all, and an empty tuple none.
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    decimal: str | None = None
    dates: str | None = None
    encoding: str | None = None
    attributes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for option, value, allowed in (("decimal", self.decimal, DECIMAL_SIGNS), ("dates", self.dates, DATE_ORDERS)):
            if value is not None and value not in allowed:
                raise InvalidInput(f"--{option} is {value!r}; allowed are {' and '.join(allowed)}")


DEFAULT_OPTIONS = ReadOptions()


@dataclass
class ReadingLog:
    """Notices and counts of the files that were read, for the user; filled by numbered_items().

    Attributes:
        notices: notice -> names of the files that it is about.
        empty_values: field -> number of its values that stand for none, such as NULL or NaN.
        attributes_left_out: reason -> number of values that were not kept as attributes.
        without_items: names of files that gave no item -> number of their rows.
        passed_over: what was passed over in folders, with the reason.
    """

    notices: dict[str, list[str]] = field(default_factory=dict)
    empty_values: Counter[str] = field(default_factory=Counter)
    attributes_left_out: Counter[str] = field(default_factory=Counter)
    without_items: dict[str, int] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the notices as lines of text."""
        lines = []
        for notice, files in self.notices.items():
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            lines.append(f"{files[0]}{more}: {notice}")
        if self.empty_values:
            counts = ", ".join(f"{field} {count:,}" for field, count in self.empty_values.most_common())
            lines.append(f"values such as NULL, NaN, inf and 0000-00-00 were read as empty: {counts}")
        if self.attributes_left_out:
            counts = ", ".join(f"{count:,} for {reason}" for reason, count in self.attributes_left_out.most_common())
            lines.append(f"attributes that were left out: {counts}")
        if self.passed_over:
            more = f" and {len(self.passed_over) - 5:,} more" if len(self.passed_over) > 5 else ""
            lines.append(f"passed over: {', '.join(self.passed_over[:5])}{more}")
        return lines


@dataclass(frozen=True)
class ReadingPlan:
    """The rules by which the rows of one file become items, from its header and, for text, its whole columns.

    Attributes:
        table: the file.
        keys: keys of its rows, or None if it has no header.
        columns: column of each field.
        conventions: field -> convention of the texts in its column.
        folders: values from the names of the file's folders, such as {"category": "vases"} of category=vases/.
        chosen_attributes: folded names of the attributes to keep; None keeps all.
        notices: what the user should know.
    """

    table: TableFile
    keys: tuple[str, ...] | None
    columns: ColumnMap
    conventions: Mapping[str, Convention]
    folders: Mapping[str, str]
    chosen_attributes: frozenset[str] | None
    notices: tuple[str, ...]

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        """Yield the rows with the columns that are used; a CSV row that lacks one of them is a reason."""
        used = self.columns.keys()
        stored = [key for key in used if key not in self.folders]
        last = self.keys[-1] if self.keys and self.table.kind == "csv" else None
        of_attributes = [key for column in self.columns.attributes for key in (column.key, column.name_key) if key]
        for line, row in self.table.rows(self.keys, [*stored, *of_attributes]):
            if last is not None and not isinstance(row, str) and row[last] is None and any(row[key] is None for key in stored):
                cells = sum(value is not None for value in row.values())
                yield line, f"the row has {cells} cells, the header {len(row)}: it was cut, or a separator is missing"
            else:
                yield line, row if isinstance(row, str) or not self.folders else {**self.folders, **row}

    def values(self, row: Mapping[str, Any], empty_values: Counter[str]) -> dict[str, Any]:
        """Return field -> value of a row, for parse_item().

        Args:
            row: a row of rows().
            empty_values: counts, by field, values that stand for none.

        Raises:
            InvalidInput: a value cannot be read.
        """
        values: dict[str, Any] = {}
        for name, columns in self.columns.fields.items():
            for column in columns:
                value = column.value(row)
                if value is None:
                    continue
                if name not in REQUIRED and is_empty_marker(name, value):
                    empty_values[name] += 1
                    continue
                values[name] = self._convert(name, value)
                break
        return values

    def attributes(self, row: Mapping[str, Any], left_out: Counter[str]) -> dict[str, AttributeValue]:
        """Return the attributes of a row; `left_out` counts, by reason, values that cannot be kept."""
        attributes = read_attributes((column.named_value(row) for column in self.columns.attributes), left_out)
        if self.chosen_attributes is None:
            return attributes
        return {name: value for name, value in attributes.items() if fold_name(name) in self.chosen_attributes}

    def _convert(self, name: str, value: Any) -> Any:
        if name in ("title", "description") and isinstance(value, str):
            return html_text(value)
        if name in ("image", "more_images"):
            return photo_list(value)
        if name == "category":
            return _category(value)
        if name == "current_price" and isinstance(value, Mapping):
            value = value.get("amount", value.get("value", value))
        if name in self.conventions and isinstance(value, str):
            return self.conventions[name].value(value)
        return value


def read_items(path: Path, options: ReadOptions = DEFAULT_OPTIONS, log: ReadingLog | None = None) -> Iterator[Item | Reject]:
    """Read a catalogue file row by row, in the order of the file.

    Args:
        path: path of a file in one of the formats of table_files.SUFFIXES.
        options: what the user says about the file.
        log: gets notices and counts.

    Yields:
        An Item per valid row; for others a Reject with the line number (text) or row number (parquet, JSON list), from 1.

    Raises:
        InvalidInput: the file cannot be read at all, has no column for a required field, or has a column of prices or dates
            that can be read in two ways; the message names the option that tells them apart.
    """
    for _, row in numbered_items(path, options, log):
        yield row


def numbered_items(
    path: Path, options: ReadOptions = DEFAULT_OPTIONS, log: ReadingLog | None = None
) -> Iterator[tuple[int, Item | Reject]]:
    """Yield the results of read_items(), each with its line or row number."""
    log = log if log is not None else ReadingLog()
    plan = plan_reading(path, options)
    for notice in plan.notices:
        log.notices.setdefault(notice, []).append(path.name)
    previous, items, rows = "", 0, 0
    for line, row in plan.rows():
        rows += 1
        if isinstance(row, str):
            yield line, Reject(path.name, line, row)
            continue
        item_id = _id_of(row, plan.columns.fields.get("item_id", ()))
        try:
            values = plan.values(row, log.empty_values)
            if item_id and item_id == previous and not str(values.get("title", "")).strip():
                raise InvalidInput("the row has the id of the row before and no title: a further variant or photo of that lot")
            item = parse_item(values, attributes=plan.attributes(row, log.attributes_left_out))
            items += 1
            yield line, item
        except InvalidInput as error:
            yield line, Reject(path.name, line, str(error), item_id)
        previous = item_id or ""
    if not items:
        log.without_items[path.name] = rows


def read_item(row: Mapping[str, Any]) -> Item:
    """Read a row that stands in no file, as if it were the only line of an NDJSON file.

    Raises:
        InvalidInput: the row breaks the item contract, or has a price or date that can be read in two ways.
    """
    log = ReadingLog()
    plan = _plan_table(_SingleRow(Path("the row"), "ndjson", row=row), DEFAULT_OPTIONS, {})
    return parse_item(plan.values(row, log.empty_values), attributes=plan.attributes(row, log.attributes_left_out))


@dataclass(frozen=True, slots=True)
class _SingleRow(TableFile):
    """A row in memory in the place of a file."""

    row: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, names: Sequence[str] | None = None, only: Sequence[str] | None = None) -> Iterator[NumberedRow]:
        yield 1, self.row


def plan_reading(path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> ReadingPlan:
    """Decide how to read a file. Text files are read once for it, row by row; a plan is reused until the file changes.

    Raises:
        InvalidInput: as for read_items().
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {reason_of(error)}") from error
    return _plan_reading(path, options, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=CACHED_FILES)
def _plan_reading(path: Path, options: ReadOptions, size: int, mtime_ns: int) -> ReadingPlan:
    """Plan as plan_reading() does; the cache recognises a change by size and time."""
    return _plan_table(open_table(path, options.encoding), options, hive_values(path))


def _plan_table(table: TableFile, options: ReadOptions, hive: Mapping[str, str]) -> ReadingPlan:
    """Plan the reading of a table; `hive` has the values in the names of its folders."""
    path, chosen = table.path, dict(options.columns)
    keys = None if table.names is None else tuple(unique_names(table.names))
    names = list(keys) if keys is not None else _names_of_objects(table)
    folders = {name: value for name, value in hive.items() if name not in names}
    columns = map_columns([*names, *folders], chosen, str(path))
    if keys is not None:
        require_fields(columns, names, str(path))
    columns = _with_attributes(columns, options.attributes, {*folders, *table.unread_columns}, str(path))
    names_chosen = None if options.attributes is None else frozenset(map(fold_name, options.attributes))
    choices: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(NUMBER_FIELDS, (DECIMAL_SIGNS, "--decimal", read_number, options.decimal)),
        **dict.fromkeys(TIME_FIELDS, (DATE_ORDERS, "--dates", read_date, options.dates)),
    }
    conventions = {name: Convention(name, *choices[name]) for name in choices if name in columns.fields}
    plan = ReadingPlan(table, keys, columns, conventions, folders, names_chosen, ())
    currencies = _observe(plan)
    _decide(conventions, path)
    return replace(plan, notices=tuple(_notices(plan, currencies)))


def _with_attributes(columns: ColumnMap, selection: Sequence[str] | None, unread: Collection[str], where: str) -> ColumnMap:
    """Leave out columns that hold no attribute to keep; they are unused.

    Args:
        columns: columns of a file.
        selection: names of the attributes to keep; None keeps all.
        unread: columns that hold no attribute.
        where: name of the file, for the message.

    Raises:
        InvalidInput: no column can hold an attribute to keep.
    """
    readable = [column for column in columns.attributes if column.key not in unread]
    names = None if selection is None else set(map(fold_name, selection))
    held = [column for column in readable if names is None or (names and (not column.name or fold_name(column.name) in names))]
    by_name = {fold_name(column.name) for column in held}
    missing = [name for name in selection or () if fold_name(name) not in by_name]
    if missing and all(column.name for column in held):
        listed = ", ".join(f"`{column.name}`" for column in readable[:MAX_LISTED]) or "none"
        raise InvalidInput(f"{where} has no attribute `{missing[0]}`, which --attributes names; it has {listed}")
    others = [key for column in columns.attributes if column not in held for key in (column.name_key, column.key) if key]
    return replace(columns, attributes=tuple(held), unused=(*columns.unused, *others))


def _names_of_objects(table: TableFile) -> list[str]:
    names: dict[str, None] = {}
    for _, row in table.rows():
        if not isinstance(row, str) and len(names) < MAX_NAMES:
            names.update(dict.fromkeys(row))
    return list(names)


def _observe(plan: ReadingPlan) -> Counter[str]:
    """Show every text in a column of numbers or times to its convention; return how often each currency is written."""
    text = plan.table.text_columns
    fields = {
        name: columns
        for name, columns in plan.columns.fields.items()
        if name in plan.conventions and (text is None or any(column.key in text for column in columns))
    }
    currencies: Counter[str] = Counter()
    if not fields:
        return currencies
    only = [column.key for columns in fields.values() for column in columns if column.key not in plan.folders]
    for _, row in plan.table.rows(plan.keys, only):
        if isinstance(row, str):
            continue
        for name, columns in fields.items():
            for column in columns:
                value = column.value(row)
                if name == "current_price" and isinstance(value, Mapping):
                    value = value.get("amount", value.get("value"))
                if value is None or is_empty_marker(name, value):
                    continue
                if isinstance(value, str) and not value.isdecimal():
                    plan.conventions[name].observe(value)
                    if name == "current_price" and (currency := currency_of(value)):
                        currencies[currency] += 1
                break
    return currencies


def _decide(conventions: Mapping[str, Convention], path: Path) -> None:
    """Let a column without certain values follow the certain columns of the same kind.

    Raises:
        InvalidInput: a column can be read in two ways, and no other column tells which; the message names the option.
    """
    for name, convention in conventions.items():
        if not convention.undecided:
            continue
        others = [other for other in conventions.values() if other.option == convention.option]
        decided = {other.decided for other in others} - {None}
        if len(decided) == 1 and not any(all(other.certain) for other in others):
            convention.chosen = decided.pop()
            continue
        first, second = convention.read(name, convention.ambiguous)
        shown = [f"{value:%d %B %Y}" if isinstance(value, datetime) else f"{value:.15g}" for value in (first, second)]
        raise InvalidInput(
            f"{path}: the column of {name} can be read in two ways: {convention.ambiguous!r} is {shown[0]} or {shown[1]}; "
            f"say which by {convention.option} {convention.names[0]} or {convention.option} {convention.names[1]} "
            "(a stage: by item_files in cdk.json)"
        )


def _notices(plan: ReadingPlan, currencies: Counter[str]) -> Iterator[str]:
    if plan.table.notice:
        yield plan.table.notice
    if plan.columns.source:
        yield f"read with the column names of {plan.columns.source}"
    for name, convention in plan.conventions.items():
        if convention.chosen is None and all(convention.certain):
            yield f"{name} is written in both forms ({', '.join(convention.names)}); values that may be either are rejected"
        elif convention.decided == "comma":
            yield f"{name} is read with a decimal comma"
    if len(currencies) > 1:
        yield f"current_price is written in several currencies, which are not converted: {', '.join(sorted(currencies))}"
    attributes = [column.key for column in plan.columns.attributes]
    unused = [name for name in plan.columns.unused if name not in plan.folders]
    for names, what in ((attributes, "kept as attributes"), (unused, "not used")):
        if described := plan.columns.with_guesses(names):
            remedy = "; --column FIELD=COLUMN takes one" if any("did you mean" in name for name in described) else ""
            yield f"columns that are {what}: {', '.join(described)}{remedy}"


def hive_values(path: Path) -> dict[str, str]:
    """Return the values in the names of the folders right above a file, such as category=vases/day=2026-11-29/."""
    values: dict[str, str] = {}
    for folder in path.absolute().parents:
        match = HIVE_FOLDER.fullmatch(folder.name)
        if not match:
            break
        if match[2] != HIVE_EMPTY:
            values.setdefault(match[1], unquote(match[2]))
    return values


def photo_list(value: Any) -> list[Any]:
    """Return the photos of a cell: of a list, of the JSON of a list, or of several paths or addresses in one text."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("[") and text.endswith("]"):
            return photo_list(_json_list(text) or [part.strip().strip("\"'") for part in text[1:-1].split(",")])
        if _ADDRESS_START.match(text):
            return [part.rstrip(" ,;|") for part in _BEFORE_ADDRESS.split(text)]
        parts = _PHOTO_LIST.split(text)
        return parts if len(parts) > 1 and all(_PHOTO.fullmatch(part) for part in parts) else [value]
    if isinstance(value, Mapping):
        return [value.get("src") or value.get("url") or value]
    if isinstance(value, (list, tuple)):
        return [photo for part in value if part for photo in photo_list(part)]
    return [value]


def _json_list(text: str) -> list[Any] | None:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None  # such as "[a.jpg, b.jpg]"
    return read if isinstance(read, list) else None


def _category(value: Any) -> Any:
    """Return one text of a category: the path of a list, such as "Home > Vases"; the name, else the id, of an object."""
    if isinstance(value, Mapping):
        return value.get("name") or value.get("title") or value.get("id") or value
    if isinstance(value, (list, tuple)):
        parts = [_category(part) for part in value if part not in (None, "")]
        return value if any(isinstance(part, (Mapping, list)) for part in parts) else " > ".join(map(str, parts)) or None
    return value


def _id_of(row: Mapping[str, Any], columns: Sequence[Column]) -> str | None:
    for column in columns or [Column(name) for name in ALIASES["item_id"]]:
        if row.get(column.key) not in (None, ""):
            return str(row[column.key])[:MAX_ID_CHARS]
    return None
