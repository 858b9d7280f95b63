"""`gavel buyers …`: what is kept of buyers, told from a file, looked up and erased."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gavel.cli.events import described, show_events
from gavel.workspace.console import notes, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json, report
from retrieval.buyers.history_store import MOST_ACTS, parse_buyer_id
from retrieval.config.settings import Settings

ACTS_A_CALL = 10_000

buyers_app = typer.Typer(no_args_is_help=True, help="What is kept of buyers: tell, look up, erase.")


@buyers_app.command("import")
def import_events(
    files: Annotated[list[Path], typer.Argument(help="Logs (.csv, .ndjson, .jsonl, also .gz; .parquet), or folders of them.")],
    as_json: Json = False,
) -> None:
    """Add logs of events to the histories of their buyers; to import one again changes nothing."""
    from catalog.event_tables import read_event_table
    from gavel.workspace.wiring import buyer_store

    store = buyer_store(Settings.from_env())
    with progress("events, ‰") as read, progress("buyers") as kept_of:
        table = read_event_table(files, progress=read)
        kept, waiting = 0, []
        for number, (_, acts) in enumerate(table.sequences(), 1):
            waiting += acts[-MOST_ACTS:]
            if len(waiting) >= ACTS_A_CALL or number == len(table.buyer_ids):
                kept += store.append(waiting)
                waiting = []
            kept_of(number, len(table.buyer_ids))
    # not kept: older than buyer_events_days, of a later day, or beyond the latest 200 of a buyer
    values = {**described(table), "kept": kept, "not_kept": len(table) - kept}
    print_json(values) if as_json else show_events(table, values)


@buyers_app.command()
def show(
    buyer_id: Annotated[str, typer.Argument(help="As events name the buyer.")],
    limit: Annotated[int, typer.Option(min=1, max=MOST_ACTS, help="How many acts, the latest.")] = 20,
    as_json: Json = False,
) -> None:
    """What a buyer did lately, the latest first."""
    from gavel.workspace.wiring import buyer_store

    acts = buyer_store(Settings.from_env()).recent(parse_buyer_id(buyer_id), limit)[::-1]
    told = [{"item_id": act.item_id, "event_type": act.event_type, "timestamp": act.timestamp.isoformat()} for act in acts]
    if as_json:
        print_json({"acts": told})
    elif acts:
        rows = [(f"{act.timestamp:%Y-%m-%d %H:%M:%S}", act.event_type, act.item_id) for act in acts]
        show_table("", ("UTC", "act", "item id"), rows, right_from=3)
    else:
        notes.print("nothing is kept of this buyer")


@buyers_app.command()
def erase(
    buyer_id: Annotated[str, typer.Argument(help="As events name the buyer.")],
    as_json: Json = False,
) -> None:
    """Forget a buyer: their history, and their lines in the event files below workspace."""
    from gavel.workspace.wiring import buyer_store
    from retrieval.feedback.file_sink import EventLog

    settings = Settings.from_env()
    named = parse_buyer_id(buyer_id)
    told: dict[str, Any] = {"erased": buyer_store(settings).erase(named)}
    told["event_lines"] = EventLog(Workspace(settings).events).erase(named)
    report(told, as_json)
