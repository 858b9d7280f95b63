"""`gavel bench filters`: recall and latency of filtered vector searches."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gavel.workspace.console import console, notes, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, Seed, print_json
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from benchmarks.ann.filtered import FilteredResult, Row


def filters(
    lots: Annotated[int, typer.Option(min=1_000, help="Number of clustered vectors.")] = 100_000,
    dimensions: Annotated[int, typer.Option(min=8, help="Length of the vectors.")] = 128,
    spec: Annotated[
        list[str] | None, typer.Option(help="Index type, such as hnsw:m=16; hnsw, hnsw_sq8 and ivf_sq8 by default.")
    ] = None,
    share: Annotated[list[float] | None, typer.Option(help="Share of the lots that pass; .9 to .0001 by default.")] = None,
    queries: Annotated[int, typer.Option(min=2, help="Number of different queries, each with its own filters.")] = 100,
    k: Annotated[int, typer.Option("-k", help="Number of results in the table and the plot: 10 or 50.")] = 50,
    choosing: Annotated[
        bool, typer.Option("--choosing", help="Measure on the other queries, which may be used to choose thresholds.")
    ] = False,
    seed: Seed = 7,
    plot: Annotated[Path | None, typer.Option(help="PNG to write; <home>/reports/filters.png by default.")] = None,
    as_json: Json = False,
) -> None:
    """Measure searches under four kinds of filter, beside plain faiss and beside filtering afterwards."""
    from benchmarks.ann import filtered
    from benchmarks.ann.data import synthetic_vectors
    from benchmarks.ann.filtered_plot import plot as draw

    if k not in filtered.DEPTHS:
        raise InvalidInput(f"-k is {k}; measured are {' and '.join(map(str, filtered.DEPTHS))}")
    workspace = Workspace(Settings.from_env())
    data, source = synthetic_vectors(dimensions, 2 * queries, seed)
    vectors, all_queries = source(lots)
    with progress("build") as built, progress("ask") as step:
        result = filtered.run_benchmark(
            data,
            vectors,
            all_queries[:queries] if choosing else all_queries[queries:],
            workspace.benches / "filters" / f"{lots}x{dimensions}-{seed}",
            specs=spec or filtered.SPECS,
            fractions=share or filtered.FRACTIONS,
            on_built=built,
            on_query=step,
        )
    picture = draw(result, k, plot or workspace.reports / "filters.png")
    if as_json:
        print_json({**result.to_dict(), "plot": str(picture)})
        return
    _show(result, k)
    notes.print(f"picture: {picture}", style="dim", highlight=False, soft_wrap=True)


def _show(result: "FilteredResult", k: int) -> None:
    """Print recall and p50 of every system, one row per kind of filter and share."""
    rows = [row for row in result.rows if row.k == k]
    systems = list(dict.fromkeys(row.system for row in rows))
    cells = [
        (kind, f"{share:.2%}", *(_cell(result.row(system, kind, share, k)) for system in systems))
        for kind, share in dict.fromkeys((row.kind, row.share) for row in rows)
    ]
    show_table(f"{result.lots:,} x {result.data}: recall@{k}, p50 in ms", ("filter", "passes", *systems), cells, right_from=1)
    console.print(f"{result.queries} queries; {result.machine}", style="dim", highlight=False, soft_wrap=True)


def _cell(row: "Row") -> str:
    return f"{row.recall:.3f} {row.p50_ms:.2f}"
