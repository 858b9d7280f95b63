"""`gavel items …`: what happens to single lots in the last minutes: bids, extensions, ends, withdrawals."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from gavel.workspace.console import console, show_values
from gavel.workspace.options import Json, print_json
from retrieval.config.settings import Settings
from retrieval.contracts.item_states import OPEN, parse_state
from retrieval.contracts.items import epoch_ms, parse_time
from retrieval.errors import InvalidInput

LATER = re.compile(r"\+(\d{1,6})([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

items_app = typer.Typer(no_args_is_help=True, help="Single lots: bid, extend, end, withdraw, show.")

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


def _moment(text: str) -> datetime:
    if relative := LATER.fullmatch(text.strip()):
        return datetime.now(UTC) + timedelta(**{UNITS[relative[2]]: int(relative[1])})
    moment = parse_time("until", text)
    if moment is None:
        raise InvalidInput("until is empty; write a time such as 2026-11-30T20:05:00Z, or +5m")
    return moment


def _shown(name: str, value: Any) -> Any:
    if name in ("ends_at", "listed_at", "updated_at"):
        return f"{datetime.fromtimestamp(value / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return value
