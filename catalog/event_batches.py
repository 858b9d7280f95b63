"""Read event files as batches of columns: CSV, NDJSON and parquet, the first two plain or gzip.

Arrow parses a block of CSV text if the block has as many rows as lines and no broken row. Then the result equals that of
Python's parser, which parses all other blocks.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from retrieval.contracts.events import ALIASES
from retrieval.contracts.items import first_value
from retrieval.contracts.table_files import csv_rows, csv_separator, json_rows, require_columns
from retrieval.errors import InvalidInput
from retrieval.files import reason_of

PACKED = ".gz"
SUFFIXES = (".csv", ".ndjson", ".jsonl", ".parquet", ".csv.gz", ".ndjson.gz", ".jsonl.gz")
BLOCK_BYTES = 1 << 22
MAX_ROW_BYTES = 1 << 26  # largest row, because an unclosed quote would make the rest of the file one row
BATCH_ROWS = 1 << 16
FIELDS = tuple(ALIASES)
Column: TypeAlias = pa.Array | list[Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a file.

    Attributes:
        lines: line number of each row, or row number in a parquet file, from 1.
        columns: field -> raw values: text, times, or any value of a JSON row.
        broken: (line, reason) for each unreadable line.
    """

    lines: Sequence[int]
    columns: Mapping[str, Column]
    broken: Sequence[tuple[int, str]] = ()


def event_table_files(places: Iterable[Path]) -> list[Path]:
    """Return the event files in some places, each once, sorted by path.

    Args:
        places: files, or folders without their sub-folders.

    Raises:
        InvalidInput: a place does not exist, or holds no file of a known format.
    """
    formats = ", ".join(SUFFIXES)
    all_files: set[Path] = set()
    for place in places:
        if not place.exists():
            raise InvalidInput(f"{place} does not exist; name a file of events or a folder of them ({formats})")
        files = {path for path in ([place] if place.is_file() else place.iterdir()) if path.is_file() and _format(path)}
        if not files:
            raise InvalidInput(f"{place} {'is' if place.is_file() else 'holds'} no file of events; Gavel reads {formats}")
        all_files |= files
    return sorted(all_files)


def event_batches(path: Path) -> Iterator[tuple[Batch, float]]:
    """Read a file of events.

    Yields:
        Batches of rows in order, with the share of the file that has been read.

    Raises:
        InvalidInput: the file cannot be read, or has no column for a field.
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
        raise InvalidInput(f"{path} cannot be read: {reason_of(error)}") from error


def _format(path: Path) -> str:
    """Return the suffix without .gz; empty for an unknown format."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "").removesuffix(PACKED)


def _csv_batches(path: Path, file: BufferedIOBase) -> Iterator[Batch]:
    line = 1
    try:
        header = file.readline().decode("utf-8-sig")
        if "\r" in header.rstrip("\r\n"):
            raise InvalidInput(f"{path} ends its lines with carriage returns alone; save it as CSV UTF-8")
        separator = csv_separator(header)
        names = next(csv.reader([header], delimiter=separator), [])
        require_columns(path, names, ALIASES)
        for block in _blocks(file):
            table = _parse_block(block, names, separator)
            if table is None:
                rows = csv_rows(io.StringIO(block.decode(), newline=""), names, separator, line + 1)
                yield from _row_batches(rows)
            else:
                yield Batch(range(line + 1, line + 1 + len(table)), _columns(table))
            line += block.count(b"\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text ({error.reason}, after line {line}); save it as UTF-8") from error


def _blocks(file: BufferedIOBase) -> Iterator[bytes]:
    """Yield the rest of a CSV file in blocks of whole rows; each block ends at a line end outside quotes."""
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


def _parse_block(block: bytes, names: Sequence[str], separator: str) -> pa.Table | None:
    """Parse a block into text columns; None if a row is broken, empty or of several lines, so that Python's parser is needed."""
    if len(set(names)) != len(names):
        return None
    used = [name for accepted in ALIASES.values() for name in accepted if name in names]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(block),
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=list(names)),
            parse_options=pa_csv.ParseOptions(delimiter=separator),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(used, pa.string()), include_columns=used, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    return table.combine_chunks() if len(table) == lines else None


def _columns(table: pa.Table | pa.RecordBatch) -> dict[str, Column]:
    """Return field -> values of a table that has a column for each field."""
    aliases = {field: [name for name in accepted if name in table.schema.names] for field, accepted in ALIASES.items()}
    if any(len(present) > 1 for present in aliases.values()):  # a field takes the first of its columns that has a value
        plain = {name: _plain(table.column(name)) for present in aliases.values() for name in present}
        cells = [column if isinstance(column, list) else column.to_pylist() for column in plain.values()]
        rows = [dict(zip(plain, row, strict=True)) for row in zip(*cells, strict=True)]
        return {field: [first_value(row, ALIASES[field]) for row in rows] for field in FIELDS}
    return {field: _plain(table.column(present[0])) for field, present in aliases.items()}


def _plain(column: pa.Array | pa.ChunkedArray) -> Column:
    """Convert a column to text or to times in UTC microseconds; other types to Python values."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", "UTC"), safe=False)  # drops fractions of a microsecond
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
    """Return the values of a field; as an Arrow column if all are text."""
    present = [name for name in accepted if any(name in row for row in rows)]
    single = len(present) == 1
    values = [row.get(present[0]) if single else first_value(row, accepted) for row in rows]
    if all(isinstance(value, str) for value in values):
        with suppress(ValueError):  # a lone surrogate, which Arrow rejects
            return pa.array(values, pa.string())
    return values


def _ndjson_batches(path: Path, file: BufferedIOBase) -> Iterator[Batch]:
    yield from _row_batches(json_rows(file))


def _parquet_batches(path: Path) -> Iterator[tuple[Batch, float]]:
    try:
        with path.open("rb") as raw, pq.ParquetFile(raw) as file:
            names = file.schema_arrow.names
            require_columns(path, names, ALIASES)
            used = [name for accepted in ALIASES.values() for name in accepted if name in names]
            row, rows = 0, max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(BATCH_ROWS, columns=used):
                yield Batch(range(row + 1, row + 1 + len(batch)), _columns(batch)), (row + len(batch)) / rows
                row += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is not a readable parquet file: {reason_of(error)}") from error
