"""Speed and memory of reading a log of events.

python -m benchmarks.quality.event_tables --rows 10000000
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import typer

from benchmarks.machine import describe_machine
from catalog.event_tables import EventTable, read_event_table
from gavel.workspace.console import console, show_values

START, YEAR_S = 1_700_000_000, 31_536_000
CHUNK = 1_000_000


def write_log(path: Path, rows: int, seed: int = 7) -> None:
    """Write a log of one year's events.

    There are at most rows // 10 buyers and rows // 20 items; few buyers and few items have most events.
    """
    random = np.random.default_rng(seed)
    writer = None
    for done in range(0, rows, CHUNK):
        count = min(CHUNK, rows - done)
        buyers, items = random.zipf(1.3, count) % (rows // 10), random.zipf(1.2, count) % (rows // 20)
        seconds = pa.array(START + random.integers(0, YEAR_S, count)).cast(pa.timestamp("s"))
        event_names = pa.array(np.array(["View", "AddToCart", "Purchase"])[random.choice(3, count, p=[0.9, 0.07, 0.03])])
        columns = {
            "distinct_id": pc.binary_join_element_wise("user-", pa.array(buyers).cast(pa.string()), ""),
            "product_id": pc.binary_join_element_wise("lot-", pa.array(items).cast(pa.string()), ""),
            "event_name": event_names,
            "created_at": pc.strftime(seconds, "%Y-%m-%d %H:%M:%S"),
        }
        table = pa.table(columns)
        writer = writer or pa_csv.CSVWriter(path, table.schema)
        writer.write(table)
    if writer:
        writer.close()


def main(rows: Annotated[int, typer.Option(min=1_000, help="Number of events in the log.")] = 1_000_000) -> None:
    """Write a log, read it, and print the time and memory of the reading."""
    console.print(describe_machine(), style="dim")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.csv"
        write_log(path, rows)
        megabytes, before = path.stat().st_size / 1e6, _peak_mib()
        wall, cpu = time.perf_counter(), time.process_time()
        table = read_event_table(path)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    show_values(
        {
            "log": f"{rows:,} rows, {megabytes:,.0f} MB",
            "read": f"{wall:.1f} s, {cpu:.1f} s of CPU: {rows / cpu:,.0f} rows a CPU second",
            "peak memory": f"{_peak_mib():,.0f} MiB, {before:,.0f} MiB before",
            "table": f"{len(table):,} events, {table_bytes(table) / 1e6:,.0f} MB in columns, without ids",
        }
    )


def table_bytes(table: EventTable) -> int:
    """Return the bytes of a table's numeric columns."""
    return sum(column.nbytes for column in (table.starts, table.items, table.event_types, table.times_us))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
