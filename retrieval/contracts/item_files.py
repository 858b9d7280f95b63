"""Readers of catalogue files: parquet, CSV and NDJSON under the item contract. Only parquet needs pyarrow."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.contracts.items import ALIASES, REQUIRED, Item, Reject, parse_item
from retrieval.errors import InvalidInput

SUFFIXES = (".parquet", ".csv", ".ndjson", ".jsonl")
PARQUET_BATCH_ROWS = 256  # few, because a row may have a description of 400 kB
CSV_SEPARATORS = (",", ";", "\t", "|")
Columns = Mapping[str, tuple[str, ...]]
MAX_ID_CHARS = 100  # a longer id of a rejected row is cut in the report


def find_item_files(where: Path) -> list[Path]:
    """Return the catalogue files of a folder, sorted by name; or the path of a single file.

    Args:
        where: path of a file, or of a folder; its sub-folders are not searched.

    Raises:
        InvalidInput: the path does not exist, or has no file in a format that Gavel reads.
    """
    formats = ", ".join(SUFFIXES)
    if where.is_file():
        if where.suffix.lower() not in SUFFIXES:
            raise InvalidInput(f"{where} is not a catalogue file; Gavel reads {formats}")
        return [where]
    if not where.is_dir():
        raise InvalidInput(f"{where} does not exist; name a catalogue file or a folder of them ({formats})")
    files = sorted(p for p in where.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES and p.name != "rejects.ndjson")
    if not files:
        raise InvalidInput(f"{where} holds no catalogue file; put at least one of {formats} there")
    return files


def read_items(path: Path) -> Iterator[Item | Reject]:
    """Read a catalogue file row by row, in the order of the file.

    Args:
        path: path of a .parquet, .csv, .ndjson or .jsonl file.

    Yields:
        An Item per valid row; for others a Reject with the line number (CSV, NDJSON) or row number (parquet), from 1.

    Raises:
        InvalidInput: the file cannot be read at all, or has no column for a required field.
    """
    for _, row in numbered_items(path):
        yield row


def numbered_items(path: Path) -> Iterator[tuple[int, Item | Reject]]:
    """Yield the results of read_items(), each with its line or row number."""
    for line, row in numbered_rows(path, {field: ALIASES[field] for field in REQUIRED}):
        if isinstance(row, str):
            yield line, Reject(path.name, line, row)
            continue
        try:
            yield line, parse_item(row)
        except InvalidInput as error:
            yield line, Reject(path.name, line, str(error), _id_of(row))


def numbered_rows(path: Path, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Read the rows of a parquet, CSV or NDJSON file, without checks of their values.

    Args:
        path: path of the file.
        columns: field -> allowed names of its column; parquet and CSV need a column for each field.

    Yields:
        The line number (CSV, NDJSON) or row number (parquet), from 1, and the row, or the reason why it cannot be read.

    Raises:
        InvalidInput: the file cannot be read at all, or has no column for a field.
    """
    match path.suffix.lower():
        case ".parquet":
            yield from _parquet_rows(path, columns)
        case ".csv":
            yield from _csv_rows(path, columns)
        case ".ndjson" | ".jsonl":
            yield from _ndjson_rows(path)
        case other:
            raise InvalidInput(f"{path} has the unknown format {other!r}; Gavel reads {', '.join(SUFFIXES)}")


def _parquet_rows(path: Path, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as raw, pq.ParquetFile(raw) as file:  # pyarrow cannot open a path that is not UTF-8
            require_columns(path, file.schema_arrow.names, columns)
            line = 0
            for batch in file.iter_batches(PARQUET_BATCH_ROWS):
                for row in _batch_rows(batch):
                    line += 1
                    yield line, row
    except (pa.ArrowException, OSError) as error:  # a damaged page is an OSError
        raise InvalidInput(f"{path} is not a readable parquet file: {error}") from error


def _batch_rows(batch: Any) -> Iterator[Mapping[str, Any] | str]:
    """Yield the rows of a record batch; the reason for a row with a value that Python lacks (a year past 9999, an odd zone)."""
    try:
        yield from _in_microseconds(batch).to_pylist()
    except (ValueError, OverflowError, LookupError) as error:
        if batch.num_rows == 1:
            yield f"the row cannot be read: {error}"
            return
        for row in range(batch.num_rows):
            yield from _batch_rows(batch.slice(row, 1))


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


def _csv_rows(path: Path, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = csv_separator(file.readline())
            file.seek(0)
            names: Sequence[str] = next(csv.reader(file, delimiter=separator, strict=True), [])
            require_columns(path, names, columns)
            file.seek(0)
            rows = csv_rows(file, names, separator)
            next(rows)  # the header
            yield from rows
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise InvalidInput(f"{path} is not a readable CSV file: {error}") from error


def csv_separator(header: str) -> str:
    """Return the most frequent of CSV_SEPARATORS in a header, because spreadsheets of some languages do not write commas."""
    return max(CSV_SEPARATORS, key=header.count)  # the first of equally frequent ones


def csv_rows(
    lines: Iterable[str], names: Sequence[str], separator: str = ",", first_line: int = 1
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Yield the number of each CSV row's last line, and the row by column name, or the reason why it is invalid.

    Args:
        lines: lines of the text, with their line ends; a header among them is read as a row.
        names: names of the columns, in their order.
        separator: separator of cells.
        first_line: number of the first line.
    """
    reader = csv.DictReader(lines, names, strict=True, delimiter=separator)  # an unclosed quote is an error, not one long field
    while True:
        before = reader.reader.line_num + first_line
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield before, f"lines {before} to {reader.reader.line_num + first_line - 1} are no CSV row: {error}"
            continue
        extra = row.pop(None, None)
        too_many = f"the row has {len(names) + len(extra or [])} cells, the header {len(names)}"
        yield reader.line_num + first_line - 1, row if extra is None else too_many


def _ndjson_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    with path.open("rb") as file:
        yield from json_rows(file)


def json_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | str]]:
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


def _id_of(row: Mapping[str, Any]) -> str | None:
    for name in ALIASES["item_id"]:
        if row.get(name) not in (None, ""):
            return str(row[name])[:MAX_ID_CHARS]
    return None
