"""`gavel buyers …`: import, show and erase the histories of buyers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gavel.cli.events import show_events, summarise
from gavel.workspace.console import notes, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json, report
from retrieval.buyers.history_store import MAX_PER_BUYER, parse_buyer_id
from retrieval.config.settings import Settings

BATCH_SIZE = 10_000

buyers_app = typer.Typer(no_args_is_help=True, help="Histories of buyers: import, look up, erase.")


@buyers_app.command("import")
def import_events(
    files: Annotated[list[Path], typer.Argument(help="Logs (.csv, .ndjson, .jsonl, also .gz; .parquet), or folders of them.")],
    as_json: Json = False,
) -> None:
    """Add logs of events to the histories of their buyers; importing the same log again changes nothing."""
    from catalog.event_tables import read_event_table
    from gavel.workspace.wiring import buyer_store

    store = buyer_store(Settings.from_env())
    with progress("events, ‰") as read, progress("buyers") as step:
        table = read_event_table(files, progress=read)
        stored, batch = 0, []
        for number, (_, interactions) in enumerate(table.sequences(), 1):
            batch += interactions[-MAX_PER_BUYER:]
            if len(batch) >= BATCH_SIZE or number == len(table.buyer_ids):
                stored += store.append(batch)
                batch = []
            step(number, len(table.buyer_ids))
    # not stored: events older than buyer_events_days, from the future, or beyond the latest MAX_PER_BUYER of a buyer
    values = {**summarise(table), "kept": stored, "not_kept": len(table) - stored}
    print_json(values) if as_json else show_events(table, values)


@buyers_app.command()
def show(
    buyer_id: Annotated[str, typer.Argument(help="As events name the buyer.")],
    limit: Annotated[int, typer.Option(min=1, max=MAX_PER_BUYER, help="Maximum number of interactions, the latest.")] = 20,
    as_json: Json = False,
) -> None:
    """Show recent interactions of a buyer, the latest first."""
    from gavel.workspace.wiring import buyer_store

    interactions = buyer_store(Settings.from_env()).recent(parse_buyer_id(buyer_id), limit)[::-1]
    if as_json:
        values = [{"item_id": i.item_id, "event_type": i.event_type, "timestamp": i.timestamp.isoformat()} for i in interactions]
        print_json({"acts": values})
    elif interactions:
        rows = [(f"{i.timestamp:%Y-%m-%d %H:%M:%S}", i.event_type, i.item_id) for i in interactions]
        show_table("", ("UTC", "interaction", "item id"), rows, right_from=3)
    else:
        notes.print("nothing is stored for this buyer")


@buyers_app.command()
def erase(
    buyer_id: Annotated[str, typer.Argument(help="As events name the buyer.")],
    as_json: Json = False,
) -> None:
    """Erase a buyer's history, and the buyer's lines in the event files of this machine."""
    from gavel.workspace.wiring import buyer_store
    from retrieval.feedback.file_sink import EventLog

    settings = Settings.from_env()
    buyer_id = parse_buyer_id(buyer_id)
    counts: dict[str, Any] = {"erased": buyer_store(settings).erase(buyer_id)}
    counts["event_lines"] = EventLog(Workspace(settings).events).erase(buyer_id)
    report(counts, as_json)
