"""`gavel index [RELEASE]`, `gavel index info`, `probe`, `advise` and `compare`: build, show, measure or choose an index."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from benchmarks.cli.advise import advise
from benchmarks.cli.compare import compare
from gavel.workspace.console import progress
from gavel.workspace.entry import EXIT_ERROR, say, show_next
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, report
from retrieval.config.settings import Settings
from retrieval.contracts.release import INDEX_REJECTS_FILE, load_release
from retrieval.index.port import VectorIndex

DEFAULT = "build"


class _WithDefault(TyperGroup):
    """A command group with a default command: `gavel index RELEASE` runs `gavel index build RELEASE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        has_command = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if has_command else [DEFAULT, *args])


def index(
    release: Annotated[Path | None, typer.Argument(help="Release folder or release_id; the newest one by default.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build a new index from all releases of the live tower, or of RELEASE's tower.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write the release's lots even over newer ones; for repairs after wrong timestamps.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Make the index live although it has far fewer lots than the live one, or many lots were refused."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Index a release and make it live; with --rebuild, replace a damaged index by a new one."""
    from gavel.workspace import pipeline
    from gavel.workspace.wiring import open_store

    settings = Settings.from_env()
    folders = [Workspace(settings).release(release)] if release or not rebuild else []
    with progress("index lots") as step:
        if rebuild:
            tower_id = load_release(folders[0]).tower_id if folders else None
            built, folders = pipeline.rebuild(settings, tower_id, overwrite=overwrite, force=force, progress=step)
        else:
            built = pipeline.index(settings, folders[0], overwrite=overwrite, force=force, progress=step)
    releases = [folder.name for folder in folders]
    counts: dict[str, object] = {
        **({"releases": releases if as_json else ", ".join(releases)} if rebuild else {}),
        **built.upserts.counts,
        "lots": built.lots,
    }
    if built.upserts.rejected and not as_json:
        where = f"{INDEX_REJECTS_FILE} in the folders of the releases" if rebuild else folders[0] / INDEX_REJECTS_FILE
        counts["refused"] = f"{len(built.upserts.rejected)} ({where})"
    vectors = _vector_index(open_store(settings).live())
    head = {"index": built.index, "kind": settings.index, "tower_id": built.tower_id}
    fit = pipeline.measure_fit(Workspace(settings), folders[-1])
    shown = {"tower_fit": asdict(fit)} if as_json else {}
    report({**head, **counts, **vectors, "recall@10": built.recall_at_10, **shown}, as_json)
    warning = fit.warning(built.tower_id)
    if not as_json:
        show_next("serve --mode keyword" if warning else "serve")
    if warning:
        say(warning, style="yellow")


def info(as_json: Json = False) -> None:
    """Show the live index: its lots, its vector index, and why it has this type."""
    from gavel.workspace.wiring import open_store

    settings = Settings.from_env()
    live = open_store(settings).live()
    live.refresh()
    values = {"index": live.name, "kind": settings.index, "tower_id": live.tower_id, "lots": live.count()}
    report({**values, **_vector_index(live)}, as_json)


def _vector_index(live: VectorIndex) -> dict[str, object]:
    """Return the type of the vector index and its reason; nothing for OpenSearch, whose mapping sets it."""
    from retrieval.index.embedded.index import EmbeddedIndex
    from retrieval.index.embedded.sharding import ShardedIndex

    if not isinstance(live, EmbeddedIndex | ShardedIndex):
        return {}
    infos = live.describe_vectors()
    return {
        "vector_index": infos[0].spec,
        "reason": infos[0].reason,
        "trained": all(info.trained for info in infos),
        "vector_index_mb": round(sum(info.index_bytes for info in infos) / 1e6, 1),
        **({"shards": len(infos)} if len(infos) > 1 else {}),
    }


def probe(
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random sample of lots.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure recall@10 of the live index against exact search, over a random sample of its lots; exit status 1 below .95."""
    from gavel.workspace.wiring import open_store
    from retrieval.ingestion import MIN_RECALL, low_recall, probe_index

    live = open_store(Settings.from_env()).live()
    live.refresh()
    recall = probe_index(live, seed)
    report({"index": live.name, "tower_id": live.tower_id, "lots": live.count(), "recall@10": recall}, as_json)
    if recall < MIN_RECALL:
        say(low_recall(live.name, recall))
        raise typer.Exit(EXIT_ERROR)


index_app = typer.Typer(cls=_WithDefault, help="Index a release and make it live: `gavel index [RELEASE]`; measure or choose one.")
index_app.command(DEFAULT)(index)
index_app.command()(info)
index_app.command()(probe)
index_app.command()(advise)
index_app.command()(compare)
