"""`gavel items …`: single lots: new ones, and what happens in the last minutes: bids, extensions, ends, withdrawals."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from gavel.workspace.console import console, progress, show_values
from gavel.workspace.entry import EXIT_ERROR
from gavel.workspace.options import Json, print_json
from processing.command_line import FetchOption, PhotoHostOption
from retrieval.config.settings import Settings
from retrieval.contracts.item_puts import ItemPut, PutResult, read_put
from retrieval.contracts.item_states import OPEN, parse_state
from retrieval.contracts.items import ALIASES, MAX_ID_BYTES, epoch_ms, first_value, moment_of, parse_time
from retrieval.contracts.table_files import json_rows
from retrieval.errors import InvalidInput

LATER = re.compile(r"\+(\d{1,6})([smhd])")
PUTS_PER_CALL = 32
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

items_app = typer.Typer(no_args_is_help=True, help="Single lots: put, bid, extend, end, withdraw, show.")

ItemIdArgument = Annotated[str, typer.Argument(metavar="ID", help="item_id of the lot.")]
Version = Annotated[
    int | None, typer.Option(min=0, help="Version of the change, such as its time in ms; the present time by default.")
]


@items_app.command()
def show(item_id: ItemIdArgument, as_json: Json = False) -> None:
    """Show what is known of a lot, and the version of each field of its state."""
    from gavel.workspace.wiring import search_service

    service = search_service(Settings.from_env())
    fields, state = service.item(item_id), service.item_state(item_id)
    values: dict[str, Any] = {"item_id": item_id, "fields": fields, "state_versions": dict(state.versions) if state else {}}
    if as_json:
        print_json(values)
        return
    show_values({name: _shown(name, value) for name, value in fields.items()})
    if state:
        show_values({f"{name} version": version for name, version in state.versions.items()})


@items_app.command()
def put(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON of a lot or of a list of lots, or a lot a line; - reads standard input.")
    ],
    photos: Annotated[
        list[Path] | None, typer.Option(help="Further folder of photos that lots may name, besides that of the file; repeatable.")
    ] = None,
    fetch: FetchOption = True,
    photo_hosts: PhotoHostOption = None,
    as_json: Json = False,
) -> None:
    """Write whole lots to the live index at once, new or in place of their rows; the night's files confirm them."""
    from gavel.workspace.wiring import item_writer, search_service

    if str(source) != "-" and not source.is_file():
        raise InvalidInput(f"{source} is no file; name a file of lots in JSON, or - for standard input")
    content = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
    settings = Settings.from_env()
    folders = [*(photos or []), Path.cwd() if str(source) == "-" else source.absolute().parent]
    hosts = (photo_hosts or []) if fetch else None
    writer = item_writer(settings, search_service(settings), folders, hosts)
    results: list[PutResult] = []
    rows = list(_rows(content))
    with progress("put lots") as step:
        for done in range(0, len(rows), PUTS_PER_CALL):
            batch = [_read_put(*row) for row in rows[done : done + PUTS_PER_CALL]]
            written = iter(writer.put([one for one in batch if isinstance(one, ItemPut)]))
            results += [next(written) if isinstance(one, ItemPut) else one for one in batch]
            step(len(results), len(rows))
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        _show_puts(results)
    if any(result.outcome == "refused" for result in results):
        raise typer.Exit(EXIT_ERROR)


