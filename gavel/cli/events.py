"""`gavel events …`: check logs of buyers' interactions."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gavel.workspace.console import notes, progress, show_table, show_values
from gavel.workspace.entry import EXIT_ERROR, say
from gavel.workspace.options import Json, print_json
from processing.command_line import ColumnsOption, DatesOption, DecimalOption, EncodingOption, read_options
from retrieval.contracts.events import EVENT_TYPES
from retrieval.contracts.items import Reject

if TYPE_CHECKING:
    from catalog.event_tables import EventTable
    from retrieval.contracts.item_files import ReadOptions

events_app = typer.Typer(no_args_is_help=True, help="Look at logs of what buyers did.")


@events_app.callback()
def events() -> None:
    """Look at logs of what buyers did."""


@events_app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Logs (.csv, .ndjson, .jsonl, also .gz; .parquet), or folders of them.")],
    products: Annotated[
        Path | None, typer.Option(help="Catalogue file, or folder of such files: events of other items are rejected.")
    ] = None,
    rejects: Annotated[Path | None, typer.Option(help="NDJSON file to write the rejected rows to.")] = None,
    columns: ColumnsOption = None,
    decimal: DecimalOption = None,
    dates: DatesOption = None,
    encoding: EncodingOption = None,
    as_json: Json = False,
) -> None:
    """Read logs of events, and count usable rows and, by reason, rejected rows."""
    from catalog.event_tables import read_event_table

    options = read_options(columns, decimal, dates, encoding)
    with ExitStack() as stack:
        catalogue_ids, products_rejected = (None, 0) if products is None else _item_ids(products, options)
        on_reject = stack.enter_context(_writer(rejects)) if rejects else None
        step = stack.enter_context(progress("events, ‰"))
        table = read_event_table(files, catalogue_ids, step, on_reject=on_reject)
    values = summarise(table)
    if catalogue_ids is not None:
        values |= {"products": len(catalogue_ids), "products_rejected": products_rejected}
    if as_json:
        examples = {kind: [asdict(reject) for reject in rejects] for kind, rejects in table.examples.items()}
        print_json({**values, "examples": examples})
    else:
        show_events(table, values)
    if table.rows and not len(table):
        say("no row of the log could be used")
        raise typer.Exit(EXIT_ERROR)
    if table.rejected and rejects:
        notes.print(f"rows that were set aside: {rejects}", markup=False, highlight=False, soft_wrap=True)


def _item_ids(products: Path, options: "ReadOptions") -> tuple[set[str], int]:
    from retrieval.contracts.item_files import ReadingLog, read_items
    from retrieval.contracts.item_folders import find_item_files

    item_ids: set[str] = set()
    rejected, log = 0, ReadingLog()
    for path in find_item_files(products):
        for row in read_items(path, options, log):
            if isinstance(row, Reject):
                rejected += 1
            else:
                item_ids.add(row.item_id)
    for line in log.lines():
        notes.print(line, markup=False, highlight=False, soft_wrap=True)
    return item_ids, rejected


@contextmanager
def _writer(path: Path) -> Iterator[Any]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda reject: file.write(f"{reject.to_json()}\n")


def summarise(table: "EventTable") -> dict[str, Any]:
    """Return counts of usable and rejected rows, buyers and items, and the first and last time."""
    from catalog.event_times import written_time

    counts = Counter(table.event_types.tolist())
    span = (written_time(table.times_us.min()), written_time(table.times_us.max())) if len(table) else (None, None)
    return {
        "files": table.files,
        "rows": table.rows,
        "events": len(table),
        "event_types": {name: counts[code] for code, name in enumerate(EVENT_TYPES)},
        "duplicates": table.duplicates,
        "rejected": sum(table.rejected.values()),
        "rejected_by_reason": table.rejected,
        "buyers": len(table.buyer_ids),
        "items": len(table.item_ids),
        "first": span[0],
        "last": span[1],
    }


def show_events(table: "EventTable", values: dict[str, Any]) -> None:
    """Print `values`, which begin with those of summarise(), and the first rejected row of each kind."""
    values = dict(values)
    by_reason = values.pop("rejected_by_reason")
    values["event_types"] = ", ".join(f"{name} {count:,}" for name, count in values["event_types"].items())
    show_values({name: f"{value:,}" if isinstance(value, int) else value for name, value in values.items()})
    if by_reason:
        rows = []
        for kind, count in by_reason.items():
            first = table.examples[kind][0]
            rows.append((f"{count:,}", kind, f"{Path(first.source).name}:{first.line}", first.reason))
        show_table("\nrows that were set aside", ("rows", "why", "first", "in words"), rows, right_from=9)
