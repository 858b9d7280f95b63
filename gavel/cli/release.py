"""`gavel release list`, `status`, `rollback` and `drop`: the indices and releases of this machine, and how to go back."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from gavel.workspace.console import progress, show_table, show_values
from gavel.workspace.folders import ROLLBACK_FILE, Workspace, newest_first
from gavel.workspace.options import Json, print_json, report
from retrieval.config.settings import Settings
from retrieval.contracts.items import moment_of
from retrieval.contracts.release import INDEX_REJECTS_FILE, MANIFESTS, RECEIPT_FILE, load_release
from retrieval.errors import GavelError, InvalidInput
from retrieval.index.filters import Filter, utc_now
from retrieval.index.port import created_at, summary_of

REJECTS_SHOWN = 5

release_app = typer.Typer(no_args_is_help=True, help="Indices and releases: list, status, go back, drop.")


@release_app.command("list")
def list_releases(as_json: Json = False) -> None:
    """List the indices with tower, date, lots and size, which one is live and which one was before; then the releases."""
    from gavel.workspace.wiring import open_store

    settings = Settings.from_env()
    store = open_store(settings)
    previous = store.previous()
    indices: list[dict[str, Any]] = [
        {
            "name": index.name,
            "tower_id": index.tower_id,
            "created": created_at(index.name),
            "lots": index.items,
            "open_lots": index.open_items,
            "bytes": index.bytes,
            "live": index.is_live,
            "previous": index.name == previous,
        }
        for index in store.list_indices()
    ]
    indices.sort(key=lambda index: str(index["created"] or ""), reverse=True)
    releases = _releases(Workspace(settings))
    if as_json:
        print_json({"kind": settings.index, "indices": indices, "releases": releases})
        return
    show_values({str(index["name"]): _described(index) for index in indices})  # not a table, which would fold the names
    show_table(
        "Releases",
        ("release", "tower", "embedded", "state", "lots", "MB"),
        [
            (
                one["release_id"],
                one.get("tower_id", ""),
                _day(one["embedded"]),
                _state_of(one),
                "" if "error" in one else f"{one['lots']:,}",
                "" if "error" in one else f"{one['bytes'] / 1e6:,.1f}",
            )
            for one in releases
        ],
        right_from=4,
    )


@release_app.command()
def status(as_json: Json = False) -> None:
    """Show what the live index holds, how old its newest row is, and what the last indexing refused, with the reasons."""
    from gavel.workspace.wiring import open_store

    settings = Settings.from_env()
    workspace = Workspace(settings)
    live = open_store(settings).live()
    live.refresh()
    newest = live.newest_update()
    releases = _releases(workspace)
    last = max((one for one in releases if one.get("indexed")), key=lambda one: one["indexed"], default=None)
    values: dict[str, Any] = {
        "index": live.name,
        "kind": settings.index,
        "tower_id": live.tower_id,
        "lots": live.count(),
        "open_lots": live.count(Filter()),
        "damaged": live.damaged(),
        "newest_row": None if newest is None else moment_of(newest),
        "lag_s": None if newest is None else round(utc_now().timestamp() - newest / 1000),
        "releases": [one["release_id"] for one in releases if one.get("index") == live.name],
        "last_indexing": None if last is None else _last_indexing(workspace.embeddings / last["release_id"]),
    }
    if as_json:
        print_json(values)
        return
    lag = (
        "no row has updated_at" if newest is None else f"{values['newest_row']:%Y-%m-%d %H:%M:%S} UTC, {_age(values['lag_s'])} ago"
    )
    shown = {name: values[name] for name in ("index", "kind", "tower_id", "lots", "open_lots", "damaged")}
    shown |= {"newest row": lag, "releases": ", ".join(values["releases"]) or "not known"}
    if last is not None:
        counts = values["last_indexing"]["counts"]
        shown["last indexing"] = f"{last['release_id']}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}"
    show_values(shown)
    rejects = values["last_indexing"]["rejects"] if last is not None else []
    if rejects:
        rows = [(escape(one["item_id"]), escape(one["reason"])) for one in rejects[:REJECTS_SHOWN]]
        more = f": the first {REJECTS_SHOWN} of {len(rejects)}; --json has all" if len(rejects) > REJECTS_SHOWN else ""
        show_table(f"Refused{more}", ("lot", "reason"), rows, right_from=9)


@release_app.command()
def rollback(
    name: Annotated[
        str | None,
        typer.Argument(help="Index or release to go back to; the index that was live before by default."),
    ] = None,
    reranker: Annotated[
        bool, typer.Option("--reranker", help="Go back to the live tower's re-ranker before the present one instead.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also with far fewer open lots, a low recall or a lower quality than the live index.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Go back to an index, to a release of the same tower, or to the re-ranker before; `gavel serve` follows within seconds."""
    from gavel.workspace import pipeline
    from gavel.workspace.wiring import open_store

    settings = Settings.from_env()
    store = open_store(settings)
    live = store.live()
    if reranker:
        if name is not None:
            raise InvalidInput(f"--reranker goes back to the re-ranker before and takes no name; leave {name!r} out")
        path = pipeline.roll_back_ranker(settings, live.tower_id)
        report({"tower_id": live.tower_id, "reranker": str(path) if path else "none; first-stage order"}, as_json)
        return
    if name is None or name in store.names():
        target = pipeline.roll_back_index(settings, name, force=force)
        index = store.open_index(target)
        report({"index": target, "tower_id": index.tower_id, "previous": live.name, "lots": index.count()}, as_json)
        return
    try:
        release = Workspace(settings).release(Path(name))
    except InvalidInput as error:
        raise InvalidInput(f"{name!r} is no index (there are: {', '.join(store.names())}), and {error}") from error
    with progress("index lots") as step:
        built, left_out = pipeline.roll_back_release(settings, release, progress=step, force=force)
    out = [folder.name for folder in left_out]
    values = {"index": built.index, "tower_id": built.tower_id, "previous": live.name, "lots": built.lots}
    report({**values, "release": release.name, "left_out": out if as_json else ", ".join(out)}, as_json)


