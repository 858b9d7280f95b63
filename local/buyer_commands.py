"""`gavel buyers …`: what is kept of buyers, told from a file, looked up and erased."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from local.command_options import Json, print_json, report
from local.console import notes, show_table
from local.home import Home
from retrieval.buyer_store import MOST_ACTS, parse_buyer_id
from retrieval.errors import InvalidInput
from retrieval.events import ALIASES, Interaction, parse_interaction
from retrieval.item_files import numbered_rows
from retrieval.items import Reject
from retrieval.settings import Settings

buyers_app = typer.Typer(no_args_is_help=True, help="What is kept of buyers: tell, look up, erase.")

SHOWN_REJECTS = 5
ACTS_A_CALL = 10_000


@buyers_app.command("import")
def import_events(
    events: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="events.csv, or the same as .ndjson or .parquet.")],
    as_json: Json = False,
) -> None:
    """Add a file of events to the histories of its buyers; to import it again changes nothing."""
    from local.wiring import buyer_store

    settings = Settings.from_env()
    acts, rejects = read_acts(events)
    store = buyer_store(settings)
    acts = sorted(acts, key=lambda act: act.buyer_id)  # what one buyer did goes in one call, if it can
    kept = sum(store.append(acts[start : start + ACTS_A_CALL]) for start in range(0, len(acts), ACTS_A_CALL))
    for reject in rejects[:SHOWN_REJECTS]:
        notes.print(f"{reject.source}, line {reject.line}: {reject.reason}", markup=False, highlight=False, soft_wrap=True)
    told = {
        "rows": len(acts) + len(rejects),
        "kept": kept,
        "not_kept": len(acts) - kept,  # told twice, older than buyer_events_days, of a later day, or beyond the latest 200
        "rejected": len(rejects),
        "buyers": len({act.buyer_id for act in acts}),
    }
    report(told, as_json)


@buyers_app.command()
def show(
    buyer_id: Annotated[str, typer.Argument(help="As events name the buyer.")],
    limit: Annotated[int, typer.Option(min=1, max=MOST_ACTS, help="How many acts, the latest.")] = 20,
    as_json: Json = False,
) -> None:
    """What a buyer did lately, the latest first."""
    from local.wiring import buyer_store

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
    """Forget a buyer: their history, and their lines in the event files below home."""
    from local.event_log import EventLog
    from local.wiring import buyer_store

    settings = Settings.from_env()
    named = parse_buyer_id(buyer_id)
    told: dict[str, Any] = {"erased": buyer_store(settings).erase(named)}
    told["event_lines"] = EventLog(Home(settings).events).erase(named)
    report(told, as_json)


def read_acts(path: Path) -> tuple[Sequence[Interaction], Sequence[Reject]]:
    """The acts of an event file, and the rows that are none, each with line and reason.

    Raises:
        InvalidInput: the file cannot be read at all.
    """
    acts: list[Interaction] = []
    rejects: list[Reject] = []
    for line, row in numbered_rows(path, ALIASES):
        try:
            if isinstance(row, str):
                raise InvalidInput(row)
            acts.append(parse_interaction(row))
        except InvalidInput as error:
            rejects.append(Reject(path.name, line, str(error)))
    return acts, rejects