@items_app.command()
def bid(
    item_id: ItemIdArgument,
    price: Annotated[float, typer.Argument(help="The highest bid.")],
    bids: Annotated[int | None, typer.Option(min=0, help="Number of bids; unchanged by default.")] = None,
    reserve_met: Annotated[bool | None, typer.Option(help="True if the bid reaches the reserve price.")] = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Set the current price of a lot."""
    fields = {"current_price": price, "bid_count": bids, "reserve_met": reserve_met}
    _update(item_id, {name: value for name, value in fields.items() if value is not None}, version, as_json)


@items_app.command()
def extend(
    item_id: ItemIdArgument,
    until: Annotated[str, typer.Argument(help="New end: a time such as 2026-11-30T20:05:00Z, or from now, such as +5m or +2h.")],
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Move the end of an auction."""
    _update(item_id, {"ends_at": epoch_ms(_moment(until))}, version, as_json)


@items_app.command()
def end(
    item_id: ItemIdArgument,
    sold: Annotated[
        float | None, typer.Option(min=0, metavar="PRICE", help="Price at which it was sold; without it, unsold.")
    ] = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """End an auction now."""
    fields: dict[str, Any] = {"status": "unsold"} if sold is None else {"status": "sold", "sold_price": sold}
    _update(item_id, fields, version, as_json)


@items_app.command()
def withdraw(item_id: ItemIdArgument, version: Version = None, as_json: Json = False) -> None:
    """Take a lot out of every answer; `gavel items reopen` brings it back."""
    _update(item_id, {"status": "withdrawn"}, version, as_json)


@items_app.command()
def reopen(item_id: ItemIdArgument, version: Version = None, as_json: Json = False) -> None:
    """Open a lot again that was withdrawn, sold or unsold."""
    _update(item_id, {"status": OPEN}, version, as_json)


def _update(item_id: str, fields: dict[str, Any], version: int | None, as_json: bool) -> None:
    from gavel.workspace.wiring import search_service

    index = search_service(Settings.from_env()).live().index
    (outcome,) = index.update_states([parse_state(item_id, {**fields, "version": version})])
    if as_json:
        print_json({"item_id": outcome.item_id, "outcome": outcome.outcome, **fields})
        return
    meaning = {
        "applied": "applied",
        "stale": "stale: the lot has a newer version of every field",
        "unknown": "kept, but the live index has no such lot yet",
    }[outcome.outcome]
    console.print(f"{outcome.item_id}: {meaning}", markup=False, highlight=False)


def _rows(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and row of each lot: of a JSON object, a JSON list, or NDJSON; the reason for a line that is no object.

    Raises:
        InvalidInput: there is no lot.
    """
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        rows = list(json_rows(content.splitlines()))
    else:
        rows = list(enumerate(whole if isinstance(whole, list) else [whole], 1))
    if not rows:
        raise InvalidInput("there is no lot; write a JSON object with at least item_id and title")
    yield from rows


def _read_put(line: int, row: Any) -> ItemPut | PutResult:
    """Read a row, or return why it is refused."""
    if not isinstance(row, dict):
        return PutResult(f"line {line}", "refused", reason=row if isinstance(row, str) else "a lot is a JSON object")
    try:
        return read_put(row)
    except InvalidInput as error:
        item_id = first_value(row, ALIASES["item_id"])
        return PutResult(f"line {line}" if item_id is None else str(item_id)[:MAX_ID_BYTES], "refused", reason=str(error))


def _show_puts(results: Sequence[PutResult]) -> None:
    meanings = {"applied": "written", "stale": "stale: the index has a newer row or deletion of the lot"}
    for result in results:
        faults = "".join(f"; without photo: {fault}" for fault in result.photo_faults)
        line = f"{result.item_id}: {meanings.get(result.outcome, f'refused: {result.reason}')}{faults}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    counts = Counter(result.outcome for result in results)
    console.print(", ".join(f"{count:,} {outcome}" for outcome, count in counts.items()), style="dim", highlight=False)


def _moment(text: str) -> datetime:
    if relative := LATER.fullmatch(text.strip()):
        return datetime.now(UTC) + timedelta(**{UNITS[relative[2]]: int(relative[1])})
    moment = parse_time("until", text)
    if moment is None:
        raise InvalidInput("until is empty; write a time such as 2026-11-30T20:05:00Z, or +5m")
    return moment


def _shown(name: str, value: Any) -> Any:
    if name in ("ends_at", "listed_at", "updated_at"):
        return f"{moment_of(value):%Y-%m-%d %H:%M:%S} UTC"
    return value