@release_app.command()
def drop(
    name: Annotated[str, typer.Argument(help="Name of the index, as `gavel release list` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first; needed where nobody can answer.")] = False,
    as_json: Json = False,
) -> None:
    """Delete an index that is not live. A rollback to it is then a rebuild."""
    from gavel.workspace.wiring import open_store

    store = open_store(Settings.from_env())
    index = summary_of(name, store.list_indices())
    if index.is_live:
        raise InvalidInput(f"index {name} is live; go back to another one by `gavel release rollback` before it is dropped")
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidInput(f"add --yes to delete {name}: there is no terminal to ask at")
        typer.confirm(f"Delete {name}?", abort=True, err=True)
    store.drop(name)
    report({"index": name, "lots": index.items}, as_json)


def _releases(workspace: Workspace) -> list[dict[str, Any]]:
    """Return the releases of a workspace, the newest first; a damaged one has its fault under "error"."""
    releases: list[dict[str, Any]] = []
    for folder in newest_first(workspace.embeddings, MANIFESTS):
        embedded = datetime.fromtimestamp(max(path.stat().st_mtime for path in folder.glob(MANIFESTS)), UTC)
        one: dict[str, Any] = {"release_id": folder.name, "embedded": embedded}
        try:
            manifest = load_release(folder)
        except GavelError as error:
            releases.append({**one, "error": str(error)})
            continue
        one |= {"tower_id": manifest.tower_id, "lots": manifest.lots, "bytes": sum(part.bytes for part in manifest.parts)}
        receipt = _receipt(folder)
        releases.append(
            {
                **one,
                "index": receipt.get("index"),
                "indexed": datetime.fromtimestamp((folder / RECEIPT_FILE).stat().st_mtime, UTC) if receipt else None,
                "rolled_back": (folder / ROLLBACK_FILE).exists(),
            }
        )
    return releases


def _receipt(folder: Path) -> dict[str, Any]:
    """Return the record of a release's last indexing; empty if there is none, or it cannot be read."""
    try:
        return dict(json.loads((folder / RECEIPT_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _last_indexing(folder: Path) -> dict[str, Any]:
    """Return what the last indexing of a release did: its counts, and the refused lots with their reasons."""
    receipt, path = _receipt(folder), folder / INDEX_REJECTS_FILE
    counts = {name: receipt[name] for name in ("indexed", "stale", "refused", "withdrawn") if name in receipt}
    rejects = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {"release_id": folder.name, "index": receipt.get("index"), "counts": counts, "rejects": rejects}


def _described(index: dict[str, Any]) -> str:
    mark = "live, " if index["live"] else "live before, " if index["previous"] else ""
    tower = f"tower {index['tower_id']}" if index["tower_id"] else "not made by Gavel"
    lots = "damaged" if index["lots"] is None else f"{index['lots']:,} lots, {index['open_lots']:,} of them open"
    return f"{mark}{tower}, made {_day(index['created'])}, {lots}, {index['bytes'] / 1e6:,.1f} MB"


def _state_of(release: dict[str, Any]) -> str:
    if "error" in release:
        return "damaged"
    if release["rolled_back"]:
        return "rolled back"
    return f"in {release['index']}" if release["index"] else "not indexed"


def _day(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if isinstance(moment, datetime) else ""


def _age(seconds: int) -> str:
    """Return a duration in its largest unit, such as "3 h"."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(0, seconds)} s"
