"""`gavel status`: what the workspace holds, what is live, and the next command."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gavel.workspace.console import console, show_table, show_values
from gavel.workspace.folders import Workspace, newest_first
from gavel.workspace.options import Json, print_json
from retrieval.config.settings import Settings
from retrieval.contracts.release import MANIFESTS, load_release
from retrieval.contracts.tower_card import CARD_FILE, TowerCard
from retrieval.errors import GavelError

SHOWN = 5  # rows of each table; --json has all of them


def status(as_json: Json = False) -> None:
    """Show what the workspace holds, what is live, and what to do next."""
    settings = Settings.from_env()
    workspace = Workspace(settings)
    releases = [*_releases(workspace)]
    state: dict[str, Any] = {
        "home": str(settings.home),
        "catalogs": [folder.name for folder in newest_first(workspace.catalogs, "catalog.json")],
        "towers": [*_towers(workspace, releases)],
        "releases": releases,
        "live": _live(settings, workspace),
        "events": len(list(workspace.events.glob("*.ndjson"))),
    }
    state["next"] = _next(state)
    print_json(state) if as_json else _show(state)


def _towers(workspace: Workspace, releases: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if workspace.settings.towers.startswith("s3://"):
        return
    newest = {release["tower_id"]: release["release_id"] for release in reversed(releases) if "error" not in release}
    for folder in newest_first(workspace.towers, CARD_FILE):
        try:
            card = TowerCard.load(folder)
        except GavelError as error:
            yield {"tower_id": folder.name, "error": str(error)}
            continue
        yield {
            "tower_id": card.tower_id,
            "preset": card.preset,
            "dimensions": card.dimensions,
            "release": newest.get(card.tower_id),
            "reranker": workspace.ranker(card.tower_id).is_file(),
        }


def _releases(workspace: Workspace) -> Iterator[dict[str, Any]]:
    for folder in newest_first(workspace.embeddings, MANIFESTS):
        try:
            release = load_release(folder)
        except GavelError as error:
            yield {"release_id": folder.name, "error": str(error)}
            continue
        yield {
            "release_id": folder.name,
            "tower_id": release.tower_id,
            "lots": release.items_embedded,
            "rejected": release.items_rejected,
            "written": max(path.stat().st_mtime for path in folder.glob(MANIFESTS)),
        }


def _live(settings: Settings, workspace: Workspace) -> dict[str, Any]:
    """Return the live index by its name, tower and number of lots, or the reason why there is none under "error"."""
    from gavel.workspace.wiring import open_store

    try:
        live = open_store(settings).live()
        values = {"kind": settings.index, "index": live.name, "tower_id": live.tower_id, "lots": live.count()}
        live.close()
    except GavelError as error:
        return {"kind": settings.index, "error": str(error)}
    written = max((path.stat().st_mtime for path in (workspace.index / live.name).rglob("*") if path.is_file()), default=None)
    return {**values, "reranker": workspace.ranker(live.tower_id).is_file(), "written": written}


def _next(state: dict[str, Any]) -> list[str]:
    """Return the commands that go on from here, the first one first."""
    towers = [tower for tower in state["towers"] if "error" not in tower]
    releases = [release for release in state["releases"] if "error" not in release]
    live = state["live"]
    if "error" not in live:
        commands = ["gavel serve"]
        if releases and (releases[0]["tower_id"] != live["tower_id"] or releases[0]["written"] > (live["written"] or math.inf)):
            commands.insert(0, f"gavel index {releases[0]['release_id']}")
        if towers and towers[0]["tower_id"] != live["tower_id"] and not towers[0]["release"]:
            commands.append(f"gavel embed --tower {towers[0]['tower_id']}")
        if state["events"]:
            commands.append(f"gavel train reranker --from-events {Path(state['home'], 'events')}")
        return commands
    if releases:
        return [f"gavel index {releases[0]['release_id']}"]
    if towers:
        return [f"gavel embed --tower {towers[0]['tower_id']}"]
    if state["catalogs"]:
        return ["gavel train"]
    return ["gavel try YOUR-LOTS.csv", "gavel demo"]


def _show(state: dict[str, Any]) -> None:
    live = state["live"]
    events = f"{state['events']} days in {Path(state['home'], 'events')}" if state["events"] else "none"
    catalogs = ", ".join(state["catalogs"]) or "none"
    if "error" in live:
        live_text = f"none ({live['error']})"
    else:
        order = "re-ranked" if live["reranker"] else "not re-ranked"
        live_text = f"{live['index']}: {live['lots']:,} lots of tower {live['tower_id']}, {order}, in the {live['kind']} index"
    show_values({"workspace": state["home"], "catalogues": catalogs, "live": live_text, "clicks": events})
    _show_entries("Towers", state["towers"], {"tower_id": "tower", "preset": "preset", "release": "newest release"}, right_from=9)
    _show_entries("Releases", state["releases"], {"release_id": "release", "lots": "lots", "rejected": "rejected"})
    console.print("next: " + "\n      ".join(state["next"]), markup=False, highlight=False, soft_wrap=True)


def _show_entries(name: str, entries: list[dict[str, Any]], columns: dict[str, str], right_from: int = 1) -> None:
    """Print a table of the newest entries, and beneath it what is wrong with the damaged ones.

    Args:
        name: title of the table.
        entries: towers or releases, the newest first.
        columns: key of an entry, its id first -> header of the column.
        right_from: as of show_table().
    """
    if not entries:
        return
    id_key, *keys = columns
    rows = []
    for entry in entries[:SHOWN]:
        cells = ["damaged", ""] if "error" in entry else [_cell(entry[key]) for key in keys]
        rows.append((entry[id_key], *cells))
    title = name if len(entries) <= SHOWN else f"{name}: the newest {SHOWN} of {len(entries)}; --json has all"
    show_table(title, tuple(columns.values()), rows, right_from)
    for entry in entries[:SHOWN]:
        if "error" in entry:  # beneath the table: a cell would fold it within its path
            console.print(f"{entry[id_key]}: {entry['error']}", markup=False, highlight=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return "not embedded"
    return f"{value:,}" if isinstance(value, int) else str(value)
