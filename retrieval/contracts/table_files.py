"""Rows of table files as they are written: parquet, CSV, TSV, NDJSON and JSON, also with gzip. Only parquet needs pyarrow."""

import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from retrieval.contracts.text_encoding import check_encoding, find_encoding, open_bytes, open_text
from retrieval.errors import InvalidInput
from retrieval.files import reason_of

TEXT_SUFFIXES = (".csv", ".tsv", ".ndjson", ".jsonl", ".json")
PACKED = ".gz"
SUFFIXES = (".parquet", *TEXT_SUFFIXES, *(f"{suffix}{PACKED}" for suffix in TEXT_SUFFIXES))
PARQUET_BATCH_ROWS = 256  # few, because a row may have a description of 400 kB
CSV_SEPARATORS = (",", ";", "\t", "|")
MIN_SPLIT_CELLS = 3  # prose in a cell may have a comma in each line, but hardly two
JSON_CHARS = 1 << 16  # read at once from a JSON list
MAX_JSON_CHARS = 1 << 24  # longest object of a JSON list
Columns = Mapping[str, tuple[str, ...]]
NumberedRow = tuple[int, Mapping[str, Any] | str]

_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"')
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table file and how to read it.

    Attributes:
        path: path of the file.
        kind: "parquet", "csv", "ndjson" (an object a line) or "json" (a list of objects).
        encoding: encoding of the text; empty for parquet.
        names: names of the columns in the header; None if the file has no header.
        separator: separator of the cells of CSV.
        skipped_lines: number of lines before the header.
        text_columns: names of the columns that hold text; None if any may.
        unread_columns: names of the columns with times or bytes, whose values Python may not be able to represent or to show.
        notice: what the user should know about the encoding; usually empty.
    """

    path: Path
    kind: str
    encoding: str = ""
    names: tuple[str, ...] | None = None
    separator: str = ","
    skipped_lines: int = 0
    text_columns: frozenset[str] | None = None
    unread_columns: frozenset[str] = frozenset()
    notice: str = ""

    def rows(self, names: Sequence[str] | None = None, only: Sequence[str] | None = None) -> Iterator[NumberedRow]:
        """Yield the number of each row and the row, or the reason why it cannot be read.

        Args:
            names: keys of the rows instead of the names in the header, in the header's order.
            only: columns of a parquet file to read, among `names`; None reads all.

        Raises:
            InvalidInput: the file cannot be read to its end.
        """
        match self.kind:
            case "parquet":
                yield from self._parquet_rows(names or self.names or (), only)
            case "csv":
                with open_text(self.path, self.encoding) as file:
                    lines = islice(file, self.skipped_lines, None)
                    yield from islice(csv_rows(lines, names or self.names or (), self.separator, self.skipped_lines + 1), 1, None)
            case "ndjson" if not self.encoding.startswith("utf-8"):
                with open_text(self.path, self.encoding) as file:
                    yield from json_rows(file)
            case "ndjson":
                with open_bytes(self.path) as raw:
                    yield from json_rows(raw)
            case _:
                with open_text(self.path, self.encoding) as file:
                    yield from json_list_rows(file, self.path)

    def _parquet_rows(self, names: Sequence[str], only: Sequence[str] | None) -> Iterator[NumberedRow]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        keys: dict[str, list[str]] = {}
        for name, key in zip(self.names or (), names, strict=True):
            keys.setdefault(name, []).append(key)
        columns = (
            None if only is None else list(dict.fromkeys(n for n, k in zip(self.names or (), names, strict=True) if k in only))
        )
        try:
            with self.path.open("rb") as raw, pq.ParquetFile(raw) as file:  # pyarrow cannot open a path that is not UTF-8
                line = 0
                for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=columns):
                    repeated = {name: iter(several) for name, several in keys.items()}
                    for row in _batch_rows(batch.rename_columns([next(repeated[name]) for name in batch.schema.names])):
                        line += 1
                        yield line, row
        except (pa.ArrowException, OSError) as error:  # a damaged page is an OSError
            raise InvalidInput(f"{self.path} is not a readable parquet file: {reason_of(error)}") from error


def file_format(path: Path) -> str:
    """Return the suffix of a table file in lower case, without .gz; empty if Gavel does not read such files."""
    name = path.name.lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix) and name != suffix), "")
    return suffix.removesuffix(PACKED)


def open_table(path: Path, encoding: str | None = None) -> TableFile:
    """Find out how a file is to be read: its format by its suffix; encoding, separator and header by its content.

    Args:
        path: path of the file.
        encoding: encoding of a text file; None finds it.

    Raises:
        InvalidInput: the file cannot be read.
    """
    match file_format(path):
        case ".parquet":
            return _open_parquet(path)
        case ".csv" | ".tsv":
            return _open_csv(path, encoding)
        case ".ndjson" | ".jsonl" | ".json":
            return _open_json(path, encoding)
        case _:
            raise InvalidInput(f"{path} has the unknown format {path.suffix.lower()!r}; Gavel reads {', '.join(SUFFIXES)}")


def numbered_rows(path: Path, columns: Columns) -> Iterator[NumberedRow]:
    """Read the rows of a table file, without checks of their values.

    Args:
        path: path of the file.
        columns: field -> allowed names of its column; a file with a header needs a column for each field.

    Yields:
        The line number (text) or row number (parquet, JSON list), from 1, and the row, or the reason why it cannot be read.

    Raises:
        InvalidInput: the file cannot be read at all, or has no column for a field.
    """
    table = open_table(path)
    if table.names is not None:
        require_columns(path, table.names, columns)
    yield from table.rows()


def _open_parquet(path: Path) -> TableFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as raw, pq.ParquetFile(raw) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is not a readable parquet file: {reason_of(error)}") from error
    values = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    text = {
        name
        for name, kind in zip(schema.names, values, strict=True)
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_temporal(kind))
    }
    unread = frozenset(field.name for field in schema if _holds_times_or_bytes(field.type))
    return TableFile(path, "parquet", names=tuple(schema.names), text_columns=frozenset(text), unread_columns=unread)


def _holds_times_or_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_nested(kind):
        return any(_holds_times_or_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return any(check(kind) for check in (pa.types.is_temporal, pa.types.is_binary, pa.types.is_large_binary))


def _batch_rows(batch: Any) -> Iterator[Mapping[str, Any] | str]:
    """Yield the rows of a record batch; the reason for a row with a value that Python lacks (a year past 9999, an odd zone)."""
    try:
        yield from _in_microseconds(batch).to_pylist(maps_as_pydicts="lossy" if _has_maps(batch) else None)
    except (ValueError, OverflowError, LookupError) as error:
        if batch.num_rows == 1:
            yield f"the row cannot be read: {error}"
            return
        for row in range(batch.num_rows):
            yield from _batch_rows(batch.slice(row, 1))


def _has_maps(batch: Any) -> bool:
    import pyarrow as pa

    return any(pa.types.is_map(field.type) for field in batch.schema)  # of a repeated key the last value counts


def _in_microseconds(batch: Any) -> Any:
    """Convert times to microseconds, which Python represents; and times with a zone to UTC, because Python may not know the zone.

    Otherwise pyarrow would return Timestamps of pandas for nanoseconds, if pandas is installed, as in SageMaker's containers.
    """
    import pyarrow as pa

    for place, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and (field.type.tz or field.type.unit == "ns"):
            kind = pa.timestamp("us", field.type.tz and "UTC")
            times = batch.column(place).cast(kind)  # ValueError where nanoseconds would be lost
            batch = batch.set_column(place, field.name, times)
    return batch


def _open_csv(path: Path, encoding: str | None) -> TableFile:
    encoding, notice = (check_encoding(encoding), "") if encoding else find_encoding(path)
    try:
        with open_text(path, encoding) as file:
            first = file.readline()
            marked = _SEPARATOR_LINE.fullmatch(first.lstrip("\ufeff"))  # Excel writes and reads such a line
            header = file.readline() if marked else first.removeprefix("\ufeff")
            separator = marked[1] if marked else csv_separator(header)
            names: Sequence[str] = next(csv.reader(_from(header, file), delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise InvalidInput(f"{path} is not a readable CSV file: {error}") from error
    return TableFile(path, "csv", encoding, tuple(names), separator, int(bool(marked)), notice=notice)


def _from(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def csv_separator(header: str) -> str:
    """Return the most frequent of CSV_SEPARATORS outside the quotes of a header; some spreadsheets do not write commas."""
    return max(CSV_SEPARATORS, key=_QUOTED.sub("", header).count)  # the first of equally frequent ones


def csv_rows(
    lines: Iterable[str], names: Sequence[str], separator: str = ",", first_line: int = 1
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Yield the number of each CSV row's last line, and the row by column name, or the reason why it is invalid.

    A quote that is not closed rejects its own line alone: the lines after it are read again, as rows of their own.

    Args:
        lines: lines of the text, with their line ends; a header among them is read as a row.
        names: names of the columns, in their order. In a row with fewer cells the last columns are None.
        separator: separator of cells.
        first_line: number of the first line.
    """
    source = _Lines(lines, first_line)
    while True:
        reader = csv.reader(source, strict=True, delimiter=separator)  # an unclosed quote is an error, not one long field
        try:
            for cells in reader:
                taken = source.taken()
                if not cells:
                    continue
                if len(taken) > 2 and len(names) >= MIN_SPLIT_CELLS and _are_rows(taken[1:-1], len(names), separator):
                    yield source.reject_first(taken, "the quote of another row closes it")
                    break
                number = source.number
                if len(cells) == len(names):
                    yield number, dict(zip(names, cells, strict=True))
                    continue
                extra = [cell for cell in cells[len(names) :] if cell.strip()]
                missing = [None] * (len(names) - len(cells))
                too_many = f"the row has {len(cells)} cells, the header {len(names)}"
                yield number, too_many if extra else dict(zip(names, [*cells[: len(names)], *missing], strict=True))
            else:
                return
        except csv.Error as error:
            taken = source.taken()
            if len(taken) == 1:
                yield source.number, f"line {source.number} is no CSV row: {error}"
            else:
                yield source.reject_first(taken, str(error))


