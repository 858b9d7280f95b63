"""Files of events as batches of columns: CSV, NDJSON and parquet, the first two plain or gzip.

A block of CSV text goes through Arrow's parser where that says the same as Python's: as many rows as lines, none of them broken.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from retrieval.contracts.events import ALIASES
from retrieval.contracts.item_files import csv_rows, csv_separator, json_rows, require_columns
from retrieval.contracts.items import first_value
from retrieval.errors import InvalidInput

PACKED = ".gz"
SUFFIXES = (".csv", ".ndjson", ".jsonl", ".parquet", ".csv.gz", ".ndjson.gz", ".jsonl.gz")
BLOCK_BYTES = 1 << 22
MAX_ROW_BYTES = 1 << 26  # a quote that is never closed would make one row of the rest of the file
BATCH_ROWS = 1 << 16
FIELDS = tuple(ALIASES)
Column = pa.Array | list[Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a file.

    Attributes:
        lines: of each row, or its number in a parquet file, from 1.
        columns: field -> its values as they were written: text, times, or whatever a row of JSON held.
        broken: (line, reason) of what is no row.
    """

    lines: Sequence[int]
    columns: Mapping[str, Column]
    broken: Sequence[tuple[int, str]] = ()


def event_table_files(places: Iterable[Path]) -> list[Path]:
    """The files of events in some places, each once, by name.

    Args:
        places: files, or folders, which are searched without their sub-folders.

    Raises:
        InvalidInput: a place does not exist, or holds nothing in a format that Gavel reads.
    """
    formats = ", ".join(SUFFIXES)
    found: set[Path] = set()
    for place in places:
        if not place.exists():
            raise InvalidInput(f"{place} does not exist; name a file of events or a folder of them ({formats})")
        files = {path for path in ([place] if place.is_file() else place.iterdir()) if path.is_file() and _format(path)}
        if not files:
            raise InvalidInput(f"{place} {'is' if place.is_file() else 'holds'} no file of events; Gavel reads {formats}")
        found |= files
    return sorted(found)


def event_batches(path: Path) -> Iterator[tuple[Batch, float]]:
    """Read a file of events.

    Yields:
        The rows in their order, with the share of the file that has been read.

    Raises:
        InvalidInput: the file cannot be read at all, or has no column for a field.
    """
    if _format(path) == ".parquet":
        yield from _parquet_batches(path)
        return
    size = max(path.stat().st_size, 1)
    line = 0
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.name.lower().endswith(PACKED) else nullcontext(raw) as text:
            for batch in (_csv_batches if _format(path) == ".csv" else _ndjson_batches)(path, text):
                line = batch.lines[-1] if batch.lines else line
                yield batch, raw.tell() / size
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(f"{path} is no whole gzip file: {error} after line {line}; fetch it again") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error


def _format(path: Path) -> str:
    """The suffix without .gz; empty where Gavel does not read it."""
    name = path.name.lower()
    known = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    return known.removesuffix(PACKED)


def _csv_batches(path: Path, file: BinaryIO) -> Iterator[Batch]:
    line = 1
    try:
        header = file.readline().decode("utf-8-sig")
        if "\r" in header.rstrip("\r\n"):
            raise InvalidInput(f"{path} ends its lines with carriage returns alone; save it as CSV UTF-8")
        separator = csv_separator(header)
        names = next(csv.reader([header], delimiter=separator), [])
        require_columns(path, names, ALIASES)
        for block in _blocks(file):
            fast = _parsed_block(block, names, separator)
            if fast is None:
                rows = csv_rows(io.StringIO(block.decode(), newline=""), names, separator, line + 1)
                yield from _row_batches(rows)
            else:
                yield Batch(range(line + 1, line + 1 + len(fast)), _columns(fast))
            line += block.count(b"\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text ({error.reason}, after line {line}); save it as UTF-8") from error


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a CSV file in blocks of whole rows: each ends at a line's end that no pair of quotes encloses."""
    block = b""
    while data := file.read(BLOCK_BYTES):
        block += data
        end = _last_row_end(block)
        if not end and len(block) > MAX_ROW_BYTES:
            end = block.rfind(b"\n") + 1 or len(block)
        if end:
            yield block[:end]
            block = block[end:]
    if block:
        yield block


def _last_row_end(block: bytes) -> int:
    end = block.rfind(b"\n") + 1
    quotes = block.count(b'"', 0, end)
    while end and quotes % 2:
        before = block.rfind(b"\n", 0, end - 1) + 1
        quotes -= block.count(b'"', before, end)
        end = before
    return end


def _parsed_block(block: bytes, names: Sequence[str], separator: str) -> pa.Table | None:
    """A block as text columns; None where a row is broken, empty, of more lines than one, or otherwise worth a closer look."""
    if len(set(names)) != len(names):
        return None
    wanted = [name for accepted in ALIASES.values() for name in accepted if name in names]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(block),
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=list(names)),
            parse_options=pa_csv.ParseOptions(delimiter=separator),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    return table.combine_chunks() if len(table) == lines else None


def _columns(table: pa.Table | pa.RecordBatch) -> dict[str, Column]:
    """Field -> values, of a table that has a column for each field."""
    named = {field: [name for name in accepted if name in table.schema.names] for field, accepted in ALIASES.items()}
    if any(len(present) > 1 for present in named.values()):  # a field is the first of its columns that a row has
        plain = {name: _plain(table.column(name)) for present in named.values() for name in present}
        cells = [column if isinstance(column, list) else column.to_pylist() for column in plain.values()]
        rows = [dict(zip(plain, row, strict=True)) for row in zip(*cells, strict=True)]
        return {field: [first_value(row, ALIASES[field]) for row in rows] for field in FIELDS}
    return {field: _plain(table.column(present[0])) for field, present in named.items()}


def _plain(column: pa.Array | pa.ChunkedArray) -> Column:
    """A column as text, or as times in UTC microseconds; other values as Python has them."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", "UTC"), safe=False)  # below a microsecond nothing is told apart
    if pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    return values


def _row_batches(rows: Iterable[tuple[int, Mapping[str, Any] | str]]) -> Iterator[Batch]:
    while batch := list(islice(rows := iter(rows), BATCH_ROWS)):
        whole = [(line, row) for line, row in batch if not isinstance(row, str)]
        columns = {field: _values([row for _, row in whole], accepted) for field, accepted in ALIASES.items()}
        yield Batch([line for line, _ in whole], columns, [(line, row) for line, row in batch if isinstance(row, str)])


def _values(rows: Sequence[Mapping[str, Any]], accepted: tuple[str, ...]) -> Column:
    """The values of a field; as text where all of them are."""
    present = [name for name in accepted if any(name in row for row in rows)]
    one = len(present) == 1
    values = [row.get(present[0]) if one else first_value(row, accepted) for row in rows]
    if all(isinstance(value, str) for value in values):
        with suppress(ValueError):  # half a character, of which Arrow makes no text
            return pa.array(values, pa.string())
    return values


def _ndjson_batches(path: Path, file: BinaryIO) -> Iterator[Batch]:
    yield from _row_batches(json_rows(file))


def _parquet_batches(path: Path) -> Iterator[tuple[Batch, float]]:
    try:
        with path.open("rb") as raw, pq.ParquetFile(raw) as file:
            names = file.schema_arrow.names
            require_columns(path, names, ALIASES)
            wanted = [name for accepted in ALIASES.values() for name in accepted if name in names]
            row, rows = 0, max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
                yield Batch(range(row + 1, row + 1 + len(batch)), _columns(batch)), (row + len(batch)) / rows
                row += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is not a readable parquet file: {error}") from error