class _Lines:
    """The lines of a CSV file, of which those behind a broken one can be read again.

    Attributes:
        number: number of the line that was read last.
    """

    def __init__(self, lines: Iterable[str], first_line: int) -> None:
        self.number = first_line - 1
        self._rest, self._again = iter(lines), deque[str]()
        self._taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._rest)
        self.number += 1
        self._taken.append(line)
        return line

    def taken(self) -> list[str]:
        """Return the lines that were read since the last call."""
        lines, self._taken = self._taken, []
        return lines

    def reject_first(self, lines: Sequence[str], reason: str) -> tuple[int, str]:
        """Give back all lines of a row but its first, and return the number of that one with the reason for its rejection."""
        self._again.extendleft(reversed(lines[1:]))
        last, self.number = self.number, self.number - len(lines) + 1
        return self.number, (
            f"line {self.number} opens a quote that it does not close ({reason}, up to line {last}); "
            "the lines after it were read as rows of their own"
        )


def _are_rows(lines: Sequence[str], cells: int, separator: str) -> bool:
    """Return True if each line is a whole row by itself."""
    try:
        return all(len(row) == cells for row in csv.reader(lines, strict=True, delimiter=separator))
    except csv.Error:
        return False


def _open_json(path: Path, encoding: str | None) -> TableFile:
    with open_bytes(path) as file:
        first = file.read(JSON_CHARS)
    if encoding:
        encoding = check_encoding(encoding)
    else:
        # a line of NDJSON that is no UTF-8 is rejected alone, so that its encoding is not searched for
        wide = re.match(rb"(\xff\xfe)?\s?\0?[{\[]\0|(\xfe\xff)?\0[{\[]", first)
        encoding = find_encoding(path)[0] if wide else "utf-8-sig"
    text = first.decode(encoding, "ignore").lstrip()
    is_list = bool(re.match(r"\[\s*[{\]]", text)) or (file_format(path) == ".json" and bool(re.match(r"\{\s*\n\s*\S", text)))
    return TableFile(path, "json" if is_list else "ndjson", encoding)


def json_rows(lines: Iterable[bytes | str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield line number and object of each line of NDJSON, or the reason why the line is invalid; skip blank lines."""
    for line, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:
            yield line, f"the line is not JSON: {error}"
            continue
        yield line, row if isinstance(row, dict) else f"the line is a JSON {type(row).__name__}, not an object"


def json_list_rows(file: IO[str], path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield number and object of each element of a JSON list, or of objects in sequence; one element is held in memory.

    Raises:
        InvalidInput: the text is no JSON from some element on.
    """
    decoder = json.JSONDecoder()
    buffer, number, ended = "", 0, False
    while True:
        buffer = buffer[_BETWEEN.match(buffer).end() :]  # type: ignore[union-attr]
        if number == 0 and buffer.startswith("["):
            buffer, number = buffer[1:], 1
            continue
        if buffer.startswith("]"):
            return
        try:
            row, end = decoder.raw_decode(buffer) if buffer else (None, 0)
        except RecursionError:
            raise InvalidInput(f"{path} is not readable JSON: row {max(number, 1)} is nested too deeply") from None
        except ValueError as error:
            if ended or len(buffer) > MAX_JSON_CHARS:
                raise InvalidInput(f"{path} is not readable JSON in row {max(number, 1)}: {error}; {buffer[:40]!r}") from None
            row, end = None, 0
        if end and (ended or end < len(buffer)):
            number = max(number, 1)
            yield number, row if isinstance(row, dict) else f"the row is a JSON {type(row).__name__}, not an object"
            buffer, number = buffer[end:], number + 1
            continue
        if ended:
            return
        more = file.read(max(JSON_CHARS, len(buffer)))
        ended = not more
        buffer += more


def require_columns(path: Path, names: Sequence[str], columns: Columns) -> None:
    """Check that the header of a file has a column for every field.

    Args:
        path: path of the file, for the message.
        names: names in the header.
        columns: field -> allowed names of its column.

    Raises:
        InvalidInput: a field has no column; the message lists the allowed names.
    """
    for field, accepted in columns.items():
        if not set(accepted) & set(names):
            raise InvalidInput(
                f"{path} has no column for {field}: it needs one of {', '.join(accepted)}; found {', '.join(names) or 'none'}"
            )
